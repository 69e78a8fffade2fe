"""A study's files as pyarrow reads them, and plain arithmetic on their rows: witnesses of the page's numbers."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

Row = dict[str, Any]


@dataclass
class Shown:
    """A panel: the rows of its table (None: it has none), and of each trace its group, x and y (or z), and texts."""

    title: str
    rows: list[Any] | None
    traces: list[tuple[str, list[Any], list[Any]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Files:
    """A study's files; NaN is read as None."""

    def __init__(self, home: Path):
        self.tables = {path.stem: [_without_nan(row) for row in pq.read_table(path).to_pylist()]
                       for path in sorted(home.glob("*.parquet"))}  # fmt: skip
        self.claims = json.loads((home / "claims.json").read_text())
        self.manifests = json.loads((home / "manifests.json").read_text())
        self.study = yaml.safe_load((home / "study.yaml").read_text())
        self.names = [*self.study["conditions"], *grid_cells(self.study["grid"])]
        self.first = min({row["step"] for rows in self.tables.values() for row in rows} - {0})

    def rows(self, kind: str, **where: Any) -> list[Row]:
        return [row for row in self.tables[kind] if all(row[name] == value for name, value in where.items())]

    def branched(self, rows: list[Row]) -> list[Row]:
        """With the parent's rows at the onset, for runs that branch off."""
        parents = [(one["condition"], one["parent"]) for one in self.manifests if one["parent"]]
        return rows + [
            row | {"condition": name} for name, parent in parents for row in rows
            if all(row[key] == parent[key] for key in ("condition", "seed", "step"))
        ]  # fmt: skip

    def place(self, step: float) -> float:
        """Where a step lies: 0 at 0, the first at 0.4, then log10."""
        return 0.4 + math.log10(step / self.first) if step else 0.0

    def conditions(self, rows: list[Row]) -> list[str]:
        return [name for name in self.names if any(row["condition"] == name for row in rows)]

    def lines(self, title: str, rows: list[tuple], names: list[str], *, seeds=True, anchors=(), bands=()) -> Shown:
        """Curves of rows (name, seed, step, value): a thin one a seed, a thick mean; a table of means and anchors."""
        traces = [(name, *self.drawn(side)) for name, low, high in bands for side in (low, high)]
        traces += [(name, *self.drawn(curve)) for name, _, curve in anchors]
        columns: dict[str, dict[int, float | None]] = {}
        for name in names:
            own = [(seed, step, value) for group, seed, step, value in rows if group == name]
            each = {seed: {t: v for s, t, v in own if s == seed} for seed in dict.fromkeys(row[0] for row in own)}
            if not any(value is not None for *_, value in own):
                continue
            if seeds:
                traces += [(name, *self.drawn(curve)) for curve in each.values() if any_known(curve)]
            columns[name] = mean_curve((t, v) for _, t, v in own)
            traces.append((name, *self.drawn(columns[name])))
        columns |= {f"{name}, {note}": curve for name, note, curve in anchors}
        steps = sorted({step for curve in columns.values() for step in curve})
        table = [["step", *columns], *([step, *(curve.get(step) for curve in columns.values())] for step in steps)]
        return Shown(title, table, traces)

    def drawn(self, curve: dict[int, float | None]) -> tuple[list[float], list[float | None]]:
        return [self.place(step) for step in sorted(curve)], [curve[step] for step in sorted(curve)]


def grid_cells(grid: dict[str, Any]) -> list[str]:
    return [cell(grid, *at) for at in product(grid["onset"], grid["length"], grid["dose"])]


def cell(grid: dict[str, Any], onset: float, length: float, dose: float) -> str:
    """The condition of a grid's cell."""
    return f"{grid['name']}-on{onset:g}-for{length:g}-alpha{dose:g}"


def _without_nan(row: Row) -> Row:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def mean(values) -> Any:
    """Of what is known; None of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def any_known(curve) -> bool:
    return any(value is not None for value in curve.values())


def mean_curve(pairs) -> dict[int, Any]:
    """The mean at each step of (step, value)."""
    found = defaultdict(list)
    for step, value in pairs:
        found[step].append(value)
    return {step: mean(found[step]) for step in sorted(found)}


def layer_values(rows: list[Row], column: str) -> dict[tuple, float | None]:
    """Mean over living neurons (over all, of closed gates) by (condition, seed, step, stage, layer)."""
    found = defaultdict(list)
    for row in rows:
        key = tuple(row[name] for name in ("condition", "seed", "step", "stage", "layer"))
        found[key] += [row[column]] if column == "closed" or not row["dead"] else []
    return {key: mean(values) for key, values in found.items()}


def early_stages(files: Files) -> list[str]:
    return list(dict.fromkeys(row["stage"] for row in files.rows("selectivity")))[:-1]


def grouped(layers: dict[tuple, float | None], group) -> list[tuple]:
    """Rows (name, seed, step, mean over layers of what `group` gives one name)."""
    found = defaultdict(list)
    for key, value in layers.items():
        if (name := group(*key)) is not None:
            found[name, key[1], key[2]].append(value)
    return [(*key, mean(values)) for key, values in found.items()]
