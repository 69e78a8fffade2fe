"""Which neurons are clamped: those of a file, or those that a selectivity table ranks first in each layer."""

import math
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch

from vestige.acting import ClampConfig
from vestige.errors import ConfigError, nearest
from vestige.models.layers import Layer
from vestige.training.runtime import stateless_seed

Neurons = dict[str, tuple[int, ...]]
"""Indices by layer name."""


def from_file(doing: str, path: str, layers: Sequence[Layer]) -> Neurons:
    """The neurons of a Parquet or CSV file with columns `layer` and `neuron`.

    Raises:
      ConfigError: the file cannot be read, names no neuron, or one that there is not.
    """
    try:
        table = pl.read_csv(path) if Path(path).suffix == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            doing,
            found=f"its table {path!r} cannot be read ({' '.join(str(error).split())[:120]})",
            remedy="Give a Parquet or CSV file with the columns layer and neuron",
        ) from error
    for column in ("layer", "neuron"):
        if column not in table.columns:
            raise ConfigError(
                doing, found=f"its table {path!r} has no column {column!r}", remedy=nearest(column, table.columns)
            )
    if table.is_empty():
        raise ConfigError(
            doing, found=f"its table {path!r} names no neuron, so it changes nothing", remedy="Name at least one"
        )
    return _checked(doing, table, layers)


def from_ranking(doing: str, config: ClampConfig, table: pl.DataFrame, layers: Sequence[Layer]) -> Neurons:
    """The first neurons of each layer by a column of a selectivity table, at least one; NaN ranks last.

    Raises:
      ConfigError: the table has no such column of numbers.
    """
    if config.order != "random" and (config.by not in table.columns or not table.schema[config.by].is_numeric()):
        numeric = [name for name, kind in table.schema.items() if kind.is_numeric()]
        raise ConfigError(
            doing, found=f"the selectivity table has no {config.by!r}", remedy=nearest(config.by, numeric)
        )
    neurons: Neurons = {}
    for layer in layers:
        rows = table.filter(pl.col("layer") == layer.name).sort("neuron")
        count = max(1, math.floor(config.fraction * layer.units + 0.5))
        if config.order == "random":
            generator = torch.Generator().manual_seed(stateless_seed("clamp", layer.name))
            ranked = torch.randperm(layer.units, generator=generator).tolist()
        else:
            values = rows[config.by].cast(pl.Float64).fill_nan(None)
            ranked = values.arg_sort(descending=config.order == "desc", nulls_last=True).to_list()
            ranked = rows["neuron"].gather(ranked).to_list()
        neurons[layer.name] = tuple(sorted(ranked[:count]))
    return neurons


def _checked(doing: str, table: pl.DataFrame, layers: Sequence[Layer]) -> Neurons:
    units = {layer.name: layer.units for layer in layers}
    neurons: dict[str, set[int]] = {}
    for layer, neuron in table.select("layer", "neuron").rows():
        if layer not in units:
            raise ConfigError(doing, found=f"its table names the layer {layer!r}", remedy=nearest(str(layer), units))
        if not isinstance(neuron, int) or not 0 <= neuron < units[layer]:
            raise ConfigError(
                doing,
                found=f"its table names the neuron {neuron} of {layer!r}",
                remedy=f"Neurons of {layer!r} are 0 to {units[layer] - 1}",
            )
        neurons.setdefault(layer, set()).add(neuron)
    return {layer: tuple(sorted(found)) for layer, found in neurons.items()}
