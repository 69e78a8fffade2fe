"""What figures are drawn from: the tables of a study, in the order its readers expect."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from vestige.claims.curves import early_window, total_steps
from vestige.config import StudyConfig
from vestige.report.panels import Axis, Curve, Key, StepScale, Table
from vestige.report.style import DASHES, count, names, slot
from vestige.runs.manifest import Manifest
from vestige.runs.tables import SCHEMAS, empty

STEPS = "optimiser steps (log scale, 0 set apart)"
FAITHFUL = (
    " Faithful differs from corrected in two things at once: class sums in place of class means, and stored "
    "batch-norm statistics in place of recomputed ones."
)
FIRES = ~pl.col("dead").fill_null(False)


@dataclass(frozen=True)
class Source:
    """A study's tables (any may be missing), verdicts, manifests, and the number of classes judged."""

    study: StudyConfig
    tables: Mapping[str, pl.DataFrame]
    claims: Mapping[str, Any] | None
    manifests: Mapping[tuple[str, int], Manifest]
    classes_judged: int | None = None

    def table(self, kind: str) -> pl.DataFrame:
        """A table with its schema's columns; NaN and infinity read as missing."""
        frame = self.tables.get(kind)
        if frame is None or frame.is_empty():
            return empty(kind)
        floats = [name for name, dtype in SCHEMAS[kind].items() if dtype.is_float() and name in frame.columns]
        finite = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats]
        return frame.with_columns(finite)

    def branched(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The table with, for every run that branches off another, its parent's rows at the onset."""
        onsets = [
            frame.filter(condition=parent["condition"], seed=parent["seed"], step=parent["step"]).with_columns(
                condition=pl.lit(condition)
            )
            for (condition, _), manifest in self.manifests.items()
            if (parent := manifest.parent)
        ]
        return pl.concat([frame, *onsets]).unique(maintain_order=True) if onsets else frame

    def conditions(self, frame: pl.DataFrame) -> list[str]:
        """Conditions with rows in the table, in the study's order."""
        found = set(frame["condition"].unique())
        return [
            *(name for name in self.study.conditions if name in found),
            *sorted(found - {*self.study.conditions}),
        ]

    @property
    def baseline(self) -> str:
        """The condition that others are compared with: the claims', else the study's, else the first."""
        if self.study.claims:
            return self.study.claims.roles.baseline
        return self.study.baseline or next(iter(self.study.conditions))

    @cached_property
    def condition_keys(self) -> dict[str, Key]:
        """A legend entry for each condition; the baseline has the first colour."""
        ordered = sorted(self.study.conditions, key=lambda name: name != self.baseline)
        return {name: Key(name, *slot(index)) for index, name in enumerate(ordered)}

    @cached_property
    def layers(self) -> dict[str, list[str]]:
        """Layers by stage, both in the order of the network."""
        for kind in ("selectivity", "ablation"):
            frame = self.table(kind)
            if not frame.is_empty():
                found = frame.select("stage", "layer").unique(maintain_order=True)
                return {
                    stage: found.filter(stage=stage)["layer"].to_list()
                    for stage in found["stage"].unique(maintain_order=True)
                }
        return {}

    @cached_property
    def stage_keys(self) -> dict[str, Key]:
        """A legend entry for each stage."""
        return {stage: Key(stage, *slot(index + 1)) for index, stage in enumerate(self.layers)}

    @cached_property
    def layer_keys(self) -> dict[str, Key]:
        """A legend entry for each layer: its stage's colour, a dash of its own."""
        return {
            layer: Key(layer, self.stage_keys[stage].slot, DASHES[index % len(DASHES)])
            for stage, layers in self.layers.items()
            for index, layer in enumerate(layers)
        }

    @property
    def early_stages(self) -> list[str]:
        """Stages before the last, which the claims are about (the only one, where there is one)."""
        return list(self.layers)[:-1] or list(self.layers)

    @cached_property
    def classes(self) -> int | None:
        """How many classes the images have; None where nothing tells."""
        if self.classes_judged:
            return self.classes_judged
        frame = self.table("selectivity").select("preferred_class", "second_class")
        most = frame.max().row(0)
        return max(most) + 1 if None not in most else None

    @cached_property
    def steps(self) -> Axis:
        """The axis of optimiser steps that all figures share."""
        return Axis(STEPS, "steps")

    @cached_property
    def scale(self) -> StepScale:
        """Where steps lie on it."""
        return StepScale.of(
            step
            for kind in ("selectivity", "cumulative", "linearity", "history")
            for step in self.table(kind)["step"].unique()
        )

    @cached_property
    def early_window(self) -> int | None:
        """w of the claims' early window [0, w) in steps: as judged, else by the history's epochs."""
        if self.study.claims is None:
            return None
        judged = (self.claims or {}).get("early_window")
        return judged or early_window(self.study.claims, self.table("history"))

    @cached_property
    def total_steps(self) -> int | None:
        """Steps of the whole training; None before the first whole epoch."""
        return total_steps(self.study, self.table("history"))

    @property
    def early(self) -> tuple[float, float] | None:
        """The early window as far as it is on the axis of steps."""
        return (0, min(self.early_window, self.scale.last)) if self.early_window else None

    def files(self, pattern: str) -> str:
        """Where a measurement's tables lie in the study's folder."""
        return f"runs/<condition>/seed-<n>/{pattern}"

    def lacking(self, kind: str, conditions: Iterable[str], what: str) -> list[str]:
        """Sentences on runs that should have rows in the table and have none."""
        frame = self.table(kind)
        if frame.is_empty():
            return [f"There is no {what}: it was left out of the study, or has not been made yet."]
        found = set(frame.select("condition", "seed").unique().iter_rows())
        said = []
        for condition in conditions:
            seeds = [str(seed) for seed in self.study.seeds if (condition, seed) not in found]
            if len(seeds) == len(self.study.seeds):
                said.append(f"Condition “{condition}” has no {what} yet.")
            elif seeds:
                said.append(f"Condition “{condition}” has no {what} of seed {names(seeds)}.")
        return said


def single_seed(frame: pl.DataFrame) -> list[str]:
    """A sentence where there is but one seed: its curve is no mean."""
    seeds = frame["seed"].n_unique()
    return [f"Only one seed ({frame['seed'][0]}): the curves are no means, and show no spread."] if seeds == 1 else []


def curves(frame: pl.DataFrame, by: str, value: str, *, seeds: bool = True) -> list[Curve]:
    """The mean over seeds for each group, and a thin line for each seed; one row a group, seed and step."""
    marks: list[Curve] = []
    several = frame["seed"].n_unique() > 1
    for group in frame[by].unique(maintain_order=True):
        rows = frame.filter(pl.col(by) == group)
        if seeds and several:
            for seed, own in rows.sort("step").group_by("seed", maintain_order=True):
                marks.append(Curve(group, own["step"].to_list(), own[value].to_list(), "seed", f"seed {seed[0]}"))
        mean = over_seeds(rows, [], [value])
        if mean[value].count():
            said = f"mean of {count(rows['seed'].n_unique(), 'seed')}" if several else f"seed {rows['seed'][0]}"
            marks.append(Curve(group, mean["step"].to_list(), mean[value].to_list(), "mean", said))
    return [mark for mark in marks if any(y is not None for y in mark.y)]


def over_seeds(frame: pl.DataFrame, by: Sequence[str], values: Sequence[str]) -> pl.DataFrame:
    """Means over seeds at each step, of those seeds that have a value, in the order of the steps."""
    return (
        frame.group_by([*by, "step"], maintain_order=True)
        .agg(pl.col(v).mean() for v in values)
        .sort("step", maintain_order=True)
    )


def step_table(marks: Sequence[Curve], weight: str = "mean") -> Table:
    """A row for each step, a column for each curve of this weight."""
    shown = [mark for mark in marks if mark.weight == weight]
    steps = sorted({step for mark in shown for step in mark.x})
    values = [dict(zip(mark.x, mark.y, strict=True)) for mark in shown]
    rows = tuple((int(step), *(column.get(step) for column in values)) for step in steps)
    return Table(("step", *(mark.key for mark in shown)), rows)
