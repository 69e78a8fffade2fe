"""Curves of two studies over each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import polars as pl

from vestige.claims.curves import (
    accuracy_curves,
    advantage_curves,
    linearity_curves,
    selectivity_curves,
    steps_per_epoch,
)
from vestige.report.compare_harm import harm
from vestige.report.compare_side import Side, files
from vestige.report.figures.ablation import VALUES, areas
from vestige.report.figures.source import FIRES, STEPS
from vestige.report.panels import Axis, Curve, Figure, Panel, StepScale, Table, View
from vestige.report.style import count

_WHAT = {
    "selectivity": "measurement of selectivity",
    "cumulative": "cumulative ablation",
    "linearity": "measurement of linearity",
    "history": "training",
}
Curves = Mapping[int, Mapping[int, float]]
"""By seed and step."""


@dataclass(frozen=True)
class _Wanted:
    """A panel: its words, and how one study's curves are made."""

    title: str
    subtitle: str
    make: Callable[[Side], Curves]
    percent: bool = False
    floor: float | None = None
    level: float | None = None


def comparison_figures(a: Side, b: Side) -> tuple[Figure, ...]:
    """All figures, in the order of the page."""
    return (_selectivity(a, b), _ablation(a, b), _linearity(a, b), _accuracy(a, b), harm(a, b))


def shared_scale(a: Side, b: Side) -> StepScale:
    """Where steps lie, of both studies."""
    scales = [side.source.scale for side in (a, b)]
    return StepScale(min(scale.first for scale in scales), max(scale.last for scale in scales))


def _selectivity(a: Side, b: Side) -> Figure:
    wanted = [
        _Wanted("Cross-validated CSI, m(t)", "0 without signal: the one to infer from", _mean_of("csi_cv"), level=0.0),
        _Wanted(
            "Class information (η², adjusted)", "blind to offset and scale; 0 without signal", _mean_of("eta2_adj")
        ),
    ]
    return _figure(
        a, b, "selectivity", "selectivity", "Selectivity through training", wanted,
        "The baseline of each study: mean over the neurons of a layer that fire, then over the layers outside the last "
        "stage. Thick: mean over seeds; thin: single seeds.",
    )  # fmt: skip


def _ablation(a: Side, b: Side) -> Figure:
    found = [value for value in VALUES if any(value in side.rows("cumulative")["value"] for side in (a, b))]
    wanted = [
        panel
        for value in found
        for panel in (
            _Wanted(f"Area, most selective first, {VALUES[value]}", "1: intact, 0: chance", _area_of(value), level=0.0),
            _Wanted(
                f"D(t), {VALUES[value]}",
                "area of activity-matched less that of most selective; above 0: the selective matter more",
                _advantage_of(value),
                level=0.0,
            ),
        )
    ]
    return _figure(
        a, b, "ablation", "cumulative", "Ablation through training", wanted,
        "The baseline of each study: area under accuracy while 0 to 100% of a stage’s neurons are ablated, mean over "
        "the stages before the last. A checkpoint too near chance has none.",
    )  # fmt: skip


def _linearity(a: Side, b: Side) -> Figure:
    title = "Midpoint nonlinearity of the logits"
    wanted = [_Wanted(title, "0: affine, √3: unrelated outputs", _midpoint, floor=0.0, level=math.sqrt(3))]
    return _figure(
        a, b, "linearity", "linearity", "How close to linear", wanted,
        "The baseline of each study, at the class-centred logits. Thick: mean over seeds; thin: single seeds.",
    )  # fmt: skip


def _accuracy(a: Side, b: Side) -> Figure:
    wanted = [_Wanted("Test accuracy", "as trained", lambda side: accuracy_curves(side.rows("history")), percent=True)]
    return _figure(
        a, b, "accuracy", "history", "Accuracy", wanted,
        "The baseline of each study: share of its test images classified correctly, stored batch-norm statistics. Two "
        "studies on different images are not compared by this.",
    )  # fmt: skip


def _mean_of(column: str) -> Callable[[Side], Curves]:
    return lambda side: selectivity_curves(side.rows("selectivity"), column)


def _area_of(value: str) -> Callable[[Side], Curves]:
    def make(side: Side) -> Curves:
        own = pl.col("scope").is_in(side.source.early_stages)
        rows = side.rows("cumulative").filter(own, order="csi-desc", value=value)
        if rows.is_empty() or (found := areas(rows, side.source.classes)).is_empty():
            return {}
        means = found.drop_nulls("area").group_by("seed", "step").agg(pl.col("area").mean()).sort("seed", "step")
        return {seed: dict(part.select("step", "area").iter_rows()) for (seed,), part in means.group_by("seed")}

    return make


def _advantage_of(value: str) -> Callable[[Side], Curves]:
    def make(side: Side) -> Curves:
        source = side.source
        rows = side.rows("cumulative").filter(pl.col("order").is_in(["csi-desc", "activity-matched"]))
        return advantage_curves(rows, value, source.early_stages, source.classes) if source.classes else {}

    return make


def _midpoint(side: Side) -> Curves:
    return linearity_curves(side.rows("linearity"), "midpoint")


def _figure(a: Side, b: Side, name: str, kind: str, title: str, wanted: Sequence[_Wanted], caption: str) -> Figure:
    curves = [[panel.make(side) for side in (a, b)] for panel in wanted]
    shade = a.source.early if a.source.early_window == b.source.early_window else None
    epochs = [steps_per_epoch(side.source.table("history")) for side in (a, b)]
    ways: list[tuple[str, Sequence[int | None]]] = [("by optimiser step", (None, None))]
    if None not in epochs:
        ways.append(("by epoch", epochs))
    views = tuple(
        View(
            way,
            tuple(_panel(p, (a, b), c, per, shade) for p, c in zip(wanted, curves, strict=True)),
            (a.key, b.key),
        )
        for way, per in ways
    )
    said = [line for side in (a, b) for line in _lacking(side, kind)]
    for panel, pair in zip(wanted, curves, strict=True):
        for side, found in zip((a, b), pair, strict=True):
            if not found and not side.rows(kind).is_empty():
                said.append(f"{side.label}: {panel.title}: no value to draw.")
    if shade is None and name == "selectivity" and any(side.source.early for side in (a, b)):
        windows = [f"{s.label} {s.source.early_window or 'not known'}" for s in (a, b)]
        said.append(f"The early windows differ, so none is shaded; each ends at step: {', '.join(windows)}.")
    drawn = any(chain.from_iterable(curves))
    return Figure(
        name, title, caption,
        f"Curves through training of {a.name} and {b.name} over each other.",
        views if drawn else (), tuple(said), tuple(files(side, kind) for side in (a, b)),
    )  # fmt: skip


def _lacking(side: Side, kind: str) -> list[str]:
    said = side.source.lacking(kind, [side.source.baseline], _WHAT[kind])
    rows = side.rows(kind)
    if rows.is_empty() and not side.source.table(kind).is_empty() and not said:
        said.append("Its tables are of another protocol or split than the corrected one.")
    if kind == "selectivity" and (lost := rows.filter(FIRES)["csi_cv"].null_count()):
        said.append(f"{lost / rows.height:.1%} of the rows have no cross-validated CSI (NaN): not in its means.")
    if not rows.is_empty() and rows["seed"].n_unique() == 1:
        said.append(f"Only one seed ({rows['seed'][0]}): its curves are no means.")
    return [f"{side.label}: {line}" for line in said]


def _panel(
    wanted: _Wanted,
    sides: tuple[Side, Side],
    curves: Sequence[Curves],
    per_epoch: Sequence[int | None],
    shade: tuple[float, float] | None,
) -> Panel:
    by_step = per_epoch[0] is None
    marks = [mark for side, own, per in zip(sides, curves, per_epoch, strict=True) for mark in _marks(side, own, per)]
    return Panel(
        wanted.title,
        Axis(STEPS, "steps") if by_step else Axis("epochs"),
        Axis("", percent=wanted.percent, floor=wanted.floor),
        tuple(marks),
        wanted.subtitle,
        levels=((wanted.level, ""),) if wanted.level is not None else (),
        shade=shade if by_step else None,
        table=_table(marks, "step" if by_step else "epoch"),
        empty="" if marks else "Neither study has a value.",
    )


def _marks(side: Side, curves: Curves, per_epoch: int | None) -> list[Curve]:
    """A thin line for each seed where there are several, and their mean at each step."""
    scale = per_epoch or 1
    thin = []
    for seed, own in sorted(curves.items()):
        steps = sorted(own)
        thin.append(Curve(side.name, [s / scale for s in steps], [own[s] for s in steps], "seed", f"seed {seed}"))
    steps = sorted({step for own in curves.values() for step in own})
    if not steps:
        return []
    values = [[own[step] for own in curves.values() if step in own] for step in steps]
    means = [math.fsum(of_seeds) / len(of_seeds) for of_seeds in values]
    said = f"mean of {count(len(curves), 'seed')}" if len(curves) > 1 else f"seed {next(iter(curves))}"
    mean = Curve(side.name, [step / scale for step in steps], means, "mean", said)
    return [*(thin if len(thin) > 1 else ()), mean]


def _table(marks: Sequence[Curve], first: str) -> Table:
    means = [mark for mark in marks if mark.weight == "mean"]
    places = sorted({x for mark in means for x in mark.x})
    values = [dict(zip(mark.x, mark.y, strict=True)) for mark in means]
    shown = [int(place) if first == "step" else place for place in places]
    rows = tuple((at, *(column.get(place) for column in values)) for at, place in zip(shown, places, strict=True))
    return Table((first, *(mark.key for mark in means)), rows)
