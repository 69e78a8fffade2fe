"""F5: harm to final accuracy by onset and dose, one panel for each length, of a study with a grid."""

import polars as pl

from vestige.acting import plain
from vestige.report.figures.harm import FINAL, harms, unfinished
from vestige.report.figures.source import Source
from vestige.report.panels import Axis, Figure, Heat, Panel, Table, View


def timing(source: Source) -> Figure:
    """Figure F5."""
    grid = source.study.grid
    assert grid is not None, "only a study with a grid has this figure"
    cells = {name for name, *_ in grid.cells()}
    found = {name: harm for name, harm in _harms(source).items() if name in cells}
    panels = tuple(_panel(source, found, length) for length in sorted(grid.length))
    lacking = [name for name, *_ in grid.cells() if name not in found]
    said = unfinished(source)
    if lacking:
        said.append(f"Not trained to the end beside {source.baseline}: {', '.join(lacking)}.")
    return Figure(
        id="F5",
        title="When, and how much",
        caption=f"Harm of {grid.intervention.kind} to final accuracy (mean of the last {FINAL} checkpoints) against "
        f"{source.baseline}, in percentage points, paired by seed, mean over seeds. Orange is harm, blue is gain.",
        alternative="Heat maps: a column for each onset, a row for each dose, a map for each length of the window.",
        views=(View("harm", panels, (), "F5-timing"),) if found else (),
        missing=tuple(said),
        sources=("runs/*/history.parquet",),
    )


def _panel(source: Source, harms: dict[str, tuple[float, int]], length: float) -> Panel:
    grid = source.study.grid
    assert grid is not None
    reach = 100 * max((abs(harm) for harm, _ in harms.values()), default=0.0) or 1.0
    onsets, doses = sorted(grid.onset), sorted(grid.dose or (None,), key=lambda dose: (dose is None, dose))
    names = {(onset, dose): name for name, onset, long, dose in grid.cells() if long == length}
    cells = [[names[onset, dose] for onset in onsets] for dose in doses]
    values = tuple(tuple(_points(harms, name) for name in row) for row in cells)
    texts = tuple(tuple(f"{name}, {harms[name][1]} seeds" if name in harms else name for name in row) for row in cells)
    dosed = "as stated" if grid.doses is None or grid.dose is None else grid.doses
    told = tuple("as stated" if dose is None else plain(dose).replace("-", "\u2212") for dose in doses)
    rows = tuple(
        (plain(onset), dose, value, harms[name][1] if name in harms else None)
        for dose, line, row in zip(told, cells, values, strict=True)
        for onset, name, value in zip(onsets, line, row, strict=True)
    )
    return Panel(
        f"{plain(length)} {grid.unit} long",
        Axis(f"onset ({grid.unit})", "names", tuple(map(plain, onsets))),
        Axis(dosed, "names", told),
        (Heat("harm", values, texts, reach),) if any(value is not None for row in values for value in row) else (),
        table=Table((f"onset ({grid.unit})", dosed, "harm (points)", "seeds"), rows),
    )


def _points(harms: dict[str, tuple[float, int]], name: str) -> float | None:
    return 100 * harms[name][0] if name in harms else None


def _harms(source: Source) -> dict[str, tuple[float, int]]:
    """By condition: its harm, mean over seeds, and how many these are."""
    means = harms(source).group_by("condition").agg(pl.col("harm").mean(), pl.len())
    return {name: (harm, seeds) for name, harm, seeds in means.rows()}
