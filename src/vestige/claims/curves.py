"""Tables -> curves through training, one for every seed: m(t), ablation areas D(t), linearity, accuracy.

A curve maps steps to finite numbers; a step at which the number is missing, null or NaN is not in it.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from vestige.config import ClaimsConfig, InterventionConfig, StudyConfig, Window
from vestige.runs.tables import empty
from vestige.stats.effects import normalised_area

Curve = dict[int, float]
Curves = dict[int, Curve]
PROTOCOL = "corrected"
FINAL_CHECKPOINTS = 3
"""Final accuracy is the mean over so many."""


@dataclass(frozen=True)
class Material:
    """What the claims are judged on.

    Attributes:
      study: the study.
      claims: its claims.
      tables: by kind; all conditions and seeds in one, with the columns of `runs.tables`.
      classes: number of classes C; None where nobody knows.
    """

    study: StudyConfig
    claims: ClaimsConfig
    tables: Mapping[str, pl.DataFrame]
    classes: int | None
    _curves: dict[tuple[str, str], Curves] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, study: StudyConfig, tables: Mapping[str, pl.DataFrame], classes: int | None) -> "Material":
        """Keep the rows that the claims are about: the study's seeds and split, the corrected protocol."""
        assert study.claims is not None
        kept = {kind: _rows(study, kind, tables) for kind in ("selectivity", "cumulative", "linearity", "history")}
        return cls(study, study.claims, kept, classes or _classes_seen(kept["selectivity"]))

    def rows(self, kind: str, condition: str) -> pl.DataFrame:
        """The rows of one table that belong to one condition."""
        return self.tables[kind].filter(pl.col("condition") == condition)

    def selectivity(self, condition: str, column: str = "csi_cv") -> Curves:
        """m(t) of one condition, in the unit of `column`."""
        key = (condition, column)
        if key not in self._curves:
            self._curves[key] = selectivity_curves(self.rows("selectivity", condition), column)
        return self._curves[key]

    def accuracy(self, condition: str) -> Curves:
        """Test accuracy of one condition."""
        key = (condition, "top1")
        if key not in self._curves:
            self._curves[key] = accuracy_curves(self.rows("history", condition))
        return self._curves[key]

    @cached_property
    def last_step(self) -> int | None:
        """T: the last step of the baseline in any table; None without a row of it."""
        steps = [self.rows(kind, self.claims.roles.baseline)["step"].max() for kind in self.tables]
        return max((step for step in steps if isinstance(step, int)), default=None)

    @cached_property
    def final_steps(self) -> tuple[int, ...]:
        """The baseline's last three tested steps."""
        tests = self.rows("history", self.claims.roles.baseline).filter(pl.col("split") == "test")
        return tuple(tests["step"].unique().sort().tail(FINAL_CHECKPOINTS))

    @cached_property
    def steps_per_epoch(self) -> int | None:
        """From the history's own steps and epochs; None before the first whole epoch."""
        return steps_per_epoch(self.tables["history"])

    @cached_property
    def early_window(self) -> int | None:
        """w of the early window [0, w), in steps; None where it is not known yet."""
        return early_window(self.claims, self.tables["history"])

    @cached_property
    def total_steps(self) -> int | None:
        """Steps of the whole training, as far as they are known."""
        return total_steps(self.study, self.tables["history"]) or self.last_step


def steps_per_epoch(history: pl.DataFrame) -> int | None:
    """From the history's own steps and epochs; None before the first whole epoch."""
    last = history.filter(pl.col("epoch") >= 1).sort("epoch").tail(1)
    return round(last["step"][0] / last["epoch"][0]) if len(last) else None


def total_steps(study: StudyConfig, history: pl.DataFrame) -> int | None:
    """Steps of the whole training, however far it is; None before the first whole epoch."""
    per_epoch = steps_per_epoch(history)
    return None if per_epoch is None else round(per_epoch * study.recipe.epochs)


def window_in_steps(window: Window, per_epoch: int | None, total: int) -> tuple[int, int] | None:
    """A window in steps, [start, stop); None where it is in epochs and no epoch is over yet."""
    if window.unit == "steps":
        return window.in_steps(1, total)
    return None if per_epoch is None else window.in_steps(per_epoch, total)


def acting_in_steps(
    interventions: Iterable[InterventionConfig], per_epoch: int | None, total: int
) -> tuple[int, int] | None:
    """The steps [start, stop) from the first to the last at which one of them changes something.

    Returns:
      None without any, and where a window is in epochs and no epoch is over yet.
    """
    windows = [(one, window_in_steps(one.window, per_epoch, total)) for one in interventions]
    acting = [one.acting(window) for one, window in windows if window]
    if not acting or len(acting) < len(windows):
        return None
    return min(start for start, _ in acting), max(stop for _, stop in acting)


def early_window(claims: ClaimsConfig, history: pl.DataFrame) -> int | None:
    """w of the early window [0, w), in steps; None where it is in epochs and no epoch is over yet."""
    found = window_in_steps(claims.early_window, steps_per_epoch(history), 0)  # it has a stop
    return found[1] if found else None


def inner_stages(selectivity: pl.DataFrame) -> tuple[str, ...]:
    """Stages in the order of the layers, without the last layer's."""
    layers = selectivity.select("layer", "stage").unique("layer", keep="first", maintain_order=True)
    stages = tuple(dict.fromkeys(layers["stage"].to_list()))
    return tuple(stage for stage in stages if stage != layers["stage"][-1]) if stages else ()


def selectivity_curves(selectivity: pl.DataFrame, column: str = "csi_cv") -> Curves:
    """m(t): mean of `column` over a layer's living neurons, averaged over the layers outside the last stage.

    Args:
      selectivity: rows of one condition; a neuron whose number is missing counts as little as a dead one, and
        a layer without a living neuron is left out of that step's average.
      column: what is averaged.
    """
    values = pl.col(column).cast(pl.Float64)
    per_layer = (
        selectivity.filter(
            pl.col("stage").is_in(inner_stages(selectivity)),
            ~pl.col("dead").fill_null(value=False),
            values.is_finite(),
        )
        .group_by("seed", "step", "layer", maintain_order=True)
        .agg(values.mean().alias("m"))
    )
    return as_curves(per_layer.group_by("seed", "step", maintain_order=True).agg(pl.col("m").mean()))


def advantage_curves(cumulative: pl.DataFrame, value: str, stages: Sequence[str], classes: int) -> Curves:
    """D(t) = area(activity-matched) - area(csi-desc), averaged over draws, then over the stages given.

    Args:
      cumulative: rows of one condition.
      value: what neurons are ablated to.
      stages: those outside the last.
      classes: C; a step where a curve is not judgeable is left out.
    """
    keys = ["seed", "step", "scope", "order", "draw"]
    wanted = cumulative.filter(pl.col("value") == value, pl.col("scope").is_in(stages))
    grouped = wanted.group_by(keys, maintain_order=True).agg("fraction", pl.col("top1").fill_null(math.nan))
    areas: dict[tuple[int, int], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed, step, scope, order, _, fractions, top1 in grouped.iter_rows():
        areas[seed, step][scope, order].append(normalised_area(fractions, top1, classes))
    curves: Curves = defaultdict(dict)
    for (seed, step), found in areas.items():
        if math.isfinite(advantage := _advantage(found)):
            curves[seed][step] = advantage
    return dict(curves)


def linearity_curves(linearity: pl.DataFrame, measure: str, layer: str = "logits") -> Curves:
    """One linearity measure of one condition through training."""
    return as_curves(
        linearity.filter(pl.col("measure") == measure, pl.col("layer") == layer).select("seed", "step", "value")
    )


def accuracy_curves(history: pl.DataFrame) -> Curves:
    """Test accuracy of one condition at its checkpoints, shares in [0, 1]."""
    return as_curves(history.filter(pl.col("split") == "test").select("seed", "step", "top1"))


def intact_curves(cumulative: pl.DataFrame) -> Curves:
    """Accuracy before anything is ablated, of one condition: it decides which curves are judgeable."""
    intact = cumulative.filter(pl.col("fraction") == 0, pl.col("top1").is_finite())
    return as_curves(intact.group_by("seed", "step", maintain_order=True).agg(pl.col("top1").max()))


def mean_over(curve: Curve, steps: Iterable[int]) -> float:
    """The mean over those of the steps that the curve has; NaN where it has none."""
    values = [curve[step] for step in steps if step in curve]
    return float(np.mean(values)) if values else math.nan


def _advantage(areas: Mapping[tuple[str, str], list[float]]) -> float:
    scopes = sorted({scope for scope, _ in areas})
    differences = [
        np.mean(areas.get((scope, "activity-matched"), [math.nan]))
        - np.mean(areas.get((scope, "csi-desc"), [math.nan]))
        for scope in scopes
    ]
    return float(np.mean(differences))


def as_curves(frame: pl.DataFrame) -> Curves:
    """A curve for each seed, of rows `seed, step, number`; null and NaN are left out."""
    curves: Curves = defaultdict(dict)
    for seed, step, value in frame.iter_rows():
        if value is not None and math.isfinite(value):
            curves[seed][step] = float(value)
    return dict(curves)


def _rows(study: StudyConfig, kind: str, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    table = tables.get(kind, empty(kind)).filter(pl.col("seed").is_in(study.seeds))
    measurement = getattr(study.measurements, kind, None)
    if kind == "history":
        return table
    if measurement is not None:
        table = table.filter(pl.col("split") == measurement.split)
    return table.filter(pl.col("protocol") == PROTOCOL)


def _classes_seen(selectivity: pl.DataFrame) -> int | None:
    """Most neurons prefer some class: among all neurons and checkpoints every class is some neuron's."""
    seen = selectivity.select(pl.max_horizontal(pl.col("preferred_class", "second_class").max())).item()
    return None if seen is None else int(seen) + 1
