"""F3: how close to linear the network is through training, beside the same network without its ReLUs (the anchor)."""

import math

import polars as pl

from vestige.report.figures.source import Source, curves, over_seeds, single_seed, step_table
from vestige.report.panels import Axis, Curve, Figure, Key, Panel, View

LOGITS = "logits"
_TITLES = {
    "midpoint": ("Midpoint nonlinearity", "0: affine, √3: unrelated outputs"),
    "churn": ("Gate churn", "share of ReLU gates that differ; 0: affine"),
    "cka": ("Linear CKA", "unbiased; read it against the anchor"),
    "correlation": ("Cross-layer correlation", "of the most active neurons; read it against the anchor"),
    "ridge": ("Ridge R²", "of the logits from a layer"),
    "kalimeris": ("Explained by a linear model", "read it against the anchor"),
}
_LEVELS = {"midpoint": ((0.0, "affine"), (math.sqrt(3), "unrelated"))}


def linearity(source: Source) -> Figure:
    """Figure F3."""
    frame = source.table("linearity")
    frame = frame.with_columns(pl.col("other").fill_null(""), pl.col("layer").fill_null(""))
    keys = _keys(source, frame)
    views = tuple(
        View(condition, panels, keys, "F3-linearity" if condition == source.baseline else "")
        for condition in sorted(source.conditions(frame), key=lambda name: name != source.baseline)
        if (panels := _panels(source, frame.filter(condition=condition), keys))
    )
    wanted = source.study.measurements.linearity
    said = source.lacking("linearity", (wanted.conditions if wanted else None) or source.study.conditions, "measurement of linearity")
    if not frame.is_empty():
        lost = frame["value"].null_count()
        said += [f"{lost} of {frame.height} values are missing (NaN)."] * bool(lost) + _pairs_left_out(source, frame)
        said += single_seed(frame)
    return Figure(
        id="F3",
        title="How close to linear",
        caption="Thick: mean over seeds. Faint and dotted: the anchor, the same weights with every ReLU taken out, which is what a linear "
        "network of this shape would read. Only the midpoint nonlinearity must be 0 there.",
        alternative="Curves against optimiser steps of measures of linearity for each layer and the logits, each beside "
        "its anchor, the network without ReLUs.",
        views=views,
        missing=tuple(said),
        sources=(source.files("linearity-<protocol>-<split>/step-*.parquet"),),
    )


def _keys(source: Source, frame: pl.DataFrame) -> tuple[Key, ...]:
    found = frame["layer"].unique(maintain_order=True).to_list()
    known = source.layer_keys
    keys = [known.get(layer) or Key(layer, index % 6 + 1) for index, layer in enumerate(found) if layer not in ("", LOGITS)]
    named = {"": "whole network", LOGITS: LOGITS}
    return (*(Key(named[layer], 0) for layer in ("", LOGITS) if layer in found), *keys)


def _panels(source: Source, frame: pl.DataFrame, keys: tuple[Key, ...]) -> tuple[Panel, ...]:
    places = [key.name for key in keys]
    frame = frame.with_columns(place=pl.col("layer").replace({"": "whole network"}))
    panels = []
    for measure, other in frame.select("measure", "other").unique(maintain_order=True).iter_rows():
        if other in ("", LOGITS, "input"):
            rows = frame.filter(measure=measure, other=other)
            ordered = pl.concat([rows.filter(place=place) for place in places])
            panels.append(_panel(source, ordered, measure, other))
    return tuple(panels)


def _panel(source: Source, rows: pl.DataFrame, measure: str, other: str) -> Panel:
    kind = next((name for name in _TITLES if name in measure), "")
    title, subtitle = _TITLES.get(kind, (measure, ""))
    rows = rows.group_by(["place", "seed", "step"], maintain_order=True).agg(pl.col("value", "anchor").mean())
    lines = curves(rows, "place", "value")
    anchors = [
        Curve(place, own["step"].to_list(), own["anchor"].to_list(), "anchor", "without ReLUs")
        for place in rows["place"].unique(maintain_order=True)
        if (own := over_seeds(rows.filter(place=place), [], ["anchor"]))["anchor"].count()
    ]
    detail = measure.replace(kind, "", 1).strip("-_ ") if kind else ""
    return Panel(
        f"{title} with the {other}" if other else title,
        source.steps,
        Axis("", floor=0.0 if kind in ("midpoint", "churn") else None),
        (*anchors, *lines),
        "; ".join(part for part in (detail.replace("_", " "), subtitle) if part),
        levels=_LEVELS.get(kind, ()),
        shade=source.early,
        table=step_table([*lines, *(Curve(f"{a.key}, anchor", a.x, a.y) for a in anchors)]),
        empty="" if lines else "No value: every one is missing (NaN).",
    )


def _pairs_left_out(source: Source, frame: pl.DataFrame) -> list[str]:
    pairs = frame.filter(~pl.col("other").is_in(["", LOGITS, "input"])).select("measure", "other").unique()
    return [f"{pairs.height} measures between two layers are in the table but not drawn."] if pairs.height else []
