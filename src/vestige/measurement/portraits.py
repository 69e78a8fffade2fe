"""What drives each neuron: its mean activation for every class, and the inputs that excite it most.

Shapes: T images of a tile, U neurons (units) of a layer, C classes, K top inputs.
"""

from collections.abc import Iterable, Mapping
from functools import partial

import polars as pl
import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.formulas.selectivity import means_from_sums
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.measurement.reading import spatial_mean
from vestige.models.layers import Layer

DOING = "finding what drives neurons"


def measure_portraits(network: Network, tiles: Iterable[Tile], *, inputs: int = 8) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Class means and top inputs of every neuron, in one pass over the images.

    A neuron's activation for an image is its spatial mean in float32, its absolute value in layers whose activation can
    be negative, as `measure_selectivity` has it; class means are taken in float64.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images, in evaluation order.
      inputs: K; a neuron has fewer where fewer images have an activation above 0.

    Returns:
      the columns of the schemas "class-means" and "top-inputs" but for the identity of the run.

    Raises:
      DataError: no images, or labels outside the model's classes.
      ModelError: the network has diverged.
    """
    valid = 0
    forward = network.reading(
        {x.name: partial(lambda layer, a: _activation(a[:valid], layer), x) for x in network.layers}
    )
    sums = {x.name: torch.zeros(network.classes, x.units, dtype=torch.float64) for x in network.layers}
    top = {x.name: torch.empty(x.units, 0, dtype=torch.int64) for x in network.layers}
    counts_C = torch.zeros(network.classes, dtype=torch.int64)
    labels: dict[int, int] = {}
    for tile in tiles:
        valid = tile.valid
        labels_T, places_T = tile.labels[:valid].cpu(), torch.as_tensor(tile.indices[:valid], dtype=torch.int64)
        check_labels(labels_T, network.classes, doing=DOING)
        for name, a_TU in forward(tile.inputs)[1].items():
            sums[name].index_add_(0, labels_T, a_TU.double())
            top[name] = _highest(torch.cat([top[name], _keys(a_TU, places_T)], dim=1), inputs)
        counts_C += labels_T.bincount(minlength=network.classes)
        labels.update(zip(places_T.tolist(), labels_T.tolist(), strict=True))
    check_labels(torch.tensor(list(labels.values())), network.classes, doing=DOING)
    for name, sums_CU in sums.items():
        check_finite(sums_CU, f"layer {name}", doing=DOING)
    means = [_means_table(x, means_from_sums(sums[x.name], counts_C)) for x in network.layers]
    return pl.concat(means), pl.concat([_inputs_table(x, top[x.name], labels) for x in network.layers])


def _activation(activation: Tensor, layer: Layer) -> Tensor:
    mean_TU = spatial_mean(activation, layer.axis).float().cpu()
    return mean_TU.abs() if layer.signed else mean_TU


def _keys(a_TU: Tensor, places_T: Tensor) -> Tensor:
    """Whole numbers in the order of the activations, the earlier image first among equals, (U, T) int64.

    The bits of a float32 that is 0 or more are in its order; what is below 0 excites nothing, and is 0 here.
    """
    bits_UT = a_TU.clamp(min=0).T.contiguous().view(torch.int32).long()
    return (bits_UT << 32) | (2**32 - 1 - places_T)


def _highest(keys_UX: Tensor, most: int) -> Tensor:
    return keys_UX.topk(min(most, keys_UX.shape[1]), dim=1).values


def _neurons(layer: Layer, neuron: Tensor) -> dict[str, object]:
    return {"stage": [layer.stage] * len(neuron), "layer": [layer.name] * len(neuron), "neuron": neuron.numpy()}


def _means_table(layer: Layer, means_CU: Tensor) -> pl.DataFrame:
    neurons = _neurons(layer, torch.arange(layer.units, dtype=torch.int32))
    means = pl.Series("class_means", means_CU.T.float().contiguous().numpy()).arr.to_list()
    return pl.DataFrame(neurons).with_columns(means)


def _inputs_table(layer: Layer, keys_UK: Tensor, labels: Mapping[int, int]) -> pl.DataFrame:
    activations_UK = (keys_UK >> 32).int().contiguous().view(torch.float32)
    neuron, rank = (activations_UK > 0).nonzero(as_tuple=True)
    places = (2**32 - 1 - (keys_UK & (2**32 - 1)))[neuron, rank].tolist()
    return pl.DataFrame(
        _neurons(layer, neuron.int())
        | {
            "rank": rank.int().numpy(),
            "input": pl.Series(places, dtype=pl.Int64),
            "label": pl.Series([labels[place] for place in places], dtype=pl.Int32),
            "activation": activations_UK[neuron, rank].numpy(),
        }
    )
