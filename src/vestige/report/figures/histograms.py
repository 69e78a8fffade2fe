"""How selectivity spreads over the neurons of a stage, one checkpoint at a time: shares of neurons in bins of 0.05."""

import math

import polars as pl

from vestige.report.figures.source import FIRES, Source
from vestige.report.panels import Axis, Curve, Panel, Table, View

BINS = 20
"""To 1."""
_MEASURES = {"csi": ("CSI", 0.0), "csi_cv": ("cross-validated CSI", -0.5)}
"""In words, and where the bins begin; what lies outside them is in the outermost."""


def histograms(source: Source) -> tuple[View, ...]:
    """Views of the baseline by the corrected protocol, each with a slide for every checkpoint; none without it."""
    rows = source.table("selectivity").filter(FIRES, condition=source.baseline, protocol="corrected")
    found = (_view(source, rows, measure) for measure in _MEASURES if rows[measure].count())
    return tuple(found)


def _view(source: Source, rows: pl.DataFrame, measure: str) -> View:
    said, start = _MEASURES[measure]
    shares = _shares(rows, measure, round(start * BINS))
    highest = max(value for by_stage in shares.values() for values in by_stage.values() for value in values)
    x, y = Axis(said, floor=start, ceiling=1.0), Axis("", percent=True, floor=0.0, ceiling=1.05 * highest)
    places = [start + (place + 0.5) / BINS for place in range(BINS - round(start * BINS))]
    panels = tuple(_panel(step, by_stage, places, x, y) for step, by_stage in shares.items())
    name = f"{source.baseline} · spread of {said} · every checkpoint"
    return View(name, panels, tuple(source.stage_keys.values()), slides=tuple(shares))


def _panel(step: int, by_stage: dict[str, list[float]], places: list[float], x: Axis, y: Axis) -> Panel:
    lines = tuple(Curve(stage, places, values, note=f"step {step}") for stage, values in by_stage.items())
    rows = zip((f"{place - 0.5 / BINS:.2f}" for place in places), *by_stage.values(), strict=True)
    table = Table((f"{x.label} from", *by_stage), tuple(rows))
    return Panel(f"Step {step}", x, y, lines, "share of a stage’s living neurons, all seeds", table=table)


def _shares(rows: pl.DataFrame, measure: str, first: int) -> dict[int, dict[str, list[float]]]:
    """By step and stage: the share of neurons in each bin."""
    place = (pl.col(measure).cast(pl.Float64) * BINS).floor().clip(first, BINS - 1).cast(pl.Int64) - first
    counted = rows.drop_nulls(measure).group_by("step", "stage", place.alias("bin")).len()
    shares = {
        step: {stage: [0.0] * (BINS - first) for stage in rows["stage"].unique(maintain_order=True)}
        for step in sorted(counted["step"].unique())
    }
    for step, stage, bin_, neurons in counted.iter_rows():
        shares[step][stage][bin_] = float(neurons)
    return {
        step: {stage: _normed(counts) for stage, counts in by_stage.items() if sum(counts)}
        for step, by_stage in shares.items()
    }


def _normed(counts: list[float]) -> list[float]:
    total = math.fsum(counts)
    return [count / total for count in counts]
