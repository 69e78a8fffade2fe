"""Simulate layers of known selectivity, measure them with vestige's formulas, and write the tables of the docs.

python docs/explanation/selectivity_statistics.py

Shapes: N images, U neurons (units), C classes, P permutations, D data sets.
"""

import math
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from vestige.formulas.detection import cross_validated_detection
from vestige.formulas.information import mutual_information
from vestige.formulas.null import labellings
from vestige.formulas.selectivity import (
    adjusted_eta2,
    cross_validated_csi,
    discoveries,
    eta2_from_moments,
    layer_p_values,
    means_from_sums,
)

PAGE = Path(__file__).with_name("selectivity-statistics.md")
RATES = (0.02, 0.1, 0.5)
EFFECTS = (1, 3, 10)
STRONG = 20
NULL, CORRELATED, PLANTED, SELECTIVE = 96, 48, 12, 144  # neurons of each kind, a third at each rate
MEASURES = ("csi", "csi_excess", "csi_cv", "eta2", "eta2_adj", "auroc", "informedness", "mutual_information")


@dataclass(frozen=True)
class Setting:
    """How many of what to simulate."""

    classes: int
    images: int  # a class
    permutations: int = 100
    datasets: int = 200

    def __str__(self) -> str:
        return f"{self.classes} classes of {self.images} images"


@dataclass(frozen=True)
class Outcome:
    """What was measured: p values by permutations and layer, (D, U), and of the rest see `simulate`."""

    setting: Setting
    p: dict[tuple[int, str], np.ndarray]
    measures: dict[str, np.ndarray]
    preferred_right: dict[str, np.ndarray]

    def flags(self, layer: str, permutations: int) -> np.ndarray:
        """Which neurons are found in each data set, the layer being all there is, (D, U)."""
        return np.array([discoveries(torch.from_numpy(p_U)).numpy() for p_U in self.p[permutations, layer]])


def rates_of(layer: str) -> np.ndarray:
    """The firing rate of every neuron of a layer, those that are not planted first."""
    if layer in LAYERS_OF_ONE_RATE:
        return np.full(NULL // 3, LAYERS_OF_ONE_RATE[layer])
    sizes = {"mixed": (NULL,), "correlated": (CORRELATED,), "beside selective": (CORRELATED, SELECTIVE)}
    return np.concatenate([np.repeat(RATES, n // 3) for n in sizes.get(layer, (NULL, PLANTED))])


LAYERS_OF_ONE_RATE = {f"{rate:.0%} alone": rate for rate in RATES}
POOLED = ", pooled whole"
NULL_LAYERS = (*LAYERS_OF_ONE_RATE, "mixed", "correlated", "beside selective")


def without_signal(layer: str) -> int:
    """How many of a layer's neurons are not planted; they come first."""
    return {"mixed": NULL, "correlated": CORRELATED, "beside selective": CORRELATED}.get(
        layer, NULL // 3 if layer in LAYERS_OF_ONE_RATE else NULL
    )


def simulate(setting: Setting, seed: int = 0) -> Outcome:
    """Independent data sets, each with its own images, labels' permutations and planted classes.

    A neuron fires for a share of the images, its rate, and then exponentially strongly; a planted one's mean for
    its class is 1 + effect times that for the others: it fires more often there and, where always, more strongly.
    The neurons of the layer "correlated" are rectified Gaussians that share half their variance.
    `Outcome.measures` hold every measure of the layer "mixed"; `Outcome.preferred_right`, by layer with planted
    neurons, where the highest class mean is that of the planted class.
    """
    p: dict[tuple[int, str], list[np.ndarray]] = {}
    measures: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
    right: dict[str, list[np.ndarray]] = {}
    for number in range(setting.datasets):
        rng = np.random.default_rng([seed, setting.classes, setting.images, number])
        _simulate_one(setting, rng, p, measures, right)
    measured, preferred = ({k: np.array(v) for k, v in found.items()} for found in (measures, right))
    return Outcome(setting, {k: np.array(v) for k, v in p.items()}, measured, preferred)


def _simulate_one(setting: Setting, rng: np.random.Generator, p: dict, measures: dict, right: dict) -> None:
    n, classes = setting.classes * setting.images, setting.classes
    labels_N = np.arange(n) % classes
    labels_QN = np.stack([labels_N, *(rng.permutation(labels_N) for _ in range(setting.permutations))])
    null_NU, correlated_NU = _firing(rng, n, NULL), _correlated(rng, n)
    kinds = {f"effect {effect}": _planted(rng, labels_N, classes, PLANTED, effect) for effect in EFFECTS}
    kinds["strong"] = _planted(rng, labels_N, classes, SELECTIVE, STRONG)
    parts = [null_NU, correlated_NU, *(a_NU for a_NU, _ in kinds.values())]
    csi_QU = labellings(torch.from_numpy(labels_QN), classes).csi(torch.from_numpy(np.concatenate(parts, axis=1)))
    null_QU, correlated_QU, *planted_QU = csi_QU.split([part.shape[1] for part in parts], dim=1)

    layers = {"mixed": null_QU, "correlated": correlated_QU}
    layers |= {
        name: null_QU[:, torch.from_numpy(rates_of("mixed") == rate)] for name, rate in LAYERS_OF_ONE_RATE.items()
    }
    few = np.arange(NULL) % (NULL // 3) < CORRELATED // 3
    layers["beside selective"] = torch.cat([null_QU[:, torch.from_numpy(few)], planted_QU[-1]], dim=1)
    layers |= {kind: torch.cat([null_QU, of_it_QU], dim=1) for kind, of_it_QU in zip(kinds, planted_QU, strict=True)}
    del layers["strong"]
    for permutations in (setting.permutations, 20):
        for layer, index_QU in layers.items():
            p_U = layer_p_values(index_QU[0], index_QU[1 : 1 + permutations])
            p.setdefault((permutations, layer), []).append(p_U.numpy())
            pooled_U = _pooled(index_QU[: 1 + permutations].numpy())
            p.setdefault((permutations, layer + POOLED), []).append(pooled_U)
    for name, column_U in _measures(null_NU, labels_N, classes, null_QU).items():
        measures[name].append(column_U.numpy())
    for kind, (a_NU, class_U) in kinds.items():
        sums_CU, _ = _sums(torch.from_numpy(a_NU), torch.from_numpy(labels_N), classes)  # of classes of one size
        right.setdefault(kind, []).append(sums_CU.argmax(0).numpy() == class_U)


def _pooled(index_QU: np.ndarray) -> np.ndarray:
    """P-values as they would be without strata, each neuron standardised with its observed value."""
    varies_U = index_QU.std(0) > 1e-12
    varying_QU = index_QU[:, varies_U]
    z_QU = (varying_QU - varying_QU.mean(0)) / varying_QU.std(0, ddof=1)
    pool = np.sort(z_QU[1:], axis=None)
    p_U = np.ones(len(varies_U))
    p_U[varies_U] = (1 + len(pool) - np.searchsorted(pool, z_QU[0] - 1e-9)) / (1 + len(pool))
    return p_U


def _firing(rng: np.random.Generator, n: int, units: int) -> np.ndarray:
    fires_NU = rng.random((n, units)) < np.repeat(RATES, units // 3)
    return rng.exponential(size=(n, units)) * fires_NU


def _correlated(rng: np.random.Generator, n: int) -> np.ndarray:
    z_NU = math.sqrt(0.5) * (rng.normal(size=(n, 1)) + rng.normal(size=(n, CORRELATED)))
    return np.maximum(z_NU - scipy.stats.norm.isf(np.repeat(RATES, CORRELATED // 3)), 0)


def _planted(
    rng: np.random.Generator, labels_N: np.ndarray, classes: int, units: int, effect: float
) -> tuple[np.ndarray, np.ndarray]:
    class_U, rate_U = rng.integers(0, classes, units), np.repeat(RATES, units // 3)
    inside_NU = labels_N[:, None] == class_U
    often_NU = np.minimum(1, rate_U * (1 + effect * inside_NU))
    stronger_NU = rate_U * (1 + effect * inside_NU) / often_NU
    fires_NU = rng.random(inside_NU.shape) < often_NU
    return rng.exponential(size=inside_NU.shape) * stronger_NU * fires_NU, class_U


def _sums(a: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    sums_CU = a.new_zeros(classes, a.shape[1]).index_add_(0, labels, a)
    return sums_CU, labels.bincount(minlength=classes)


def _measures(a_NU: np.ndarray, labels_N: np.ndarray, classes: int, csi_QU: torch.Tensor) -> Mapping[str, torch.Tensor]:
    a, labels = torch.from_numpy(a_NU), torch.from_numpy(labels_N)
    half_N = torch.arange(len(labels)) // classes % 2  # alternate images of each class
    means = [means_from_sums(*_sums(a[half_N == half], labels[half_N == half], classes)) for half in (0, 1)]
    auroc_U, informedness_U = cross_validated_detection(a, labels, half_N, *means)
    eta2_U = eta2_from_moments(*_sums(a, labels, classes), a.square().sum(0))
    return {
        "csi": csi_QU[0],
        "csi_excess": csi_QU[0] - csi_QU[1:].mean(0),
        "csi_cv": cross_validated_csi(*means),
        "eta2": eta2_U,
        "eta2_adj": adjusted_eta2(eta2_U, len(labels), classes),
        "auroc": auroc_U,
        "informedness": informedness_U,
        "mutual_information": mutual_information(a, labels, classes),
    }


def uniformity(outcome: Outcome, layer: str, rate: float, permutations: int) -> float:
    """Kolmogorov-Smirnov test of one neuron's p-values over the data sets, at a firing rate: its p-value."""
    neuron = int(np.flatnonzero(rates_of(layer) == rate)[0])
    return float(scipy.stats.kstest(outcome.p[permutations, layer][:, neuron], "uniform").pvalue)


def false_discovery_rate(outcome: Outcome, layer: str, permutations: int) -> np.ndarray:
    """Share of each data set's found neurons that are not planted, 0 where none is found, (D,)."""
    flags_DU = outcome.flags(layer, permutations)
    false_D = flags_DU[:, : without_signal(layer)].sum(1)
    return false_D / np.maximum(flags_DU.sum(1), 1)


def bias_table(outcomes: list[Outcome]) -> list[str]:
    """Mean of every measure where there is no signal."""
    lines = ["| | fires for | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 2) + "|"]
    for outcome in outcomes:
        for rate in RATES:
            at = rates_of("mixed") == rate
            means = " | ".join(f"{outcome.measures[name][:, at].mean():.3f}" for name in MEASURES)
            lines.append(f"| {outcome.setting} | {rate:.0%} | {means} |")
    return lines


def calibration_table(outcomes: list[Outcome]) -> list[str]:
    """How p-values are distributed where there is no signal."""
    lines = [
        "| | P | layer | fires for | uniform? (KS p) | p <= 0.5 | p <= 0.05 | p <= 0.01 | any flag in the layer |",
        "|---" * 9 + "|",
    ]
    for outcome in outcomes:
        for permutations in (outcome.setting.permutations, 20):
            for layer in NULL_LAYERS:
                lines += _calibration(outcome, layer, permutations)
    return lines


def _calibration(outcome: Outcome, layer: str, permutations: int) -> list[str]:
    rates_U = rates_of(layer)[: without_signal(layer)]
    any_flag = outcome.flags(layer, permutations).any(1).mean()
    flagged = "" if layer == "beside selective" else f"{any_flag:.3f}"
    lines = []
    for rate in np.unique(rates_U):
        p_DU = outcome.p[permutations, layer][:, : len(rates_U)][:, rates_U == rate]
        shares = " | ".join(f"{(p_DU <= level).mean():.3f}" for level in (0.5, 0.05, 0.01))
        test = f"{uniformity(outcome, layer, rate, permutations):.3f}"
        lines.append(f"| {outcome.setting} | {permutations} | {layer} | {rate:.0%} | {test} | {shares} | {flagged} |")
    return lines


def pooling_table(outcomes: list[Outcome]) -> list[str]:
    """How often p <= 0.01 in strata, and pooling whole layers with the observed values."""
    lines = ["| | P | layer | fires for | in strata | pooled whole |", "|---" * 6 + "|"]
    for outcome in outcomes:
        for permutations in (outcome.setting.permutations, 20):
            for layer in ("mixed", "beside selective"):
                for rate in RATES:
                    at = np.flatnonzero(rates_of(layer)[: without_signal(layer)] == rate)
                    both = (outcome.p[permutations, layer + how][:, at] for how in ("", POOLED))
                    shares = " | ".join(f"{(p_DU <= 0.01).mean():.4f}" for p_DU in both)
                    lines.append(f"| {outcome.setting} | {permutations} | {layer} | {rate:.0%} | {shares} |")
    return lines


def power_table(outcomes: list[Outcome]) -> list[str]:
    """Share of planted neurons found, and what else is found with them."""
    rates = " | ".join(f"found at {rate:.0%}" for rate in RATES)
    lines = [f"| | P | effect | {rates} | false discoveries | class right if found |", "|---" * 8 + "|"]
    for outcome in outcomes:
        for permutations in (outcome.setting.permutations, 20):
            for effect in EFFECTS:
                layer = f"effect {effect}"
                found_DU = outcome.flags(layer, permutations)[:, NULL:]
                at = rates_of(layer)[NULL:]
                power = " | ".join(f"{found_DU[:, at == rate].mean():.2f}" for rate in RATES)
                right = outcome.preferred_right[layer][found_DU]
                right_share = f"{right.mean():.3f}" if right.size else "none found"
                rate_of_false = false_discovery_rate(outcome, layer, permutations).mean()
                lines.append(
                    f"| {outcome.setting} | {permutations} | {effect} | {power} | {rate_of_false:.3f} | {right_share} |"
                )
    return lines


def main() -> None:
    """Write every table between its markers in the page."""
    outcomes = [simulate(setting) for setting in SETTINGS]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("vestige", "torch", "numpy", "scipy"))
    about = [
        f"{date.today().isoformat()}; Python {platform.python_version()}, {libraries}; "
        f"{SETTINGS[0].datasets} data sets a row; seed 0."
    ]
    tables = {
        "about": about,
        "bias": bias_table(outcomes),
        "calibration": calibration_table(outcomes),
        "pooling": pooling_table(outcomes),
        "power": power_table(outcomes),
    }
    page = PAGE.read_text()
    for name, lines in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        text = "\n".join([begin, "", *lines, "", end])
        page, found = re.subn(f"{begin}.*?{end}", lambda _, text=text: text, page, flags=re.DOTALL)
        assert found == 1, f"{PAGE.name} has no place for {name}"
    PAGE.write_text(page)


SETTINGS = (Setting(10, 100), Setting(1000, 10))

if __name__ == "__main__":
    sys.exit(main())
