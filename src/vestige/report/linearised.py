"""`linearity.html` of a model: one file that opens offline, made from `linearity.json` and the tables."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from vestige.report.foreign_page import facts, render, results_of, shown_checkpoint, subject
from vestige.report.panels import Axis, Curve, Figure, Key, Panel, Points, Table, View
from vestige.report.style import count
from vestige.runs.store import write_text

LOGITS, INPUT, ALL = "logits", "input", "all"
NAMES_SHOWN = 24
NETWORK, ANCHOR, INDEPENDENT = "the network", "without ReLUs", "independent gates"
_CHURN = ("gate-churn", "gate-churn-independent")
MEASURES = {
    "midpoint": ("Midpoint nonlinearity", "0: affine; √3: unrelated outputs", "0 where ReLUs are all there is"),
    "gate-churn": ("Gate churn", "share of ReLU gates that differ within a pair; 0: affine", "0: it has no gates"),
    "cka": ("Linear CKA", "1: the same up to rotation and scale; 0: unrelated", "less than 1"),
    "ridge-flattened": (
        "Ridge R² of the logits from whole maps",
        "1: the logits are affine in these values; 0: no better than their mean",
        "1, if the images outnumber the dimensions of the input",
    ),
    "ridge-pooled": (
        "Ridge R² of the logits from pooled activations",
        "the same of spatial means; 1 by construction where the classifier takes the pooled layer",
        "less than 1",
    ),
    "kalimeris": (
        "Explained by a linear model",
        "1: what the network knows of the classes, a linear model of the pixels knows too; 0: none of it",
        "read against it, not against 1",
    ),
    "correlation-top": ("Correlation, most active channels", "the paper's; 1: proportional", "0.4 to 0.6 at random"),
    "correlation-csi": ("Correlation, channels of highest CSI", "1: proportional", "read against it"),
    "correlation-fixed": ("Correlation, channels drawn once", "1: proportional", "read against it"),
}
"""What each is called, what its ends mean, what the network without ReLUs reads; by the measure's name but for k."""
_LEVELS = {"midpoint": ((0.0, "affine"), (math.sqrt(3), "unrelated"))}
_KEYS = (Key(NETWORK, 1), Key(ANCHOR, 0, "dot"))


def write_linearised(
    path: Path, record: Mapping[str, Any], table: pl.DataFrame, through: pl.DataFrame | None = None
) -> Path:
    """Write the page. The same record and tables give the same bytes.

    Args:
      path: of the page.
      record: the contents of `linearity.json`.
      table: of the checkpoint that `shown_checkpoint` names, with the columns of `runs.tables` for linearity.
      through: of all checkpoints, where there are several.

    Returns:
      `path`.

    Raises:
      StoreError: it cannot be written.
    """
    write_text(path, render_linearised(record, table, through))
    return path


def render_linearised(record: Mapping[str, Any], table: pl.DataFrame, through: pl.DataFrame | None = None) -> str:
    """The page as HTML, everything it needs within it."""
    entry = record["checkpoints"][shown_checkpoint(record)]
    figures = [replace(layers_figure(table), sources=(entry["tables"]["linearity"],))]
    steps = [] if through is None else through["step"].drop_nulls().unique().to_list()
    if through is not None and len(steps) > 1:
        figures.append(
            replace(steps_figure(through.filter(pl.col("step").is_not_null())), sources=("linearity.parquet",))
        )
    (result,) = entry["results"]
    return render(
        "linearised",
        record,
        figures,
        steps,
        facts=[*_layers(table), *facts(record)],
        subject=subject(record, "", [] if record["files"] else [_intact(result)]),
        whole=_whole(table),
        meanings=_meanings(table),
        methods=_methods(record, result, table),
    )


def layers_figure(table: pl.DataFrame) -> Figure:
    """Every measure that layers have, layer by layer, beside the network without its ReLUs."""
    shown = table.filter(pl.col("other").is_in(["", INPUT, LOGITS]), pl.col("layer") != ALL)
    panels = []
    for measure, other in shown.select("measure", "other").unique(maintain_order=True).iter_rows():
        rows = shown.filter(measure=measure, other=other)
        if measure in MEASURES and (measure != "kalimeris"):
            panels.append(_layer_panel(rows, measure, other, shown))
    between = table.filter(~pl.col("other").is_in(["", INPUT, LOGITS])).height
    said = [f"CKA between two layers ({count(between, 'pair')}) is in the table, not drawn."] if between else []
    if lost := table.filter(pl.col("value").is_nan()).height:
        said.append(f"{lost} of {table.height} values are undefined (NaN).")
    keys = (*_KEYS, Key(INDEPENDENT, 2, "dash"))
    return Figure(
        "layers",
        "How close to linear, layer by layer",
        "Dotted: the same network with every ReLU taken out, which is what a linear network of this shape reads where "
        "ReLUs are its only nonlinearity. Midpoint nonlinearity and gate churn are 0 there; the other measures are to "
        "be read against it, not against 1.",
        "Measures of linearity over the layers, each beside the network without ReLUs.",
        (View("layers", tuple(panels), keys),),
        missing=tuple(said),
    )


def steps_figure(table: pl.DataFrame) -> Figure:
    """What is measured of the logits, and the mean gate churn, through steps; `table` holds all steps."""
    churn = table.filter(measure="gate-churn").group_by("step", maintain_order=True)
    mean = churn.agg(pl.col("value", "anchor").fill_nan(None).mean())
    parts = [
        ("Midpoint nonlinearity of the logits", table.filter(measure="midpoint", layer=LOGITS)),
        ("Gate churn, mean over layers", mean),
        ("Explained by a linear model", table.filter(measure="kalimeris", layer=LOGITS)),
        ("Linear CKA of logits and input", table.filter(measure="cka", layer=LOGITS, other=INPUT)),
        ("Ridge R² of the logits from the input", table.filter(measure="ridge-flattened", layer=INPUT)),
        ("Correlation, most active channel", table.filter(measure="correlation-top1")),
    ]
    panels = tuple(_step_panel(title, rows) for title, rows in parts if not rows.is_empty())
    return Figure(
        "steps",
        "Through the checkpoints",
        "At every checkpoint whose step is known; dotted: the same weights without ReLUs.",
        "Curves of measures of linearity against the step, each beside the network without ReLUs.",
        (View("steps", panels, _KEYS),),
    )


def _layer_panel(rows: pl.DataFrame, measure: str, other: str, shown: pl.DataFrame) -> Panel:
    title, ends, _ = MEASURES[measure]
    title = f"{title} with the {other}" if other else title
    names, places = rows["layer"].to_list(), list(range(rows.height))
    every = -(-len(names) // NAMES_SHOWN)
    x = Axis("", "names", tuple(name if i % every == 0 else "" for i, name in enumerate(names)))
    lines = {NETWORK: _finite(rows["value"]), ANCHOR: _finite(rows["anchor"])}
    if measure == _CHURN[0]:
        independent = rows.select("layer").join(shown.filter(measure=_CHURN[1]), on="layer", how="left")["value"]
        lines[INDEPENDENT] = _finite(independent)
    if all(value is None for value in lines[NETWORK]):
        return Panel(title, x, Axis(""), subtitle=ends, empty="No value: every one is undefined (NaN).", wide=True)
    drawn = {key: line for key, line in lines.items() if any(value is not None for value in line)}
    marks = [Curve(key, places, line, "mean" if key == NETWORK else "anchor") for key, line in drawn.items()]
    points = [Points(key, places, line, names) for key, line in drawn.items()]
    table = Table(("layer", *lines), tuple(zip(names, *lines.values(), strict=True)))
    y = Axis("", floor=0.0 if measure in ("midpoint", "gate-churn") else None)
    return Panel(title, x, y, (*marks, *points), ends, _LEVELS.get(measure, ()), table=table, wide=True)


def _step_panel(title: str, rows: pl.DataFrame) -> Panel:
    rows = rows.sort("step")
    steps, value, anchor = rows["step"].to_list(), _finite(rows["value"]), _finite(rows["anchor"])
    x = Axis("step", "steps")
    if all(one is None for one in value):
        return Panel(title, x, Axis(""), empty="No value: every one is undefined (NaN).")
    marks = [Curve(NETWORK, steps, value)]
    marks += [Curve(ANCHOR, steps, anchor, "anchor")] if any(one is not None for one in anchor) else []
    numbers = tuple((str(step), *both) for step, *both in zip(steps, value, anchor, strict=True))
    return Panel(title, x, Axis(""), tuple(marks), table=Table(("step", NETWORK, ANCHOR), numbers))


def _whole(table: pl.DataFrame) -> Table:
    """The measures of the whole network, and of its logits alone."""
    of_layers = table.filter(pl.col("layer") != LOGITS).filter(pl.col("layer") != ALL)["measure"].unique().to_list()
    rows = table.filter(pl.col("other") == "", pl.col("layer").is_in([LOGITS, ALL]))
    rows = rows.filter(~pl.col("measure").is_in(of_layers) | (pl.col("measure") == "midpoint"))
    cells = tuple(
        (f"{measure} ({LOGITS})" if layer == LOGITS else measure, value, anchor)
        for measure, layer, value, anchor in rows.select("measure", "layer", "value", "anchor").iter_rows()
    )
    return Table(("measure", NETWORK, ANCHOR), cells)


def _meanings(table: pl.DataFrame) -> Table:
    kinds = table["measure"].str.replace(r"\d+$", "").unique(maintain_order=True)
    rows = tuple((kind, *MEASURES[kind]) for kind in kinds if kind in MEASURES)
    return Table(("measure", "what it is", "what its ends mean", "the network without ReLUs"), rows)


def _layers(table: pl.DataFrame) -> list[str]:
    return [count(table.filter(~pl.col("layer").is_in([LOGITS, INPUT, ALL]))["layer"].n_unique(), "layer")]


def _finite(values: pl.Series) -> list[float | None]:
    return values.fill_nan(None).to_list()


def _intact(result: Mapping[str, Any]) -> tuple[str, str]:
    return "Accuracy", f"top-1 {result['top1']:.2%}, loss {result['loss']:.4g} nats"


def _methods(record: Mapping[str, Any], result: Mapping[str, Any], table: pl.DataFrame) -> str:
    made, data = record["made"]["versions"], record["data"]
    sets = f" ({count(len(record['checkpoints']), 'set')} of weights)" if len(record["checkpoints"]) > 1 else ""
    anchor = (
        "Each number is given beside that of the same network, with the same weights and batch-norm statistics, every "
        "ReLU being replaced by the identity. "
        if result["anchor"]
        else "There is no network without ReLUs to compare with. "
    )
    pairs = min(result["pairs"], results_of(record)[-1]["n"])
    return (
        f"How close to linear {record['model']['name']}{sets} is, in {_layers(table)[0]} and its logits, was measured "
        f"with vestige {made['vestige']} (PyTorch {made['torch']}, {record['settings']['dtype']}) on "
        f"{count(result['n'], 'image')} of {data['name']} (inputs: {data['preprocess']}). Midpoint nonlinearity and "
        f"gate churn are of {count(pairs, 'pair')} of inputs that are neighbours on a random way through the images; "
        f"CKA is the unbiased linear one, on {count(min(result['cka_images'], result['n']), 'image')}. {anchor}"
        f"Batch-norm statistics: {result['batch_norm']}."
    )
