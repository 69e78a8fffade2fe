"""F3: how close to linear the network is through training, beside the same without its ReLUs (the anchor)."""

import math
from statistics import fmean

import polars as pl

from vestige.claims.contrasts import Contrast, contrasts
from vestige.claims.curves import Material
from vestige.claims.evidence import Sample
from vestige.report.figures.source import Source, curves, over_seeds, single_seed, step_table
from vestige.report.panels import Axis, Curve, Figure, Key, Panel, Table, View
from vestige.report.style import count, number, slot

LOGITS, INPUT = "logits", "input"
_CHURN_REFERENCE = "gate-churn-independent"
_TITLES = {
    "midpoint": ("Midpoint nonlinearity", "0: affine, √3: unrelated outputs"),
    "gate-churn": ("Gate churn", "share of ReLU gates that differ; dotted: independent gates"),
    "kalimeris": ("Explained by a linear model", "share of I(F;Y); dotted: the anchor"),
    "kalimeris-information": ("Information on the class", "I(F;Y) in bits; dotted: the anchor"),
    "kalimeris-unexplained": ("Beyond the linear model", "I(F;Y|L) in bits; dotted: the anchor"),
    "ridge-flattened": ("Ridge R² from whole maps", "of the logits, held out; dotted: the anchor"),
    "ridge-pooled": ("Ridge R² from pooled activations", "of the logits, held out; dotted: the anchor"),
    "cka": ("Linear CKA", "dotted: the anchor"),
}
_LEVELS = {"midpoint": ((0.0, "affine"), (math.sqrt(3), "unrelated")), "kalimeris": ((1.0, "all of it"),)}
_LINEAR_TOP1, _GROUPS = "kalimeris-linear-top1", "kalimeris-groups"
_NOT_DRAWN = (_CHURN_REFERENCE, _LINEAR_TOP1, _GROUPS)
_EARLY_LATE = ("measure", "more linear if", "early", "end", "early − end", "seeds", "p", "closer to linear")
_COMPARED = (
    " The table compares each measure early, over the judgeable checkpoints of the early window, with the end of "
    "training; layers are averaged, and of measures that are read against the anchor the distance from it is compared. "
    "Paired t tests over seeds, p values corrected for the number of rows (Benjamini and Hochberg 1995). No claim "
    "depends on it."
)
_CORRELATIONS = {
    "top": Key("most active", 2),
    "csi": Key("highest CSI", 1, "dash"),
    "fixed": Key("fixed channels", 0, "dot"),
}


def linearity(source: Source) -> Figure:
    """Figure F3."""
    frame = source.table("linearity")
    frame = frame.with_columns(pl.col("other").fill_null(""), pl.col("layer").fill_null(""))
    views = []
    for condition in sorted(source.conditions(frame), key=lambda name: name != source.baseline):
        views += _views(source, frame.filter(condition=condition), condition)
    wanted = source.study.measurements.linearity
    conditions = (wanted.conditions if wanted else None) or source.study.conditions
    said = source.lacking("linearity", conditions, "measurement of linearity")
    if not frame.is_empty():
        said += _left_out(frame) + _linear_model(frame) + single_seed(frame)
    table = _early_against_end(source)
    return Figure(
        id="F3",
        title="How close to linear",
        caption="Thick: mean over seeds. Faint and dotted: the anchor, the same weights with every ReLU "
        "taken out, which is "
        "what a linear network of this shape would read. Midpoint nonlinearity and churn must be 0 there; "
        "the others are "
        "read against their anchor, not against 1." + (_COMPARED if table else ""),
        alternative="Curves against optimiser steps of measures of linearity for each layer and the "
        "logits, each beside "
        "its anchor, the network without ReLUs.",
        views=tuple(views),
        missing=tuple(said),
        sources=(source.files("linearity-<protocol>-<split>/step-*.parquet"),),
        table=table,
    )


def _early_against_end(source: Source) -> Table | None:
    """A row for each measure of the baseline: where it says that the network is closer to linear."""
    if source.study.claims is None:
        return None
    found = contrasts(Material.of(source.study, source.tables, source.classes))
    return Table(_EARLY_LATE, tuple(map(_compared, found))) if found else None


def _compared(one: Contrast) -> tuple[str | float | None, ...]:
    interval, seeds = one.interval, len(one.difference.values)
    ends = f" [{number(interval.low)}, {number(interval.high)}]" if seeds > 1 else ""
    return (
        one.reading.title, one.reading.linear, _mean(one.early), _mean(one.final),
        f"{number(interval.estimate)}{ends}", seeds, number(one.p_value, 2), one.closer,
    )  # fmt: skip


def _mean(sample: Sample) -> float | None:
    return fmean(sample.values.values()) if sample.values else None


def _views(source: Source, frame: pl.DataFrame, condition: str) -> list[View]:
    first = condition == source.baseline
    correlated = pl.col("measure").str.starts_with("correlation-")
    layered, views = frame.filter(~correlated), []
    if not layered.is_empty():
        keys = _keys(source, layered)
        panels = _panels(source, layered, keys)
        views.append(View(f"{condition} · layer by layer", panels, keys, "F3-linearity" if first else ""))
    if panels := _correlations(source, frame.filter(correlated)):
        found = {curve.key for panel in panels for curve in panel.marks}
        keys = tuple(key for key in _CORRELATIONS.values() if key.name in found)
        views.append(View(f"{condition} · cross-layer correlation", panels, keys, "F3-correlation" if first else ""))
    return views


def _keys(source: Source, frame: pl.DataFrame) -> tuple[Key, ...]:
    found = frame["layer"].unique(maintain_order=True).to_list()
    known = {INPUT: Key(INPUT, 0, "dash"), **source.layer_keys}
    others = [known.get(layer) or Key(layer, *slot(place + 1)) for place, layer in enumerate(found) if layer != LOGITS]
    return (*(Key(LOGITS, 0) for _ in range(LOGITS in found)), *others)


def _panels(source: Source, frame: pl.DataFrame, keys: tuple[Key, ...]) -> tuple[Panel, ...]:
    places = [key.name for key in keys]
    panels = []
    for measure, other in frame.select("measure", "other").unique(maintain_order=True).iter_rows():
        if other in ("", LOGITS, INPUT) and measure not in _NOT_DRAWN:
            rows = frame.filter(measure=measure, other=other)
            ordered = pl.concat([rows.filter(layer=place) for place in places])
            panels.append(_panel(source, ordered, measure, other, frame))
    return tuple(panels)


def _panel(source: Source, rows: pl.DataFrame, measure: str, other: str, frame: pl.DataFrame) -> Panel:
    title, subtitle = _TITLES.get(measure, (measure, "dotted: the anchor"))
    lines = curves(rows, "layer", "value")
    if measure == "gate-churn":
        anchors = _dotted(frame.filter(measure=_CHURN_REFERENCE), "layer", "value", "independent gates")
    else:
        anchors = _dotted(rows, "layer", "anchor", "anchor")
    return Panel(
        f"{title} with the {other}" if other else title,
        source.steps,
        Axis("", floor=0.0 if measure in ("midpoint", "gate-churn") else None),
        (*anchors, *lines),
        subtitle,
        levels=_LEVELS.get(measure, ()),
        shade=source.early,
        table=step_table(_with_anchors(lines, anchors)),
        empty="" if lines else "No value: every one is missing (NaN).",
    )


def _correlations(source: Source, frame: pl.DataFrame) -> tuple[Panel, ...]:
    """The paper's correlation: a panel for each k, a curve for each way to choose the k channels."""
    named = {kind: key.name for kind, key in _CORRELATIONS.items()}
    split = frame.with_columns(
        kind=pl.col("measure").str.extract(r"^correlation-([a-z]+)\d+$").replace(named),
        k=pl.col("measure").str.extract(r"(\d+)$").cast(pl.Int32),
    ).drop_nulls(["kind", "k"])  # fmt: skip
    panels = []
    for k in split["k"].unique().sort():
        rows = split.filter(k=k)
        lines, anchors = curves(rows, "kind", "value"), _dotted(rows, "kind", "anchor", "anchor")
        panels.append(
            Panel(
                f"Cross-layer correlation, k = {k}",
                source.steps,
                Axis("", floor=0.0),
                (*anchors, *lines),
                "mean |r| between stages; dotted: anchor",
                shade=source.early,
                table=step_table(_with_anchors(lines, anchors)),
                empty="" if lines else "No value: every one is missing (NaN).",
            )
        )
    return tuple(panels)


def _dotted(rows: pl.DataFrame, by: str, value: str, note: str) -> list[Curve]:
    return [
        Curve(group, own["step"].to_list(), own[value].to_list(), "anchor", note)
        for group in rows[by].unique(maintain_order=True)
        if (own := over_seeds(rows.filter(pl.col(by) == group), [], [value]))[value].count()
    ]


def _with_anchors(lines: list[Curve], anchors: list[Curve]) -> list[Curve]:
    return [*lines, *(Curve(f"{anchor.key}, {anchor.note}", anchor.x, anchor.y) for anchor in anchors)]


def _linear_model(frame: pl.DataFrame) -> list[str]:
    """What the network is compared with: F, Y and L of the Kalimeris share."""
    right, groups = (frame.filter(measure=measure)["value"].drop_nulls() for measure in (_LINEAR_TOP1, _GROUPS))
    if right.is_empty() or groups.is_empty():
        return []
    return [
        f"Linear model (L): a logistic regression on the pixels of training images, right on {right[0]:.1%} of the "
        f"images; F, Y and L tell {count(int(groups[0]), 'class', 'classes')} or groups of classes apart."
    ]


def _left_out(frame: pl.DataFrame) -> list[str]:
    said = []
    if lost := frame["value"].null_count():
        said.append(f"{lost} of {frame.height} values are missing (NaN).")
    pairs = frame.filter(~pl.col("other").is_in(["", LOGITS, INPUT])).select("measure", "layer", "other").unique()
    if pairs.height:
        said.append(f"CKA between two layers ({count(pairs.height, 'pair')}) is in the tables, not drawn.")
    return said
