"""Growing sets of neurons replaced, the same fraction in every layer of a scope, in several orders; held-out.

Shapes: R replays, P of them in one forward, K points of all curves, S different sets, U neurons of a layer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.config import CumulativeConfig
from vestige.data.loader import Tile
from vestige.measurement.ablation import check_values, replacement
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.measurement.ranking import DRAWN, Ranking, rank, replaced_first, split_halves
from vestige.measurement.replay import Edits, Replay
from vestige.models.layers import Layer, stages

__all__ = ["ablate_cumulatively", "rank", "split_halves"]

ALL = "all"
"""The scope of all layers at once."""
_DOING = "ablating growing sets of neurons"


def ablate_cumulatively(
    network: Network, tiles: Iterable[Tile], *, ranking: Ranking, config: CumulativeConfig
) -> pl.DataFrame:
    """Replace growing sets of neurons, chosen on other images, in each stage or in all layers at once.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images to ablate on, in evaluation order.
      ranking: from other images.
      config: scopes, orders, draws, fractions and values. At fraction f the first round(f U) neurons (halves up) of
        every layer of the scope are replaced.

    Returns:
      the table "cumulative" without the identity of the run: a row for each scope, value, order, draw and
      fraction, 0 and 1 included.

    Raises:
      DataError: no images, or labels outside the model's classes.
      ModelError: the network has diverged, or it cannot be replayed from the middle.

    References:
      Morcos et al. (2018), On the importance of single directions for generalization; Ranadive et al. (2023),
      On the special role of class-selective neurons in early training.
    """
    check_values(config.values, doing=_DOING)
    points = list(_points(config))
    scopes = [s for wanted in config.scopes for s in (stages(network.layers) if wanted == "stages" else (ALL,))]
    curves = [_Curves.of(network, scope, value, ranking, points) for scope in scopes for value in config.values]
    images = 0
    for tile in tiles:
        check_labels(tile.labels[: tile.valid], network.classes, doing=_DOING)
        images += tile.valid
        for curve in curves:
            curve.add(tile)
    check_labels(torch.zeros(images), network.classes, doing=_DOING)
    return pl.concat([curve.table(points, images) for curve in curves])


@dataclass(frozen=True)
class _Point:
    order: str
    draw: int
    fraction: float


def _points(config: CumulativeConfig) -> Iterator[_Point]:
    for order in config.orders:
        for draw in range(config.draws if order in DRAWN else 1):
            for step in range(config.fractions):
                yield _Point(order, draw, step / (config.fractions - 1))


@dataclass
class _Curves:
    """All curves of one scope and value.

    Attributes:
      keep, write: by node, for each of the sets: 1 for a neuron that stays and 0 for one that is replaced,
        and what is written (0 where it stays), (S, U). The first set is the empty one.
      sets: which of them each point is, (K,): curves share their ends, and often more.
      loss, correct: sums over the images seen so far, (S,) float64.
    """

    scope: str
    value: str
    replay: Replay
    axis: Mapping[str, int]
    keep: dict[str, Tensor]
    write: dict[str, Tensor]
    sets: Tensor
    loss: Tensor = field(init=False)
    correct: Tensor = field(init=False)

    def __post_init__(self):
        self.loss = torch.zeros(int(self.sets.max()) + 1, dtype=torch.float64)
        self.correct = torch.zeros_like(self.loss)

    @classmethod
    def of(cls, network: Network, scope: str, value: str, ranking: Ranking, points: Sequence[_Point]) -> "_Curves":
        layers = [layer for layer in network.layers if scope in (ALL, layer.stage)]
        chosen_KU = [_chosen(layer, ranking, points) for layer in layers]
        # Sorted, so that the empty set comes first.
        different_SU, set_K = torch.cat(chosen_KU, 1).unique(dim=0, return_inverse=True)
        keep, write = {}, {}
        for layer, chosen_SU in zip(layers, different_SU.split([layer.units for layer in layers], 1), strict=True):
            keep[layer.node] = 1.0 - chosen_SU
            write[layer.node] = chosen_SU * replacement(value, ranking.mean[layer.name].cpu())
        axis = {layer.node: layer.axis for layer in layers}
        return cls(scope, value, Replay(network.traced, layers), axis, keep, write, set_K)

    @torch.no_grad()
    def add(self, tile: Tile) -> None:
        """Run all sets on the images of a tile."""
        held = self.replay.hold(tile)
        check_finite(held.logits[: held.valid], "its output", doing=_DOING)
        images_R = torch.arange(held.valid, device=held.logits.device).repeat(len(self.loss))
        found = self.replay.outcomes(held, images_R, self._edits(held.valid, held.logits))
        self.loss += found.loss.view(-1, held.valid).sum(1).cpu()
        self.correct += found.correct.view(-1, held.valid).double().sum(1).cpu()

    def table(self, points: Sequence[_Point], images: int) -> pl.DataFrame:
        """A row a point."""
        return pl.DataFrame(
            {
                "order": [point.order for point in points],
                "scope": self.scope,
                "value": self.value,
                "draw": pl.Series([point.draw for point in points], dtype=pl.Int32),
                "fraction": [point.fraction for point in points],
                "top1": (self.correct / images)[self.sets].numpy(),
                "loss": (self.loss / images)[self.sets].numpy(),
            }
        )

    def _edits(self, valid: int, like: Tensor) -> Callable[[Tensor], Edits]:
        """Edits of the replays: those of all images under the first set, then under the second, and so on."""
        keep_SU = {node: keep.to(like) for node, keep in self.keep.items()}
        write_SU = {node: write.to(like) for node, write in self.write.items()}

        def of(replays_P: Tensor) -> Edits:
            sets_P = replays_P // valid
            return {
                node: partial(_replaced, axis, keep_SU[node][sets_P], write_SU[node][sets_P])
                for node, axis in self.axis.items()
            }

        return of


def _chosen(layer: Layer, ranking: Ranking, points: Sequence[_Point]) -> Tensor:
    """1 for the neurons of a layer that are replaced at each point, chosen_KU float64."""
    csi_U, mean_U = ranking.csi[layer.name].cpu().numpy(), ranking.mean[layer.name].cpu().numpy()
    chosen_KU = np.zeros((len(points), layer.units))
    curves = dict.fromkeys((point.order, point.draw) for point in points)
    first = {(order, draw): replaced_first(order, csi_U, mean_U, layer=layer.name, draw=draw) for order, draw in curves}
    for chosen_U, point in zip(chosen_KU, points, strict=True):
        chosen_U[first[point.order, point.draw][: int(point.fraction * layer.units + 0.5)]] = 1
    return torch.from_numpy(chosen_KU)


def _replaced(axis: int, keep_PU: Tensor, write_PU: Tensor, maps: Tensor) -> Tensor:
    shape = [1] * maps.ndim
    shape[0], shape[axis] = keep_PU.shape
    # Exact for finite activations, and several times as fast as where().
    return torch.addcmul(write_PU.view(shape), maps, keep_PU.view(shape))
