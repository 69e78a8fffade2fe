"""Growing sets of neurons replaced, the same fraction in every layer of a scope, in several orders; held-out.

Shapes: T images of a tile, K points of all curves, S different sets, U neurons of a layer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.config import AblationValue, CumulativeConfig
from vestige.data.loader import Tile
from vestige.errors import check_known
from vestige.measurement.ablation.blocks import Block, Blocks
from vestige.measurement.ablation.pieces import Piece
from vestige.measurement.ablation.sets import Sets, value_of
from vestige.measurement.network import Network, check_labels
from vestige.measurement.ranking import DRAWN, Ranking, rank, replaced_first, split_halves
from vestige.models.layers import Layer, stages

__all__ = ["ablate_cumulatively", "rank", "split_halves"]

ALL = "all"
"""The scope of all layers at once."""
DOING = "ablating growing sets of neurons"


def ablate_cumulatively(
    network: Network, tiles: Iterable[Tile] | Blocks, *, ranking: Ranking, config: CumulativeConfig
) -> pl.DataFrame:
    """Replace growing sets of neurons, chosen on other images, in each stage or in all layers at once.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images to ablate on, in evaluation order; as blocks where the value resample is among the values.
      ranking: from other images.
      config: scopes, orders, draws, fractions and values. At fraction f the first round(f U) neurons (halves up) of
        every layer of the scope are replaced.

    Returns:
      the table "cumulative" without the identity of the run: a row for each scope, value, order, draw and
      fraction, 0 and 1 included.

    Raises:
      ConfigError: there is no such value.
      DataError: no images, or labels outside the model's classes.
      ModelError: the network has diverged, or it cannot be replayed from the middle.

    References:
      Morcos et al. (2018), On the importance of single directions for generalization; Ranadive et al. (2023),
      On the special role of class-selective neurons in early training.
    """
    for value in config.values:
        check_known(DOING, "value", value, get_args(AblationValue))
    points = list(points_of(config))
    curves = all_curves(network, ranking, config, config.values)
    sums = [torch.zeros(2, curve.sets.count, dtype=torch.float64) for curve in curves]
    resampled = any(curve.sets.resampled for curve in curves)
    images = 0
    for tile, donors in _with_donors(tiles) if resampled else _alone(tiles):
        check_labels(tile.labels[: tile.valid], network.classes, doing=DOING)
        images += tile.valid
        for curve, total in zip(curves, sums, strict=True):
            total += curve.add(tile, donors)
    check_labels(torch.zeros(images), network.classes, doing=DOING)
    return pl.concat([curve.table(points, total, images) for curve, total in zip(curves, sums, strict=True)])


@dataclass(frozen=True)
class Point:
    """A point of a curve."""

    order: str
    draw: int
    fraction: float


def points_of(config: CumulativeConfig) -> Iterator[Point]:
    """The points of all curves of a scope and value."""
    for order in config.orders:
        for draw in range(config.draws if order in DRAWN else 1):
            for step in range(config.fractions):
                yield Point(order, draw, step / (config.fractions - 1))


@dataclass(frozen=True)
class Curves:
    """All curves of one scope and value.

    Attributes:
      scope: a stage, or `all`.
      value: what replaces neurons, as the user says it.
      sets: the different sets of all points, the empty one first: curves share their ends, and often more.
      set_K: which of them each point is.
    """

    scope: str
    value: str
    sets: Sets
    set_K: Tensor

    def add(self, tile: Tile, donors: Any = None) -> Tensor:
        """Sums of loss and of correct answers over the images of a tile under each set, (2, S) float64."""
        found = self.sets.outcomes(tile, donors)
        return torch.stack([found.loss.sum(1), found.correct.double().sum(1)]).cpu()

    def piece(self, block: Block) -> Piece:
        """Sums over a block, and its images."""
        sums, images = torch.zeros(2, self.sets.count, dtype=torch.float64), 0
        for tile, donors in block.with_donors() if self.sets.resampled else _alone(block.tiles()):
            sums += self.add(tile, donors)
            images += tile.valid
        return {"sums": sums, "images": torch.tensor(images)}

    def table(self, points: Sequence[Point], sums: Tensor, images: int) -> pl.DataFrame:
        """A row a point."""
        loss_K, top1_K = (sums / images)[:, self.set_K].numpy()
        return pl.DataFrame(
            {
                "order": [point.order for point in points],
                "scope": self.scope,
                "value": self.value,
                "draw": pl.Series([point.draw for point in points], dtype=pl.Int32),
                "fraction": [point.fraction for point in points],
                "top1": top1_K,
                "loss": loss_K,
            }
        )


def all_curves(
    network: Network, ranking: Ranking, config: CumulativeConfig, values: Sequence[str | None]
) -> list[Curves]:
    """The curves of every scope and value; a value of None is zero or, where activations can be negative, mean."""
    scopes = [s for wanted in config.scopes for s in (stages(network.layers) if wanted == "stages" else (ALL,))]
    points = list(points_of(config))
    return [_curves(network, scope, value, ranking, points) for scope in scopes for value in values]


def _curves(network: Network, scope: str, value: str | None, ranking: Ranking, points: Sequence[Point]) -> Curves:
    layers = [layer for layer in network.layers if scope in (ALL, layer.stage)]
    chosen_KU = [_chosen(layer, ranking, points) for layer in layers]
    # Sorted, so that the empty set comes first.
    different_SU, set_K = torch.cat(chosen_KU, 1).unique(dim=0, return_inverse=True)
    parts = different_SU.split([layer.units for layer in layers], 1)
    chosen = {layer.name: chosen_SU for layer, chosen_SU in zip(layers, parts, strict=True)}
    values = {layer.name: value or value_of(layer) for layer in layers}
    said = value or "+".join(sorted(set(values.values())))
    return Curves(scope, said, Sets(network, layers, chosen, values, ranking.mean), set_K)


def _alone(tiles: Iterable[Tile] | Blocks) -> Iterator[tuple[Tile, None]]:
    return ((tile, None) for tile in (tiles.tiles() if isinstance(tiles, Blocks) else tiles))


def _with_donors(tiles: Iterable[Tile] | Blocks) -> Iterator[tuple[Tile, Any]]:
    assert isinstance(tiles, Blocks), "donors are found by blocks"
    return (pair for block in tiles for pair in block.with_donors())


def _chosen(layer: Layer, ranking: Ranking, points: Sequence[Point]) -> Tensor:
    """1 for the neurons of a layer that are replaced at each point, chosen_KU float64."""
    csi_U, mean_U = ranking.csi[layer.name].cpu().numpy(), ranking.mean[layer.name].cpu().numpy()
    chosen_KU = np.zeros((len(points), layer.units))
    curves = dict.fromkeys((point.order, point.draw) for point in points)
    first = {(order, draw): replaced_first(order, csi_U, mean_U, layer=layer.name, draw=draw) for order, draw in curves}
    for chosen_U, point in zip(chosen_KU, points, strict=True):
        chosen_U[first[point.order, point.draw][: int(point.fraction * layer.units + 0.5)]] = 1
    return torch.from_numpy(chosen_KU)
