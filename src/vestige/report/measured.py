"""`report.html` of a measured model: one file that opens offline, made from `measured.json` and the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from vestige.report.distributions import WORDS, agreement_figure, layer_figure, step_figure
from vestige.report.foreign_page import class_name, facts, render, shown_checkpoint, subject
from vestige.report.methods import methods
from vestige.report.panels import Table
from vestige.runs.store import write_text

TOP_NEURONS = 20
MANY_LAYERS = 10
"""From here on each panel has a row of its own."""
_MOST_SELECTIVE = ("layer", "neuron", "preferred class", "second class", "CSI", "CSI (CV)", "η²", "p", "selective")


def write_measured(path: Path, record: Mapping[str, Any], tables: Sequence[pl.DataFrame]) -> Path:
    """Write the page. The same record and tables give the same bytes.

    Args:
      path: of the page.
      record: the contents of `measured.json`.
      tables: of each of its checkpoints, with the columns of `runs.tables` for selectivity, protocols beneath each
        other.

    Returns:
      `path`.

    Raises:
      StoreError: it cannot be written.
    """
    write_text(path, render_measured(record, tables))
    return path


def render_measured(record: Mapping[str, Any], tables: Sequence[pl.DataFrame]) -> str:
    """The page as HTML, everything it needs within it."""
    protocols = [result["protocol"] for result in record["checkpoints"][-1]["results"]]
    shown = shown_checkpoint(record)
    last = [(protocol, tables[shown].filter(protocol=protocol)) for protocol in protocols]
    steps = pl.concat(tables).filter(pl.col("step").is_not_null())
    sources = [entry["table"] for entry in record["checkpoints"]]
    figures = [replace(make(last), sources=(sources[shown],)) for make in (layer_figure, agreement_figure)]
    if steps["step"].n_unique() > 1:
        figures.append(replace(step_figure(steps), sources=("selectivity/",)))
    names = record["data"]["class_names"]
    return render(
        "measured",
        record,
        figures,
        steps["step"].to_list(),
        facts=[*facts(record, last[0][1]), *(WORDS[protocol] for protocol in protocols)],
        subject=subject(record, "measured", _of_data(record)),
        many_layers=last[0][1]["layer"].n_unique() > MANY_LAYERS,
        by_layer=[(WORDS[protocol].capitalize(), _by_layer(part)) for protocol, part in last],
        neurons=[(WORDS[protocol].capitalize(), _neurons(part, names)) for protocol, part in last],
        methods=methods(record, tables),
    )


def _of_data(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = record["data"]
    named = [name for name in data["class_names"] if name]
    listed = ", ".join(named[:6]) + (", …" if len(named) > 6 else "")
    shape = " × ".join(map(str, data["input_shape"])) if data["input_shape"] else "as the data give it"
    return [("Classes", f"{data['classes']}" + (f": {listed}" if named else "")), ("Input", shape)]


def _by_layer(table: pl.DataFrame) -> Table:
    alive, columns = ~pl.col("dead"), ("csi", "csi_null_mean", "csi_cv", "eta2")
    grouped = table.group_by("layer", maintain_order=True).agg(
        pl.len().alias("neurons"),
        *(pl.col(name).filter(alive).fill_nan(None).mean().cast(pl.Float64) for name in columns),
        pl.col("csi").fill_nan(None).mean().cast(pl.Float64).alias("csi_all"),
        pl.col("selective").cast(pl.Float64).mean(),
        pl.col("dead").cast(pl.Float64).mean().alias("dead_share"),
        pl.col("closed").fill_nan(None).mean().cast(pl.Float64),
    )
    header = (
        "layer", "neurons", "CSI", "CSI without signal", "CSI (CV)", "η²", "CSI, dead ones too", "selective", "dead",
        "closed",
    )  # fmt: skip
    rows = tuple(
        (*row[:7], *("–" if share is None else f"{share:.1%}" for share in row[7:])) for row in grouped.iter_rows()
    )
    return Table(header, rows)


def _neurons(table: pl.DataFrame, names: Sequence[str]) -> Table:
    """Those called selective first, by the smaller of CSI and cross-validated CSI, either of which noise can raise."""
    both = pl.min_horizontal(pl.col("csi", "csi_cv").fill_nan(None))
    ranked = table.filter(~pl.col("dead")).sort(
        pl.col("selective").fill_null(False), both, descending=True, nulls_last=True, maintain_order=True
    )
    columns = ("layer", "neuron", "preferred_class", "second_class", "csi", "csi_cv", "eta2", "p_value", "selective")
    rows = []
    for layer, neuron, first, second, *values, selective in ranked.head(TOP_NEURONS).select(columns).iter_rows():
        said = {True: "yes", False: "no"}.get(selective, "–")
        rows.append((layer, neuron, class_name(first, names), class_name(second, names), *values, said))
    return Table(_MOST_SELECTIVE, tuple(rows))
