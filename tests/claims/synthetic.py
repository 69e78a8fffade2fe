"""Made-up tables of a study whose effects are known exactly.

The spread over seeds is a fixed pattern of mean 0 and standard deviation 1 times `spread`, so that every
interval is the effect +- t(n - 1) * spread / sqrt(n): nothing is random.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from vestige.claims.verdicts import judge_study
from vestige.config import StudyConfig, parse_study
from vestige.runs.tables import SCHEMAS, conform

STEPS_PER_EPOCH = 4
EPOCHS = 25
LAST = STEPS_PER_EPOCH * EPOCHS
STEPS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 92, 96, 100)
EARLY_WINDOW = 12
WINDOWS = {
    "early": (0, 12),
    "mid": (16, 28),
    "late": (68, 80),
    "eta2-early": (0, 12),
    "permuted-eta2-early": (0, 12),
}
LAYERS = (("layer1.0", "layer1"), ("layer2.0", "layer2"), ("layer3.0", "layer3"))
NEURONS = 4
CLASSES = 10
FRACTIONS = (0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Effects:
    """The known truth of a synthetic study; the defaults support every clause.

    Attributes:
      csi: m at the steps of its corners, linear in between: initialisation, peak, a quarter of T, T.
      eta2: the same for eta2_adj.
      spread: standard deviation over seeds of the logarithm of peak and of every harm, area and share below.
      advantage: D early and at T, for `zero` and `mean`.
      midpoint: midpoint nonlinearity of the logits early and at T.
      kalimeris: the share early and at T; None: the measure is not there.
      harm: final accuracy that each condition costs.
      cut: share of m that each condition removes within its window.
      top1: final accuracy of the baseline.
    """

    csi: Mapping[int, float] = field(default_factory=lambda: {0: 0.10, 4: 0.24, 24: 0.14, LAST: 0.12})
    eta2: Mapping[int, float] = field(default_factory=lambda: {0: 0.10, 4: 0.30, 24: 0.20, LAST: 0.15})
    spread: Mapping[str, float] = field(default_factory=dict)
    advantage: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {"zero": (0.12, 0.02), "mean": (0.11, 0.03)}
    )
    midpoint: tuple[float, float] = (0.4, 0.7)
    kalimeris: tuple[float, float] | None = (0.9, 0.6)
    harm: Mapping[str, float] = field(
        default_factory=lambda: {
            "early": 0.06,
            "mid": 0.01,
            "late": 0.002,
            "eta2-early": 0.07,
            "permuted-eta2-early": 0.01,
        }
    )
    cut: Mapping[str, float] = field(default_factory=lambda: {"early": 0.9, "mid": 0.9, "late": 0.9})
    top1: float = 0.85


DEFAULT_SPREAD = {"csi": 0.05, "advantage": 0.01, "midpoint": 0.05, "kalimeris": 0.02, "harm": 0.005}


def make_study(
    effects: Effects | None = None, *, seeds: Sequence[int] = (0, 1, 2, 3, 4), **settings: Any
) -> tuple[StudyConfig, dict[str, pl.DataFrame]]:
    """A study and its tables: `selectivity`, `cumulative`, `linearity`, `history`.

    Args:
      effects: the truth; None: every claim is supported.
      seeds: of the study.
      settings: dotted-free top-level fields of the study laid over the defaults, `claims={...}`.
    """
    effects = effects or Effects()
    study = parse_study(_settings(seeds) | settings, source="a synthetic study")
    tables = {
        "selectivity": _selectivity(effects, seeds),
        "cumulative": _cumulative(effects, seeds),
        "linearity": _linearity(effects, seeds),
        "history": _history(effects, seeds),
    }
    return study, tables


def judged(effects=None, change=None, **settings):
    """Claims of a synthetic study by id; `change` maps kinds of table to functions of the table."""
    study, tables = make_study(effects, **settings)
    for kind, of in (change or {}).items():
        tables[kind] = of(tables[kind])
    return {claim["id"]: claim for claim in judge_study(study, tables)["claims"]}


def verdicts(claim):
    return {clause["id"].split(".", 1)[1]: clause["verdict"] for clause in claim["clauses"]}


def pattern(n: int, shift: int = 0) -> np.ndarray:
    """(n,) numbers of mean 0 and standard deviation 1 (ddof 1), rolled by `shift`; zeros for n = 1."""
    if n == 1:
        return np.zeros(1)
    x = np.arange(n) - (n - 1) / 2
    return np.roll(x / x.std(ddof=1), shift)


def at(corners: Mapping[int, float], step: int) -> float:
    """Linear interpolation between corners."""
    return float(np.interp(step, list(corners), list(corners.values())))


def _settings(seeds: Sequence[int]) -> dict[str, Any]:
    conditions = {"baseline": {}} | {
        name: {
            "interventions": [
                {
                    "kind": "eta2" if "eta2" in name else "selectivity",
                    "labels": "permuted" if "permuted" in name else "true",
                    "window": {"start": start, "stop": stop},
                }
            ]
        }
        for name, (start, stop) in WINDOWS.items()
    }
    return {
        "name": "synthetic",
        "recipe": {"epochs": EPOCHS},
        "conditions": conditions,
        "seeds": list(seeds),
        "claims": {"early_window": EARLY_WINDOW, "pilot_seeds": [90, 91]},
    }


def _spread(effects: Effects, name: str) -> float:
    return effects.spread.get(name, DEFAULT_SPREAD[name])


def _steps(condition: str) -> list[int]:
    """A late condition branches from its baseline and has rows from its onset on."""
    onset = WINDOWS.get(condition, (0, 0))[0]
    return [step for step in STEPS if step >= onset]


def _identity(condition: str, seed: int, step: int) -> dict[str, Any]:
    return {
        "condition": condition,
        "seed": seed,
        "step": step,
        "epoch": step / STEPS_PER_EPOCH,
        "protocol": "corrected",
        "dataset": "synthetic",
        "split": "test",
        "n": 100,
    }


def _selectivity(effects: Effects, seeds: Sequence[int]) -> pl.DataFrame:
    scales = np.exp(_spread(effects, "csi") * pattern(len(seeds)))
    rows: list[dict[str, Any]] = []
    for condition in ("baseline", *WINDOWS):
        for seed, scale in zip(seeds, scales, strict=True):
            for step in _steps(condition):
                m = _after_cut(effects, condition, step, at(effects.csi, step))
                # Only what happens around the peak differs between seeds: ends would cancel in the ratio.
                m *= scale if 0 < step <= 8 else 1.0
                rows += [row | _identity(condition, seed, step) for row in _neurons(m, at(effects.eta2, step))]
    frame = pl.DataFrame(rows)
    lacking = [name for name in SCHEMAS["selectivity"] if name not in frame.columns]
    return conform(frame.with_columns(pl.lit(None).alias(name) for name in lacking), "selectivity")


def _after_cut(effects: Effects, condition: str, step: int, m: float) -> float:
    start, stop = WINDOWS.get(condition, (0, 0))
    return m * (1 - effects.cut.get(condition, 0.0)) if start < step <= stop else m


def _neurons(m: float, eta2: float) -> list[dict[str, Any]]:
    """Living neurons around m, a dead one, and a last stage that must not count."""
    rows = []
    for (layer, stage), level in zip(LAYERS, (0.8, 1.2, 9.0), strict=True):
        for neuron in range(NEURONS):
            tilt = 1 + 0.1 * (neuron - (NEURONS - 1) / 2)
            csi = m * level * tilt
            rows.append(
                {
                    "layer": layer,
                    "stage": stage,
                    "neuron": neuron,
                    "csi": csi + 0.05,
                    "csi_null_mean": 0.05,
                    "csi_null_q95": 0.08,
                    "csi_excess": csi,
                    "csi_cv": csi,
                    "reliability": 0.9,
                    "eta2": eta2 * tilt,
                    "eta2_adj": eta2 * tilt,
                    "sparsity": 0.5,
                    "closed": 0.4,
                    "p_value": 0.01,
                    "preferred_class": (2 * neuron) % CLASSES,
                    "second_class": CLASSES - 1 - neuron,
                    "mu_max": 1.0,
                    "mu_rest": 0.5,
                    "mean": 0.55,
                    "dead": False,
                }
            )
        dead = rows[-1] | dict.fromkeys(("csi", "csi_cv", "csi_excess", "eta2", "eta2_adj", "mean"), 0.0)
        rows.append(dead | {"neuron": NEURONS, "dead": True})
    return rows


def _cumulative(effects: Effects, seeds: Sequence[int]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    noise = _spread(effects, "advantage") * pattern(len(seeds))
    for seed, z in zip(seeds, noise, strict=True):
        for step in STEPS:
            for value, (early, final) in effects.advantage.items():
                d = early + z if step < EARLY_WINDOW else final
                rows += [
                    row | {"value": value} | _identity("baseline", seed, step) for row in _ablation_curves(step, d)
                ]
    return conform(pl.DataFrame(rows), "cumulative")


def _ablation_curves(step: int, d: float) -> list[dict[str, Any]]:
    """Curves at 0, 1/2, 1 with areas 1/4 + height/2: mean heights at 1/2 of 0.6 and 0.6 - 2 d."""
    top1 = 0.15 if step < 2 else 0.7  # the first two checkpoints are not judgeable
    rows = []
    for scope, by in (("layer1", 1.2), ("layer2", 0.8), ("layer3", -5.0), ("all", 7.0)):
        for order, heights in (
            ("csi-desc", (0.6 - 2 * d * by,)),
            ("activity-matched", (0.55, 0.6, 0.65)),
            ("random", (0.7, 0.72, 0.74)),
        ):
            for draw, height in enumerate(heights):
                for fraction, h in zip(FRACTIONS, (1.0, height, 0.0), strict=True):
                    accuracy = 1 / CLASSES + h * (top1 - 1 / CLASSES)
                    rows.append(
                        {
                            "scope": scope,
                            "order": order,
                            "draw": draw,
                            "fraction": fraction,
                            "top1": accuracy,
                            "loss": 1.0,
                        }
                    )
    return rows


def _linearity(effects: Effects, seeds: Sequence[int]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    z = pattern(len(seeds))
    for k, seed in enumerate(seeds):
        for step in STEPS:
            early = step < EARLY_WINDOW
            identity = _identity("baseline", seed, step) | {"other": "", "layer": "logits", "anchor": 0.0}
            low, high = effects.midpoint
            middle = low if early else high * math.exp(_spread(effects, "midpoint") * z[k])
            rows.append(identity | {"measure": "midpoint", "value": middle})
            rows.append(identity | {"measure": "midpoint", "layer": "layer1.0", "value": 99.0})
            rows.append(identity | {"measure": "cka", "layer": "layer1.0", "other": "logits", "value": 0.5})
            if effects.kalimeris is not None:
                share = effects.kalimeris[0] + _spread(effects, "kalimeris") * z[k] if early else effects.kalimeris[1]
                share = math.nan if step == 0 else share  # an untrained network knows too little to say
                rows.append(identity | {"measure": "kalimeris", "value": share})
    return conform(pl.DataFrame(rows), "linearity")


def _history(effects: Effects, seeds: Sequence[int]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for shift, condition in enumerate(("baseline", *WINDOWS)):
        noise = _spread(effects, "harm") * pattern(len(seeds), shift) if shift else np.zeros(len(seeds))
        for z, seed in zip(noise, seeds, strict=True):
            final = effects.top1 - effects.harm.get(condition, 0.0) - z
            for step in _steps(condition):
                # The last three average to `final`; before them accuracy grows from chance.
                tail = {92: 0.01, 96: -0.01, 100: 0.0}
                top1 = final + tail[step] if step in tail else 0.1 + (final - 0.1) * math.sqrt(step / LAST)
                row = {
                    "condition": condition,
                    "seed": seed,
                    "step": step,
                    "epoch": step / STEPS_PER_EPOCH,
                    "loss": 2.3 - top1,
                    "top1": top1,
                    "top5": min(1.0, top1 + 0.1),
                    "lr": 0.1,
                }
                rows += [row | {"split": "test"}, row | {"split": "train", "top1": 0.999}]
    return conform(pl.DataFrame(rows), "history")
