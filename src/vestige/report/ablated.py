"""`ablation.html` of an ablated model: one file that opens offline, made from `ablated.json` and the tables."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from vestige.report.distributions import spearman, step_panel
from vestige.report.foreign_page import class_name, facts, render, shown_checkpoint, subject
from vestige.report.panels import Axis, Figure, Key, Panel, Points, Table, View
from vestige.report.style import count, number, slot
from vestige.runs.store import write_text

TOP_NEURONS = 5
"""Shown of each layer."""
MOST_DRAWN = 3000
MODES = {
    "exact": "every neuron on every image",
    "controlled": "every neuron on some images, corrected by an estimate on all of them",
    "screen": "an estimate from gradients",
}
REPLACED = {
    "zero": "by zero",
    "mean": "by its mean over images and positions",
    "resample": "by its map from another image, always the same",
}
THROUGH = {"loss_delta": "Mean change of loss (nats)", "top1_delta": "Mean change of top-1 (share)"}
_NEURON = (
    "layer",
    "neuron",
    "change of loss",
    "standard error",
    "change of top-1",
    "right to wrong",
    "preferred class",
)
_GROUP = ("group", "neurons", "value", "change of loss", "standard error", "change of top-1", "right to wrong")


def write_ablated(
    path: Path, record: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], through: pl.DataFrame | None = None
) -> Path:
    """Write the page. The same record and tables give the same bytes.

    Args:
      path: of the page.
      record: the contents of `ablated.json`.
      tables: of the checkpoint that `shown_checkpoint` names: `ablation` and `ranking`; where there are any, `groups`
        and `cumulative_areas`.
      through: `ablation` of all checkpoints, where there are several.

    Returns:
      `path`.

    Raises:
      StoreError: it cannot be written.
    """
    write_text(path, render_ablated(record, tables, through))
    return path


def render_ablated(
    record: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], through: pl.DataFrame | None = None
) -> str:
    """The page as HTML, everything it needs within it."""
    joined = tables["ablation"].join(tables["ranking"].select("layer", "neuron", "csi"), on=["layer", "neuron"])
    entry, names = record["checkpoints"][shown_checkpoint(record)], record["data"]["class_names"]
    sources = [entry["tables"][name] for name in ("ablation", "ranking")]
    figures = [
        replace(effects_figure(joined), sources=(sources[0],)),
        replace(csi_figure(joined), sources=tuple(sources)),
    ]
    steps = [] if through is None else through["step"].drop_nulls().unique().to_list()
    if through is not None and len(steps) > 1:
        figures.append(steps_figure(through.filter(pl.col("step").is_not_null())))
    (result,) = entry["results"]
    return render(
        "ablated",
        record,
        figures,
        steps,
        facts=[*facts(record, joined), result["mode"]],
        subject=subject(record, "", [*([] if record["files"] else [_intact(result)]), *_of_result(result)]),
        neurons=[(f"Replaced {REPLACED[value]}", _neurons(part, names)) for value, part in _by_value(joined)],
        together=list(_together(tables)),
        methods=_methods(record, result, joined),
    )


def effects_figure(table: pl.DataFrame) -> Figure:
    """Every neuron's change of loss, layer by layer, for each value."""
    return Figure(
        "effects",
        "What each neuron's replacement does",
        "Each point is a neuron, at its layer: the change of mean cross-entropy, in nats, when it alone is replaced.",
        "Points of the change of loss over the layers.",
        tuple(_view(value, part, _effects_panel(part)) for value, part in _by_value(table)),
    )


def csi_figure(table: pl.DataFrame) -> Figure:
    """The change of loss against CSI, for each value."""
    return Figure(
        "selectivity",
        "Do selective neurons matter more?",
        "Each point is a neuron. CSI is of the images that were ranked on; it is to be read layer by layer, since both "
        "CSI and the change of loss differ between layers.",
        "Scatter plot of the change of loss against CSI.",
        tuple(_view(value, part, _csi_panel(part)) for value, part in _by_value(table)),
    )


def steps_figure(table: pl.DataFrame) -> Figure:
    """The stages' means through steps, for each value; `table` holds all steps."""
    return Figure(
        "steps",
        "Through the checkpoints",
        "Means over the neurons of a stage, at every checkpoint whose step is known: what replacing one of them does.",
        "Curves of the mean change of loss and of top-1 against the step, one for each stage.",
        tuple(
            _view(value, part, *(step_panel(part, column, title) for column, title in THROUGH.items()))
            for value, part in _by_value(table)
        ),
        sources=("ablation.parquet",),
    )


def _by_value(table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    return [(str(value), part) for (value,), part in table.group_by("value", maintain_order=True)]


def _view(value: str, part: pl.DataFrame, *panels: Panel) -> View:
    stages = part["stage"].unique(maintain_order=True).to_list()
    return View(f"replaced {REPLACED[value]}", panels, tuple(Key(s, *slot(i + 1)) for i, s in enumerate(stages)))


def _effects_panel(part: pl.DataFrame) -> Panel:
    layers = part["layer"].unique(maintain_order=True).to_list()
    places = {layer: place for place, layer in enumerate(layers)}

    def spread(own: pl.DataFrame) -> list[float]:
        # Low-discrepancy places: neighbours lie apart.
        return [places[layer] + 0.34 * (2 * ((0.5 + 0.6180339887 * neuron) % 1) - 1) for layer, neuron in _named(own)]

    quartiles = [
        pl.col("loss_delta").quantile(q, "linear").alias(name)
        for q, name in ((0.25, "low"), (0.5, "middle"), (0.75, "high"))
    ]
    rows = part.group_by("layer", maintain_order=True).agg(
        pl.len(), *quartiles, pl.col("loss_delta").max().alias("most")
    )
    numbers = Table(
        ("layer", "neurons", "lower quartile", "median", "upper quartile", "largest"), tuple(rows.iter_rows())
    )
    x = Axis("", "names", tuple(layers if len(layers) <= 24 else _every(layers)))
    return Panel("Change of loss (nats)", x, Axis(""), _marks(part, spread), table=numbers, wide=True)


def _csi_panel(part: pl.DataFrame) -> Panel:
    finite = part.filter(pl.col("csi").is_finite(), pl.col("loss_delta").is_finite())
    marks = _marks(finite, lambda own: own["csi"].to_list())
    correlations = [
        (str(layer), own.height, spearman(own, "csi", "loss_delta"))
        for (layer,), own in finite.group_by("layer", maintain_order=True)
    ]
    numbers = Table(("layer", "neurons", "rank correlation of CSI and change of loss"), tuple(correlations))
    return Panel(
        "Change of loss (nats) against CSI", Axis("CSI"), Axis("change of loss"), marks, table=numbers, wide=True
    )


def _marks(part: pl.DataFrame, x: Callable[[pl.DataFrame], list[float]]) -> tuple[Points, ...]:
    """A neuron a point, its change of loss upwards, by stage."""
    return tuple(
        Points(
            str(stage),
            x(own),
            own["loss_delta"].to_list(),
            [f"{layer}, neuron {neuron}" for layer, neuron in _named(own)],
        )
        for (stage,), own in _some(part).group_by("stage", maintain_order=True)
    )


def _some(part: pl.DataFrame) -> pl.DataFrame:
    """So many that a browser can draw them, the most and least harmful always among them."""
    ordered = part.sort("loss_delta", "layer", "neuron")
    if ordered.height > MOST_DRAWN:
        step = (ordered.height - 1) / (MOST_DRAWN - 1)
        ordered = ordered[[round(i * step) for i in range(MOST_DRAWN)]]
    return ordered


def _named(part: pl.DataFrame) -> list[tuple[str, int]]:
    return list(part.select("layer", "neuron").iter_rows())


def _every(layers: list[str]) -> list[str]:
    every = -(-len(layers) // 24)
    return [layer if place % every == 0 else "" for place, layer in enumerate(layers)]


def _neurons(part: pl.DataFrame, names: list[str]) -> Table:
    columns = ("layer", "neuron", "loss_delta", "loss_delta_se", "top1_delta", "right_to_wrong", "preferred_class")
    rows = []
    for _, own in part.group_by("layer", maintain_order=True):
        top = own.sort("loss_delta", descending=True, nulls_last=True, maintain_order=True).head(TOP_NEURONS)
        for layer, neuron, *effects, top1, lost, preferred in top.select(columns).iter_rows():
            rows.append((layer, neuron, *effects, _points(top1), f"{lost:.2%}", class_name(preferred, names)))
    return Table(_NEURON, tuple(rows))


def _together(tables: Mapping[str, pl.DataFrame]) -> list[tuple[str, Table]]:
    found = []
    if "groups" in tables:
        columns = ("group", "neurons", "value", "loss_delta", "loss_delta_se", "top1_delta", "right_to_wrong")
        rows = [
            (str(group), neurons, value, *effects, _points(top1), f"{lost:.2%}")
            for group, neurons, value, *effects, top1, lost in tables["groups"].select(columns).iter_rows()
        ]
        found.append(("Groups", Table(_GROUP, tuple(rows))))
    if "cumulative_areas" in tables:
        areas = tables["cumulative_areas"].group_by("scope", "value", "order", maintain_order=True)
        mean = areas.agg(
            pl.col("area").mean(), pl.len(), pl.col("area").min().alias("low"), pl.col("area").max().alias("high")
        )
        rows = [(*row[:4], row[5], row[6], row[4]) for row in mean.iter_rows()]
        header = ("scope", "value", "order", "area", "lowest", "highest", "draws")
        found.append(("Areas under the curves of growing sets", Table(header, tuple(rows))))
    return found


def _points(share: float) -> str:
    return f"{share * 100:+.2f} points".replace("-", "\u2212")


def _intact(result: Mapping[str, Any]) -> tuple[str, str]:
    return "Intact", f"top-1 {result['top1']:.2%}, loss {number(result['loss'], 4)} nats"


def _of_result(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Replaced", "; ".join(REPLACED[value] for value in result["values"])),
        ("Mode", f"{result['mode']}: {MODES[result['mode']]}"),
    ]


def _methods(record: Mapping[str, Any], result: Mapping[str, Any], table: pl.DataFrame) -> str:
    made, data = record["made"]["versions"], record["data"]
    neurons, layers, images, *_ = facts(record, table)
    sets = f" ({count(len(record['checkpoints']), 'set')} of weights)" if len(record["checkpoints"]) > 1 else ""
    ways = " and ".join(REPLACED[value] for value in result["values"])
    return (
        f"Each of {neurons} in {layers} of {record['model']['name']}{sets} was replaced alone ({ways}) with vestige "
        f"{made['vestige']} (PyTorch {made['torch']}, {record['settings']['dtype']}) on {images} of {data['name']} "
        f"(inputs: {data['preprocess']}); mode {result['mode']}: {MODES[result['mode']]}. A neuron is one channel of a "
        f"layer's output. Batch-norm statistics: {result['batch_norm']}. Changes are of mean cross-entropy and of "
        "top-1 accuracy, ablated minus intact, on the same images; standard errors are of the paired change."
    )
