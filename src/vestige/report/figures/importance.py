"""F2c: do selective neurons matter more? Rank correlation of selectivity with importance through training."""

import polars as pl

from vestige.report.figures.ablation import VALUES
from vestige.report.figures.source import FIRES, Source, curves, single_seed, step_table
from vestige.report.panels import Axis, Figure, Key, Panel, View
from vestige.stats.ranks import fisher_mean, partial_spearman

MEASURES = {
    "csi": Key("csi", 0),
    "csi_cv": Key("csi_cv", 1, "dash"),
    "eta2": Key("eta2", 2, "dot"),
}
_RUN = ["condition", "seed", "step"]
_NEURON = [*_RUN, "stage", "layer", "neuron"]


def importance(source: Source) -> Figure:
    """Figure F2c: partial Spearman correlation of selectivity and the change of loss, by checkpoint."""
    rows = correlations(source.table("ablation"), source.table("selectivity"))
    views = [
        _view(source, rows.filter(condition=condition), condition)
        for condition in sorted(source.conditions(rows), key=lambda name: name != source.baseline)
    ]
    wanted = source.study.measurements.ablation
    conditions = (wanted.conditions if wanted else None) or source.study.conditions
    said = source.lacking("ablation", conditions, "single-neuron ablation")
    if not rows.is_empty():
        said += single_seed(rows)
    return Figure(
        id="F2c",
        title="Do selective neurons matter more?",
        caption="Spearman correlation over the neurons of a layer between selectivity and how much the loss grows when "
        "the neuron alone is ablated, given their mean activation; Fisher-z averaged over layers. 0: selectivity says "
        "nothing about importance that activity does not. Living neurons only.",
        alternative="Curves against optimiser steps of the rank correlation of three measures of selectivity with the "
        "change of loss under ablation; one panel for each value that replaces a neuron.",
        views=tuple(views),
        missing=tuple(said),
        sources=(
            source.files("ablation-<value>-<split>/step-*.parquet"),
            source.files("selectivity-corrected-<split>/step-*.parquet"),
        ),
    )


def correlations(ablation: pl.DataFrame, selectivity: pl.DataFrame) -> pl.DataFrame:
    """Partial Spearman correlation of selectivity with the change of loss, given mean activation, averaged over layers.

    Args:
      ablation: rows of the table "ablation".
      selectivity: rows of the table "selectivity"; those of the corrected protocol are used, where there are any.

    Returns:
      a row a condition, seed, step, value and measure: column `rho`, null where no layer has one.
    """
    measured = selectivity.filter(FIRES)
    if "corrected" in measured["protocol"]:
        measured = measured.filter(protocol="corrected")
    both = ablation.join(measured.select(*_NEURON, "mean", *MEASURES), on=_NEURON, how="inner", maintain_order="left")
    found = []
    for keys, layer in both.group_by(*_RUN, "value", "layer", maintain_order=True):
        for measure in MEASURES:
            columns = (layer[name].to_list() for name in (measure, "loss_delta", "mean"))
            found.append((*keys, measure, partial_spearman(*columns)))
    schema = {name: both.schema[name] for name in (*_RUN, "value", "layer")} | {"measure": pl.String, "rho": pl.Float64}
    by_layer = pl.DataFrame(found, schema=schema, orient="row")
    averaged = by_layer.group_by(*_RUN, "value", "measure", maintain_order=True).agg(
        pl.col("rho").map_batches(lambda r: fisher_mean(r.to_list()), return_dtype=pl.Float64, returns_scalar=True)
    )
    return averaged.with_columns(pl.col("rho").fill_nan(None))


def _view(source: Source, rows: pl.DataFrame, condition: str) -> View:
    panels = []
    named = rows.with_columns(measure=pl.col("measure").replace({name: key.name for name, key in MEASURES.items()}))
    for value in (value for value in VALUES if value in rows["value"]):
        lines = curves(named.filter(value=value), "measure", "rho")
        panels.append(
            Panel(
                f"Correlation with the change of loss, {VALUES[value]}",
                source.steps,
                Axis("partial Spearman r"),
                tuple(lines),
                levels=((0.0, ""),),
                shade=source.early,
                table=step_table(lines),
                empty="" if lines else "No layer has neurons that differ enough.",
            )
        )
    name = "F2-importance" if condition == source.baseline else ""
    return View(condition, tuple(panels), tuple(MEASURES.values()), name)
