"""The numbers of every neuron of a run through its steps, gathered from tables of selectivity and ablation.

Shapes: S steps of a run, U neurons (units) of all layers, in the order of the network.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from vestige.report.neurons.columns import ABLATION_COLUMNS, SELECTIVITY, Column
from vestige.report.neurons.encoding import Codes, classes, decimals, flags
from vestige.runs.tables import empty

ENCODERS = {"number": decimals, "class": classes, "flag": flags}


@dataclass(frozen=True)
class Layer:
    """A layer, and where its neurons lie among those of all layers."""

    name: str
    stage: str
    first: int
    units: int


@dataclass(frozen=True)
class Run:
    """A run as one protocol measured it; epochs by step are those of the tables."""

    condition: str
    seed: int
    protocol: str
    steps: tuple[int, ...]
    epochs: tuple[float, ...]


def find_layers(tables: Mapping[str, pl.DataFrame]) -> list[Layer]:
    """The layers of all tables, in the order of the network."""
    frames = [tables[kind].select("stage", "layer", "neuron") for kind in ("selectivity", "ablation") if kind in tables]
    if not frames:
        return []
    both = pl.concat(frames)
    sizes = both.group_by("layer", maintain_order=True).agg(pl.col("stage").first(), pl.col("neuron").max() + 1)
    layers, first = [], 0
    for name, stage, units in sizes.iter_rows():
        layers.append(Layer(name, stage, first, units))
        first += units
    return layers


def find_runs(tables: Mapping[str, pl.DataFrame], order: Mapping[str, int]) -> list[Run]:
    """The runs of all tables, conditions in an order; what ablation alone has is a run of the corrected protocol."""
    keys = ["condition", "seed", "protocol"]
    found: dict[tuple[str, int, str], dict[int, float]] = {}
    for kind in ("selectivity", "ablation"):
        rows = tables.get(kind, empty(kind)).select(*keys, "step", "epoch").unique()
        for condition, seed, protocol, step, epoch in rows.iter_rows():
            if kind == "selectivity" or not any((condition, seed, p) in found for p in ("corrected", "faithful")):
                found.setdefault((condition, seed, protocol), {})[step] = epoch
            else:
                for other in ("corrected", "faithful"):
                    if (condition, seed, other) in found:
                        found[condition, seed, other].setdefault(step, epoch)
    ranked = sorted(found, key=lambda run: (order.get(run[0], len(order)), *run))
    return [
        Run(*run, tuple(sorted(found[run])), tuple(found[run][step] for step in sorted(found[run]))) for run in ranked
    ]


def run_columns(tables: Mapping[str, pl.DataFrame], run: Run, layers: list[Layer]) -> Iterator[tuple[str, Codes]]:
    """Every column of a run that has a number; those of ablation are of the corrected protocol, whatever the run's."""
    own = {"condition": run.condition, "seed": run.seed}
    measured = tables.get("selectivity", empty("selectivity")).filter(**own, protocol=run.protocol)
    at = _places(measured, run, layers)
    for column in SELECTIVITY:
        if measured.height and (codes := ENCODERS[column.kind](_laid(measured, column, at, run, layers))):
            yield column.id, codes
    ablated = tables.get("ablation", empty("ablation")).filter(**own)
    for value in ablated["value"].unique().sort():
        part = ablated.filter(value=value)
        at = _places(part, run, layers)
        for name in ABLATION_COLUMNS:
            if codes := decimals(_laid(part, Column(name, name, name), at, run, layers)):
                yield f"{name}:{value}", codes


def csi_of(tables: Mapping[str, pl.DataFrame], run: Run, layers: list[Layer]) -> np.ndarray:
    """CSI of a run's neurons (S, U); NaN where there is none."""
    frame = tables.get("selectivity", empty("selectivity"))
    measured = frame.filter(condition=run.condition, seed=run.seed, protocol=run.protocol)
    return _laid(measured, SELECTIVITY[0], _places(measured, run, layers), run, layers)


def _places(frame: pl.DataFrame, run: Run, layers: list[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """Step and neuron of each row."""
    if frame.is_empty():
        return np.empty(0, int), np.empty(0, int)
    first = {layer.name: layer.first for layer in layers}
    neuron = frame.select(pl.col("layer").replace_strict(first, return_dtype=pl.Int64) + pl.col("neuron"))
    return np.searchsorted(run.steps, frame["step"].to_numpy()), neuron.to_series().to_numpy()


def _laid(
    frame: pl.DataFrame, column: Column, at: tuple[np.ndarray, np.ndarray], run: Run, layers: list[Layer]
) -> np.ndarray:
    """A column's numbers (S, U), NaN (whole numbers: -1) where there is no row."""
    units = layers[-1].first + layers[-1].units
    if column.kind == "number":
        laid = np.full((len(run.steps), units), np.nan, dtype=np.float32)
        laid[at] = frame[column.id].fill_null(np.nan).to_numpy()
        return laid
    laid = np.full((len(run.steps), units), -1, dtype=np.int32)
    laid[at] = frame[column.id].cast(pl.Int32).fill_null(-1).to_numpy()
    return laid
