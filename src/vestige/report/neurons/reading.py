"""Reading the tables of a checkpoint that hold more than a number a neuron, as arrays over all neurons.

Shapes: U neurons (units) of all layers, C classes, K top inputs.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vestige.report.neurons.runs import Layer
from vestige.runs.store import damaged


def read_means(path: Path, layers: Sequence[Layer]) -> np.ndarray:
    """Class means of a checkpoint, (U, C) float32; NaN where there is none."""
    table = _read(path, ["layer", "neuron", "class_means"])
    lists = table["class_means"].combine_chunks()
    means = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(len(lists), -1)
    found_UC = np.full((_units(layers), means.shape[1]), np.nan, dtype=np.float32)
    found_UC[_places(table, layers)] = means
    return found_UC


def read_inputs(path: Path, layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """Top inputs of a checkpoint: `input`, `label` (U, K) int64 and `activation` (U, K) float32; -1, NaN: none."""
    table = _read(path, ["layer", "neuron", "rank", "input", "label", "activation"])
    rank = table["rank"].to_numpy()
    shape, at = (_units(layers), int(rank.max(initial=-1)) + 1), (_places(table, layers), rank)
    found: dict[str, np.ndarray] = {name: np.full(shape, -1, dtype=np.int64) for name in ("input", "label")}
    found["activation"] = np.full(shape, np.nan, dtype=np.float32)
    for name, values in found.items():
        values[at] = table[name].to_numpy()
    return found


def read_damage(path: Path, layers: Sequence[Layer]) -> tuple[str, np.ndarray]:
    """What a neuron was replaced by, and the change of each class's loss, (U, C) float32; NaN where there is none."""
    table = _read(path, ["layer", "neuron", "class", "class_loss_delta"])
    if not table.num_rows:
        return "", np.full((_units(layers), 0), np.nan, dtype=np.float32)
    harm, n_class = table["class_loss_delta"].to_numpy(), table["class"].to_numpy()
    shape = _units(layers), int(n_class.max()) + 1
    value = str(next(pq.ParquetFile(path).iter_batches(batch_size=1, columns=["value"]))["value"][0])
    if _in_order(table, n_class, tuple(layers), shape[1]):
        return value, harm.reshape(shape)
    found_UC = np.full(shape, np.nan, dtype=np.float32)
    found_UC[_places(table, layers), n_class] = harm
    return value, found_UC


def _in_order(table: pa.Table, n_class: np.ndarray, layers: tuple[Layer, ...], classes: int) -> bool:
    """Whether rows go by layer, neuron and class with none left out, as ablation writes them: nothing to sort then."""
    layer, neuron, by_class = _ordered(layers, classes)
    return (
        np.array_equal(n_class, by_class)
        and np.array_equal(table["neuron"].to_numpy(), neuron)
        and np.array_equal(_layer_numbers(table, layers), layer)
    )


@lru_cache(maxsize=1)
def _ordered(layers: tuple[Layer, ...], classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = [layer.units for layer in layers]
    layer = np.repeat(np.arange(len(sizes), dtype=np.int32), np.array(sizes) * classes)
    neuron = np.concatenate([np.arange(units, dtype=np.int32) for units in sizes]).repeat(classes)
    return layer, neuron, np.tile(np.arange(classes, dtype=np.int32), sum(sizes))


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, read_dictionary=["layer"])
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, " ".join(str(error).split())[:200]) from error


def _places(table: pa.Table, layers: Sequence[Layer]) -> np.ndarray:
    """Where each row's neuron lies among those of all layers."""
    first = np.array([layer.first for layer in layers], dtype=np.int64)
    return first[_layer_numbers(table, layers)] + table["neuron"].to_numpy()


def _layer_numbers(table: pa.Table, layers: Sequence[Layer]) -> np.ndarray:
    """Which layer each row is of, int32; every row group has a dictionary of its own."""
    numbers = {layer.name: number for number, layer in enumerate(layers)}
    found = [np.empty(0, dtype=np.int32)]
    for chunk in table["layer"].chunks:
        known = np.array([numbers[name] for name in chunk.dictionary.to_pylist()], dtype=np.int32)
        found.append(known[chunk.indices.to_numpy()])
    return np.concatenate(found)


def _units(layers: Sequence[Layer]) -> int:
    return layers[-1].first + layers[-1].units
