"""Figures of one measurement: how selective the neurons of each layer are, and whether the measures agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from vestige.report.panels import Axis, Band, Curve, Figure, Key, Mark, Panel, Points, StepScale, Table, View
from vestige.report.style import count, slot

SHOWN_A_LAYER = 120
SHOWN_AT_ALL = 3000
SPREAD = 0.34
"""How far the points of a layer spread to either side of its place."""
NAMES_SHOWN = 24
DRAWN = (-1.0, 1.0)
"""Cross-validated CSI of a neuron that hardly fires may be far beyond."""

MEASURES = {
    "csi": "Class selectivity (CSI)",
    "csi_cv": "Cross-validated CSI",
    "eta2": "Variance explained by class (η²)",
}
SHORT = {"csi": "CSI", "csi_cv": "cross-validated CSI", "eta2": "η²"}
WORDS = {"corrected": "corrected protocol", "faithful": "faithful protocol"}


@dataclass(frozen=True)
class AsTheyAre(StepScale):
    """A scale for places that are not steps: it changes nothing."""

    def __call__(self, step: float) -> float:
        """The same place."""
        return step


def layer_figure(tables: Sequence[tuple[str, pl.DataFrame]]) -> Figure:
    """Every layer's distribution of the measures, for each (protocol, table)."""
    return Figure(
        "layers",
        "Selectivity, layer by layer",
        "Each point is a neuron that fires, the line joins the layers' medians. The shaded band is what CSI looks like "
        "without any signal: from the mean to the 95% quantile over permuted labels, averaged over a layer's neurons. "
        "CSI is biased upward by noise, so it is to be read against that band; cross-validated CSI is 0 on average "
        "without signal (beyond ±1 it is drawn there); η² does not depend on a neuron's offset.",
        f"Distributions of CSI, cross-validated CSI and η² over the neurons of {count(_layers(tables), 'layer')}.",
        tuple(_layer_view(protocol, table) for protocol, table in tables),
        missing=_lacking(tables),
    )


def agreement_figure(tables: Sequence[tuple[str, pl.DataFrame]]) -> Figure:
    """CSI against the other measures, neuron by neuron, for each (protocol, table)."""
    return Figure(
        "agreement",
        "Do the measures agree?",
        "Each point is a neuron that fires. Where a neuron is high by CSI and low by the others, its CSI is noise or "
        "sparse firing rather than information about the class.",
        "Scatter plots of CSI against cross-validated CSI and against η².",
        tuple(_agreement_view(protocol, table) for protocol, table in tables),
        missing=_lacking(tables),
    )


def step_figure(table: pl.DataFrame) -> Figure:
    """The stages' means through steps, a view for each protocol; `table` holds all steps."""
    views = []
    for (protocol,), part in table.group_by("protocol", maintain_order=True):
        stages = part["stage"].unique(maintain_order=True).to_list()
        keys = tuple(Key(stage, *slot(i + 1)) for i, stage in enumerate(stages))
        panels = tuple(step_panel(part, column, title, ~pl.col("dead")) for column, title in MEASURES.items())
        views.append(View(WORDS.get(str(protocol), str(protocol)), panels, keys))
    return Figure(
        "steps",
        "Through the checkpoints",
        "Means over the neurons of a stage that fire, at every checkpoint whose step is known.",
        "Curves of mean CSI, cross-validated CSI and η² against the step, one for each stage.",
        tuple(views),
    )


def quantile_rows(table: pl.DataFrame, column: str) -> list[tuple[str, float | None, float | None, float | None]]:
    """Layer, lower quartile, median and upper quartile of a measure over the neurons that fire."""
    rows = []
    for (layer,), part in table.group_by("layer", maintain_order=True):
        values = _alive(part)[column].fill_nan(None).drop_nulls()
        rows.append((str(layer), *(values.quantile(q, "linear") for q in (0.25, 0.5, 0.75))))
    return rows


def _layer_view(protocol: str, table: pl.DataFrame) -> View:
    stages = table["stage"].unique(maintain_order=True).to_list()
    keys = (*(Key(stage, *slot(i + 1)) for i, stage in enumerate(stages)), Key("median", 0))
    keys = (*keys, Key("no signal", 0, "dot"))
    panels = tuple(_layer_panel(table, column, title) for column, title in MEASURES.items())
    return View(WORDS.get(protocol, protocol), panels, keys)


def _layer_panel(table: pl.DataFrame, column: str, title: str) -> Panel:
    names = table["layer"].unique(maintain_order=True).to_list()
    rows = quantile_rows(table, column)
    every = -(-len(names) // NAMES_SHOWN)
    x = Axis("", "names", tuple(name if i % every == 0 else "" for i, name in enumerate(names)))
    if all(median is None for _, _, median, _ in rows):
        return Panel(title, x, Axis(""), empty="No value: every one is missing (NaN).", wide=True)
    marks: list[Mark] = _null_marks(table, names) if column == "csi" and _has(table, "csi_null_q95") else []
    marks += _clouds(table, names, column)
    marks.append(Curve("median", list(range(len(names))), [median for _, _, median, _ in rows]))
    numbers = Table(("layer", "lower quartile", "median", "upper quartile"), tuple(rows))
    return Panel(title, x, Axis(""), tuple(marks), table=numbers, wide=True)


def _null_marks(table: pl.DataFrame, names: Sequence[str]) -> list[Mark]:
    means = _alive(table).group_by("layer").agg(pl.col("csi_null_mean", "csi_null_q95").fill_nan(None).mean())
    by_layer = {layer: (low, high) for layer, low, high in means.iter_rows()}
    low, high = zip(*(by_layer.get(name, (None, None)) for name in names), strict=True)
    # Half a place to either side, so that one layer has a band too.
    x = [-0.45, *range(len(names)), len(names) - 0.55]
    low, high = [low[0], *low, low[-1]], [high[0], *high, high[-1]]
    return [Band("no signal", x, low, high), Curve("no signal", x, low, "anchor")]


def _clouds(table: pl.DataFrame, names: Sequence[str], column: str) -> list[Points]:
    """At most so many neurons a layer, evenly spaced in rank: the picture of a distribution needs no more."""
    most = max(10, min(SHOWN_A_LAYER, SHOWN_AT_ALL // len(names)))
    clouds: dict[str, tuple[list[float], list[float], list[str]]] = {}
    for place, name in enumerate(names):
        part = _alive(table.filter(layer=name)).filter(pl.col(column).is_finite()).sort(column, "neuron")
        if part.is_empty():
            continue
        part = part[_evenly(part.height, most)]
        x, y, texts = clouds.setdefault(part["stage"][0], ([], [], []))
        # Low-discrepancy places: neighbours in rank lie apart.
        x += [place + SPREAD * (2 * ((0.5 + 0.6180339887 * i) % 1) - 1) for i in range(part.height)]
        y += part[column].clip(*DRAWN).to_list()
        texts += [f"{name}, neuron {neuron}" for neuron in part["neuron"]]
    return [Points(stage, x, y, texts) for stage, (x, y, texts) in clouds.items()]


def _agreement_view(protocol: str, table: pl.DataFrame) -> View:
    stages = table["stage"].unique(maintain_order=True).to_list()
    keys = tuple(Key(stage, *slot(i + 1)) for i, stage in enumerate(stages))
    panels = tuple(_agreement_panel(table, column) for column in ("csi_cv", "eta2"))
    return View(WORDS.get(protocol, protocol), panels, keys)


def _agreement_panel(table: pl.DataFrame, column: str) -> Panel:
    title = f"CSI and {SHORT[column]}"
    x, y = Axis("CSI"), Axis(SHORT[column])
    alive = _alive(table).filter(pl.col("csi").is_finite(), pl.col(column).is_finite())
    if alive.is_empty():
        return Panel(title, x, y, empty="No value: every one is missing (NaN).")
    correlations = tuple(
        (str(layer), spearman(part, "csi", column), part.height)
        for (layer,), part in alive.group_by("layer", maintain_order=True)
    )
    shown = alive.sort("csi", "layer", "neuron")[_evenly(alive.height, SHOWN_AT_ALL)]
    marks = tuple(
        Points(
            str(stage),
            part["csi"].to_list(),
            part[column].clip(*DRAWN).to_list(),
            [f"{layer}, neuron {neuron}" for layer, neuron in part.select("layer", "neuron").iter_rows()],
        )
        for (stage,), part in shown.group_by("stage", maintain_order=True)
    )
    numbers = Table(("layer", f"rank correlation of CSI and {SHORT[column]}", "neurons"), correlations)
    return Panel(title, x, y, marks, table=numbers)


def spearman(part: pl.DataFrame, first: str, second: str) -> float | None:
    """The rank correlation of two columns; None where there is nothing to rank."""
    if part.height < 3 or part[first].n_unique() < 2 or part[second].n_unique() < 2:
        return None
    return part.select(pl.corr(first, second, method="spearman")).item()


def step_panel(table: pl.DataFrame, column: str, title: str, counted: pl.Expr | None = None) -> Panel:
    """The stages' means of a column through steps.

    Args:
      table: of all steps.
      column: of it.
      title: of the panel.
      counted: which neurons count; None: all.
    """
    stages = table["stage"].unique(maintain_order=True).to_list()
    rows_of = table if counted is None else table.filter(counted)
    means = rows_of.group_by("stage", "step").agg(pl.col(column).fill_nan(None).mean()).sort("step")
    curves, by_step = [], {step: {} for step in sorted(table["step"].unique())}
    for stage in stages:
        own = means.filter(stage=stage)
        curves.append(Curve(stage, own["step"].to_list(), own[column].to_list()))
        for step, value in own.select("step", column).iter_rows():
            by_step[step][stage] = value
    rows = tuple((str(step), *(values.get(stage) for stage in stages)) for step, values in by_step.items())
    x = Axis("step", "steps")
    if means[column].null_count() == means.height:
        return Panel(title, x, Axis(""), empty="No value: every one is missing (NaN).")
    return Panel(title, x, Axis(""), tuple(curves), table=Table(("step", *stages), rows))


def _alive(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(~pl.col("dead"))


def _has(table: pl.DataFrame, column: str) -> bool:
    return bool(table[column].is_finite().any())


def _layers(tables: Sequence[tuple[str, pl.DataFrame]]) -> int:
    return tables[0][1]["layer"].n_unique() if tables else 0


def _lacking(tables: Sequence[tuple[str, pl.DataFrame]]) -> tuple[str, ...]:
    lines = []
    for protocol, table in tables:
        of = f" ({WORDS.get(protocol, protocol)})" if len(tables) > 1 else ""
        if dead := int(table["dead"].sum()):
            is_are = "is" if dead == 1 else "are"
            lines.append(f"{count(dead, 'neuron')} that never fire{'s' if dead == 1 else ''} {is_are} not drawn{of}.")
        if not any(_has(_alive(table), column) for column in MEASURES):
            lines.append(f"No neuron that fires has a value{of}: every one is missing (NaN).")
        elif not _has(table, "csi_null_q95"):
            lines.append(f"There is no band without signal{of}: no permutations were made.")
    return tuple(lines)


def _evenly(n: int, most: int) -> list[int]:
    """At most `most` of n places, evenly spaced, both ends among them."""
    if n <= most:
        return list(range(n))
    return [round(i * (n - 1) / (most - 1)) for i in range(most)]
