"""Every single neuron replaced, one at a time, exactly: changes of loss and accuracy, in all and by class.

Shapes: T images of a tile, R replays, P of them in one forward, V values, U neurons of a layer, C classes.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.config import AblationValue
from vestige.data.loader import Tile
from vestige.errors import ConfigError, nearest
from vestige.formulas.effects import Outcomes, Totals, class_effects, neuron_effects, totals
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.measurement.ranking import Ranking
from vestige.measurement.replay import Edits, Replay
from vestige.models.layers import Layer

_DOING = "ablating single neurons"


def ablate_neurons(
    network: Network,
    tiles: Iterable[Tile],
    *,
    values: Sequence[AblationValue] = get_args(AblationValue),
    ranking: Ranking,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Replace every neuron of every layer, each alone, on the same images.

    An image on which the replacement changes nothing, bit for bit, is not run again: its outcome stays.
    The intact network is replayed from the same layer as the ablated one, so that a change of loss is not the
    rounding of another kernel.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images to ablate on, in evaluation order.
      values: `zero`; `mean`: the neuron's mean in `ranking`, written at every position.
      ranking: from other images.

    Returns:
      the tables "ablation" and "ablation-by-class" without the identity of the run: a row a neuron and value,
      and a row a neuron, value and class that has images.

    Raises:
      ConfigError: there is no such value.
      DataError: no images, or labels outside the model's classes.
      ModelError: the network has diverged, or it cannot be replayed from the middle.

    References:
      Morcos et al. (2018), On the importance of single directions for generalization; Zhou et al. (2018),
      Revisiting the importance of individual units in CNNs via ablation.
    """
    check_values(values, doing=_DOING)
    replays = [Replay(network.traced, [layer]) for layer in network.layers]
    sums: dict[tuple[Layer, str], Totals] = {}
    images = 0
    for tile in tiles:
        check_labels(tile.labels[: tile.valid], network.classes, doing=_DOING)
        images += tile.valid
        for layer, replay in zip(network.layers, replays, strict=True):
            fills_VU = torch.stack([replacement(value, ranking.mean[layer.name]) for value in values])
            found = _tile_totals(replay, layer, tile, fills_VU, network.classes)
            for value, more in zip(values, found, strict=True):
                before = sums.get((layer, value))
                sums[layer, value] = more if before is None else before + more
    check_labels(torch.zeros(images), network.classes, doing=_DOING)
    rows = [(layer, value, s, ranking.preferred[layer.name]) for (layer, value), s in sums.items()]
    return pl.concat([_by_neuron(*row) for row in rows]), pl.concat([_by_class(*row[:3]) for row in rows])


def check_values(values: Sequence[str], *, doing: str) -> None:
    """What neurons are replaced by must be known.

    Raises:
      ConfigError: it is not.
    """
    known = get_args(AblationValue)
    for value in values:
        if value not in known:
            raise ConfigError(doing, found=f"there is no value {value!r}", remedy=nearest(value, known))


def replacement(value: str, mean_U: Tensor) -> Tensor:
    """What each neuron's activation is replaced by, (U,)."""
    return torch.zeros_like(mean_U) if value == "zero" else mean_U


@torch.no_grad()
def _tile_totals(replay: Replay, layer: Layer, tile: Tile, fills_VU: Tensor, classes: int) -> list[Totals]:
    """Sums over the images of one tile for each value."""
    held = replay.hold(tile)
    check_finite(held.logits[: held.valid], "its output", doing=_DOING)
    maps_TU = held.values[layer.node][: held.valid].movedim(layer.axis, 1)
    fills_VU = fills_VU.to(maps_TU)
    changed_VUT = _changed(maps_TU, fills_VU)
    value_R, unit_R, image_R = changed_VUT.nonzero(as_tuple=True)
    intact_T = torch.arange(held.valid, device=maps_TU.device)
    edits = _edits(layer, held.valid, unit_R, fills_VU[value_R, unit_R])
    found = replay.outcomes(held, torch.cat([intact_T, image_R]), edits)
    intact = Outcomes(*(column[: held.valid] for column in found))
    ablated = Outcomes(*(_placed(column, held.valid, changed_VUT) for column in found))
    labels_T = held.labels[: held.valid]
    return [
        Totals(*(column.cpu() for column in totals(intact, Outcomes(*of_value), labels_T, classes)))
        for of_value in zip(*ablated, strict=True)
    ]


def _changed(maps_TU: Tensor, fills_VU: Tensor) -> Tensor:
    """Which replacements change which images at all, (V, U, T)."""
    over_positions = tuple(range(2, maps_TU.ndim))
    return torch.stack(
        [
            (maps_TU != _over_positions(fill_U, maps_TU.ndim - 2)).any(over_positions).T
            if over_positions
            else (maps_TU != fill_U).T
            for fill_U in fills_VU
        ]
    )


def _edits(layer: Layer, intact: int, unit_R: Tensor, fill_R: Tensor) -> Callable[[Tensor], Edits]:
    """Edits of the replays: none of the first `intact` ones, then neuron `unit_R` set to `fill_R`."""

    def of(replays_P: Tensor) -> Edits:
        edited = (replays_P >= intact).nonzero()[:, 0]
        chosen = replays_P[edited] - intact
        return {layer.node: partial(_write, layer.axis, edited, unit_R[chosen], fill_R[chosen])}

    return of


def _write(axis: int, edited: Tensor, units: Tensor, fills: Tensor, maps: Tensor) -> Tensor:
    view = maps.movedim(axis, 1)
    view[edited, units] = _over_positions(fills, maps.ndim - 2)
    return maps


def _over_positions(values: Tensor, positions: int) -> Tensor:
    return values[(..., *[None] * positions)]


def _placed(outcome: Tensor, intact: int, changed_VUT: Tensor) -> Tensor:
    """Outcomes of replays where there was one, of the intact network elsewhere, (V, U, T)."""
    placed_VUT = outcome[:intact].expand_as(changed_VUT).clone()
    placed_VUT[changed_VUT] = outcome[intact:]
    return placed_VUT


def _by_neuron(layer: Layer, value: str, sums: Totals, preferred_U: Tensor) -> pl.DataFrame:
    effects = neuron_effects(sums, preferred_U.cpu())
    return _named(layer, value, np.arange(layer.units)).with_columns(
        preferred_class=preferred_U.cpu().numpy(),
        approximation_se=pl.lit(0.0),
        **{name: effect.numpy() for name, effect in effects.items()},
    )


def _by_class(layer: Layer, value: str, sums: Totals) -> pl.DataFrame:
    effects = class_effects(sums)
    present_C = (effects["class_n"] > 0).nonzero()[:, 0]
    named = _named(layer, value, np.repeat(np.arange(layer.units), len(present_C)))
    columns = {"class": present_C} | {name: effect[..., present_C] for name, effect in effects.items()}
    return named.with_columns(
        pl.Series(name, column.expand(layer.units, -1).flatten().numpy()) for name, column in columns.items()
    )


def _named(layer: Layer, value: str, neurons: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"neuron": neurons.astype(np.int32)}).select(
        pl.lit(layer.stage).alias("stage"),
        pl.lit(layer.name).alias("layer"),
        "neuron",
        pl.lit(value).alias("value"),
        pl.lit("exact").alias("mode"),
    )
