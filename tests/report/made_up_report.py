# ruff: noqa: E501
"""A made-up study of the default's size: rising and receding selectivity, two branches, known numbers."""

import math
from typing import Any

import numpy as np
import polars as pl

from vestige.config import StudyConfig, parse_study
from vestige.runs.manifest import Artifact, Manifest
from vestige.runs.tables import SCHEMAS, conform

STEPS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 88, 92, 96, 100)
LAYERS = (("layer1", "layer1.0", 16), ("layer2", "layer2.0", 32), ("layer3", "layer3.0", 64))
CONDITIONS = ("baseline", "early", "mid", "late", "always", "eta2-early", "permuted-eta2-early")
ONSETS = {"mid": 32, "late": 64}
CLASSES = 10


def made_up_study(seeds: tuple[int, ...] = (0, 1, 2, 3, 4), **settings: Any) -> StudyConfig:
    windows = {"early": (0, 12), "mid": (32, 44), "late": (64, 76), "always": (0, None)}
    conditions: dict[str, Any] = {"baseline": {"description": "no intervention"}}
    for name in CONDITIONS[1:]:
        start, stop = windows.get(name, (0, 12))
        conditions[name] = {"interventions": [{
            "kind": "eta2" if "eta2" in name else "selectivity",
            "labels": "permuted" if "permuted" in name else "true",
            "window": {"start": start, "stop": stop},
        }]}  # fmt: skip
    base = {
        "name": "made-up",
        "description": "A study that nobody ran: its tables are made up, to look at the report.",
        "conditions": conditions,
        "seeds": list(seeds),
        "claims": {"early_window": 12, "pilot_seeds": [100, 101]},
        "recipe": {"epochs": 25},
    }
    return parse_study(base | settings, source="a made-up study")


def made_up_tables(study: StudyConfig, steps: tuple[int, ...] = STEPS) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(0)
    kinds = {
        "selectivity": _selectivity,
        "ablation": _ablation,
        "cumulative": _cumulative,
        "linearity": _linearity,
        "history": _history,
    }
    found: dict[str, list[pl.DataFrame]] = {kind: [] for kind in kinds}
    for condition in study.conditions:
        for seed in study.seeds:
            for step in steps:
                if step <= ONSETS.get(condition, -1):
                    continue
                for kind, make in kinds.items():
                    if kind in ("ablation", "cumulative", "linearity") and condition != "baseline":
                        continue
                    found[kind].append(make(condition, seed, step, rng))
    return {kind: pl.concat(frames) for kind, frames in found.items()}


def made_up_manifests(study: StudyConfig) -> dict[tuple[str, int], Manifest]:
    made = {
        "when": "2026-11-23T05:00:00+00:00",
        "versions": {"python": "3.12.1", "vestige": "0.1.0", "torch": "2.15.0", "numpy": "2.4.6"},
        "hardware": {"processor": "A processor", "cores": 2, "machine": "x86_64", "system": "Linux 6.1"},
    }
    whole = {step: (step / 4, Artifact("k", 1000, "0" * 64, 0.0)) for step in STEPS}
    return {
        (condition, seed): Manifest(
            key="k", complete=True, seconds=7.5, made=made, checkpoints=whole,
            artifacts={"selectivity-corrected-test/step-00000000.parquet": Artifact("k", 1, "0", 0.5)},
            parent={"condition": "baseline", "seed": seed, "step": ONSETS[condition], "sha256": "0"} if condition in ONSETS else None,
        )
        for condition in study.conditions
        for seed in study.seeds
    }  # fmt: skip


CLAIMS = (
    ("C1", "Emergence", "Class-selective neurons emerge early in training, then recede rapidly but not completely",
     "Mean csi_cv at its peak is 1.61 times that at initialisation and 1.37 times that at the end.", "supported"),
    ("C2", "Importance", "Ablating class-selective neurons harms the network early in training, and much less later",
     "The claim is not supported: ablating class-selective neurons early takes 0.012 more of the area than activity-matched ones.",
     "not supported"),
    ("C3", "Linearity", "The network is close to a linear regime early in training",
     "More linear, not shown to be close to linear. The claim stays open: the Kalimeris share is not measured yet.", "inconclusive"),
    ("C4", "Causality", "Suppressing selectivity from the start harms the final accuracy; only later it hardly does",
     "The claim is contradicted: 'early' costs -3.1 points of final accuracy.", "contradicted"),
)  # fmt: skip
CLAUSES = (
    ("C1.rise", "ln ratio", "ln m(t*)/m(0)", math.log(1.2), 0.476, 0.11, "supported"),
    ("C1.fall", "ln ratio", "ln m(t*)/m(T)", math.log(1.2), 0.315, 0.09, "supported"),
    ("C1.rapid", "csi_cv", "(m(t*) + m(T))/2 - m(0.25 T)", 0.0, 0.021, 0.008, "supported"),
    ("C1.remains", "csi_cv", "m(T)", 0.02, 0.141, 0.02, "supported"),
    ("C2.early.zero", "area", "D(early), ablated to zero", 0.05, 0.012, 0.02, "not supported"),
    ("C2.change.zero", "area", "D(early) - D(T), ablated to zero", 0.05, 0.03, 0.05, "inconclusive"),
    ("C3.a", "ln ratio", "ln midpoint-logit(T)/midpoint-logit(early)", math.log(1.25), 0.31, 0.08, "supported"),
    ("C3.b.level", "share", "Kalimeris share(early)", 0.8, None, 0, "not measured"),
    ("C4.a", "accuracy", "H(early)", 0.02, -0.031, 0.009, "contradicted"),
    ("C4.b", "accuracy", "H(late)", 0.02, 0.004, 0.006, "supported"),
    ("C4.c", "accuracy", "H(early) - H(mid)", 0.02, 0.008, 0.016, "inconclusive"),
    ("C4.d", "accuracy", "H(eta2-early) - H(permuted-eta2-early)", 0.01, 0.043, 0.012, "supported"),
)
"""Identity, unit, statistic, smallest effect, estimate and half its interval, verdict."""
BESIDE = {
    "statistic": "ln eta2_adj(t*)/eta2_adj(T)",
    "unit": "ln ratio",
    "estimate": 0.02,
    "low": -0.05,
    "high": 0.09,
    "note": "",
}


def made_up_claims(study: StudyConfig) -> dict[str, Any]:
    """Each verdict once; numbers of C4 by hand."""
    claims = [
        {
            "id": name, "title": title, "statement": statement, "sentence": sentence, "verdict": verdict,
            "p_value": 0.01, "p_holm": 0.031, "note": "",
            "clauses": [_clause(*row, seeds=list(study.seeds)) for row in CLAUSES if row[0].startswith(name)],
            "beside": [BESIDE] if name == "C1" else [],
        }
        for name, title, statement, sentence, verdict in CLAIMS
    ]  # fmt: skip
    return {"version": 1, "note": "", "claims": claims}


def _clause(
    name: str,
    unit: str,
    statistic: str,
    d: float,
    estimate: float | None,
    half: float,
    verdict: str,
    *,
    seeds: list[int],
) -> dict[str, Any]:
    values = [] if estimate is None else [estimate + half * x for x in np.linspace(-0.7, 0.7, len(seeds)).tolist()]
    return {
        "id": name, "statistic": statistic, "unit": unit, "direction": "below" if name == "C4.b" else "at least",
        "smallest_effect": d, "estimate": estimate, "low": None if estimate is None else estimate - half,
        "high": None if estimate is None else estimate + half, "seeds": seeds if values else [], "values": values,
        "verdict": verdict, "note": "" if values else "the measure comes with a later version",
        "p_value": None if estimate is None else 0.004,
    }  # fmt: skip


def _identity(condition: str, seed: int, step: int) -> dict[str, Any]:
    return {"condition": condition, "seed": seed, "step": step, "epoch": step / 4, "protocol": "corrected", "dataset": "digits",
            "split": "test", "n": 1297}  # fmt: skip


def _neurons() -> dict[str, list[Any]]:
    rows = [(stage, layer, n) for stage, layer, units in LAYERS for n in range(units)]
    return {"stage": [r[0] for r in rows], "layer": [r[1] for r in rows], "neuron": [r[2] for r in rows]}


def _wave(step: int) -> float:
    rise = 1 - math.exp(-step / 1.5)
    return 0.14 + 0.15 * rise * math.exp(-max(step - 4, 0) / 14) + 0.02 * rise


def _selectivity(condition: str, seed: int, step: int, rng: np.random.Generator) -> pl.DataFrame:
    neurons = _neurons()
    count = len(neurons["neuron"])
    depth = np.array([int(stage[-1]) for stage in neurons["stage"]])
    cut = 0.15 if condition in ("early", "always") and step else 1.0
    csi = np.clip(
        cut * (_wave(step) + 0.04 * depth * (step > 0) * min(step, 50) / 50) + rng.normal(0, 0.05, count) + 0.01 * seed,
        0,
        1,
    )
    null = 0.08 + 0.02 * depth
    rows = neurons | {
        "csi": csi, "csi_null_mean": null, "csi_null_q95": null + 0.04, "csi_excess": csi - null, "csi_cv": csi - 0.06,
        "reliability": np.full(count, 0.9), "eta2": 0.14 + 0.16 * (1 - math.exp(-step / 6)) + 0.02 * depth + rng.normal(0, 0.02, count),
        "eta2_adj": np.full(count, 0.1), "sparsity": np.full(count, 0.5), "closed": np.clip(0.3 + 0.05 * depth + rng.normal(0, 0.02, count), 0, 1),
        "p_value": np.full(count, 0.01), "preferred_class": np.arange(count) % CLASSES, "second_class": (np.arange(count) + 1) % CLASSES,
        "mu_max": csi, "mu_rest": csi / 2, "mean": csi, "dead": np.arange(count) == 5,
        "selective": csi > 0.2, "auroc": np.full(count, 0.7), "informedness": np.full(count, 0.3), "precision_at_k": np.full(count, 0.4),
        "k": np.full(count, 20), "mutual_information": np.full(count, 0.2), "rectify": ["none"] * count, "mode": ["exact"] * count,
    }  # fmt: skip
    rows |= {name: rows[name] for name in SCHEMAS["selectivity"] if name in rows}
    return conform(pl.DataFrame(rows), "selectivity", **_identity(condition, seed, step))


def _ablation(condition: str, seed: int, step: int, rng: np.random.Generator) -> pl.DataFrame:
    neurons = _neurons()
    count = len(neurons["neuron"])
    frames = []
    for value, size in (("zero", 0.03), ("mean", 0.02)):
        delta = np.abs(rng.normal(0, size, count)) - 0.004
        rows = neurons | {
            "value": [value] * count, "mode": ["exact"] * count, "loss_delta": delta, "loss_delta_se": np.full(count, 0.001),
            "approximation_se": np.zeros(count), "top1_delta": -delta / 3, "right_to_wrong": np.zeros(count), "wrong_to_right": np.zeros(count),
            "preferred_class": np.arange(count) % CLASSES, "preferred_delta": -delta, "others_delta": -delta / 10,
        }  # fmt: skip
        frames.append(conform(pl.DataFrame(rows), "ablation", **_identity(condition, seed, step)))
    return pl.concat(frames)


def top1_at(step: int, seed: int) -> float:
    return 0.1 + 0.83 * (1 - math.exp(-step / 9)) + 0.004 * seed


def _cumulative(condition: str, seed: int, step: int, rng: np.random.Generator) -> pl.DataFrame:
    start, rows = top1_at(step, seed), []
    for value in ("zero", "mean"):
        for order, draws in (("csi-desc", 1), ("activity-matched", 5), ("random", 5)):
            power = {"csi-desc": 2.6 - 1.1 * min(step, 40) / 40, "activity-matched": 1.5, "random": 1.0}[order] * (
                0.8 if value == "mean" else 1
            )
            for scope in ("layer1", "layer2", "layer3"):
                for draw in range(draws):
                    for fraction in np.linspace(0, 1, 17).tolist():
                        left = (1 - fraction) ** (power + 0.05 * draw + 0.03 * seed)
                        rows.append((order, scope, value, draw, fraction, 0.1 + (start - 0.1) * left, 2.3 - left))
    names = ["order", "scope", "value", "draw", "fraction", "top1", "loss"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    return conform(frame, "cumulative", **_identity(condition, seed, step))


def _linearity(condition: str, seed: int, step: int, rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for place, depth in (("layer1.0", 1), ("layer2.0", 2), ("layer3.0", 3), ("logits", 4)):
        rows.append(("midpoint", place, "", 0.2 * depth + 0.6 * math.exp(-step / 8) + 0.01 * seed, 0.0))
        if place != "logits":
            rows.append(("cka", place, "logits", 0.3 + 0.15 * depth + 0.1 * (1 - math.exp(-step / 10)), 0.9))
            rows.append(("cka", place, "input", 0.8 - 0.15 * depth - 0.1 * (1 - math.exp(-step / 10)), 0.95))
        if place != "logits":
            rows.append(("gate-churn", place, "", 0.1 + 0.05 * depth, 0.0))
            rows.append(("gate-churn-independent", place, "", 0.4, 0.0))
            rows.append(("ridge-flattened", place, "", 0.4 + 0.1 * depth, 1.0))
            rows.append(("ridge-pooled", place, "", 0.3 + 0.1 * depth, 0.8))
    rows.append(("ridge-flattened", "input", "", 0.35, 1.0))
    rows += [
        ("kalimeris", "logits", "", 0.6 + 0.3 * math.exp(-step / 8), math.nan),
        ("kalimeris-information", "logits", "", 1.2, 0.05),
        ("kalimeris-unexplained", "logits", "", 0.3, 0.01),
        ("kalimeris-groups", "logits", "", 6.0, 6.0),
        ("kalimeris-linear-top1", "logits", "", 0.402, 0.402),
    ]
    rows.append(("cka", "layer1.0", "layer2.0", 0.7, 0.9))
    for k in (1, 2, 3):
        for place, kind in enumerate(("top", "fixed", "csi")):
            rows.append(
                (
                    f"correlation-{kind}{k}",
                    "all",
                    "",
                    0.2 + 0.05 * k - 0.06 * place + 0.2 * math.exp(-step / 8) + 0.01 * seed,
                    0.7,
                )
            )
    frame = pl.DataFrame(rows, schema=["measure", "layer", "other", "value", "anchor"], orient="row")
    return conform(frame, "linearity", **_identity(condition, seed, step))


def _history(condition: str, seed: int, step: int, rng: np.random.Generator) -> pl.DataFrame:
    cost = {
        "early": 0.05,
        "always": 0.08,
        "mid": 0.02,
        "late": 0.01,
        "eta2-early": 0.06,
        "permuted-eta2-early": 0.03,
    }.get(condition, 0)
    top1 = top1_at(step, seed) - cost * (1 - math.exp(-max(step - ONSETS.get(condition, 0), 0) / 8))
    rows = [(split, 2.3 - 2 * top1, top1 + bonus, None, 0.1) for split, bonus in (("train", 0.02), ("test", 0.0))]
    frame = pl.DataFrame(rows, schema=["split", "loss", "top1", "top5", "lr"], orient="row")
    return conform(frame, "history", condition=condition, seed=seed, step=step, epoch=step / 4)
