"""Sets of neurons, each set replaced together, on tiles of images: by replaying what follows the first of their layers.

Shapes: T images of a tile (its valid ones), S sets, R replays, P of them in one forward, U neurons of a layer.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.formulas.effects import Outcomes
from vestige.measurement.ablation.full_forwards import FullForwards
from vestige.measurement.ablation.replay import Edits, Replay
from vestige.measurement.network import Network, check_finite
from vestige.models.graph import Graph
from vestige.models.layers import Layer
from vestige.models.operations import only_tensor

_DOING = "ablating sets of neurons"
_Edit = Callable[[Tensor], Tensor]


class Sets:
    """Sets of neurons, each replaced together.

    Args:
      network: with the batch-norm statistics to measure with.
      layers: where they are, from input to output.
      chosen: by layer name, 1 for a neuron that is replaced in a set, else 0: (S, U) float64.
      values: by layer name, what neurons are replaced by: zero, mean or resample.
      mean: by layer name, what the value mean writes, (U,).
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer],
        chosen: Mapping[str, Tensor],
        values: Mapping[str, str],
        mean: Mapping[str, Tensor],
    ):
        self.network, self.layers, self.values = network, tuple(layers), values
        self.count = len(next(iter(chosen.values())))
        self._keep = {name: 1.0 - chosen_SU for name, chosen_SU in chosen.items()}
        self._write = {
            layer.name: chosen[layer.name] * _constant(values[layer.name], mean[layer.name].cpu()) for layer in layers
        }
        graph = network.graph
        self._replay: Any = (
            Replay(graph, layers, network.dtype) if isinstance(graph, Graph) else FullForwards(network, layers)
        )

    @property
    def resampled(self) -> tuple[Layer, ...]:
        """The layers whose neurons get their maps from donors."""
        return tuple(layer for layer in self.layers if self.values[layer.name] == "resample")

    @torch.no_grad()
    def outcomes(self, tile: Tile, donors: Any = None) -> Outcomes:
        """How the network does on a tile with each set replaced: (S, T).

        Args:
          tile: images.
          donors: inputs that the value resample takes maps from.

        Raises:
          ModelError: the network has diverged, or cannot be replayed.
        """
        inputs = self.network.on_device(tile.inputs)
        inputs = only_tensor(inputs) if self.network.graph.traced else inputs
        with self.network.autocast(inputs):
            held = self._replay.hold(tile._replace(inputs=inputs))
            check_finite(held.logits[: held.valid], "its output", doing=_DOING)
            maps = self._donor_maps(donors)
            images_R = torch.arange(held.valid, device=held.logits.device).repeat(self.count)
            found = self._replay.outcomes(held, images_R, self._edits(held.valid, images_R, held.logits, maps))
        return Outcomes(*(column.view(self.count, held.valid) for column in found))

    def _donor_maps(self, donors: Any) -> dict[str, Tensor]:
        if not self.resampled:
            return {}
        captured = self.network.captured(donors, [layer.node for layer in self.resampled])[1]
        return {layer.name: captured[layer.node] for layer in self.resampled}

    def _edits(
        self, valid: int, images_R: Tensor, like: Tensor, donors: Mapping[str, Tensor]
    ) -> Callable[[Tensor], Edits]:
        """Edits of the replays: those of all images under the first set, then under the second, and so on."""
        keep = {name: value.to(like) for name, value in self._keep.items()}
        write = {name: value.to(like) for name, value in self._write.items()}

        def of(replays_P: Tensor) -> Edits:
            sets_P, images_P = replays_P // valid, images_R[replays_P]
            edits: dict[str, list[_Edit]] = {}  # two layers may be read at one node, along other axes
            for layer in self.layers:
                keep_PU = keep[layer.name][sets_P]
                if layer.name in donors:
                    edit = partial(_resampled, layer.axis, keep_PU, donors[layer.name][images_P])
                else:
                    edit = partial(_replaced, layer.axis, keep_PU, write[layer.name][sets_P])
                edits.setdefault(layer.node, []).append(edit)
            return {node: partial(_in_turn, found) for node, found in edits.items()}

        return of


def value_of(layer: Layer) -> str:
    """What replaces the neurons of a layer where the user does not say."""
    return "mean" if layer.signed else "zero"


def _constant(value: str, mean_U: Tensor) -> Tensor:
    return mean_U if value == "mean" else torch.zeros_like(mean_U)


def _in_turn(edits: Sequence[_Edit], maps: Tensor) -> Tensor:
    return reduce(lambda value, edit: edit(value), edits, maps)


def _replaced(axis: int, keep_PU: Tensor, write_PU: Tensor, maps: Tensor) -> Tensor:
    shape = _along(axis, keep_PU, maps)
    # Exact for finite activations, and several times as fast as where().
    return torch.addcmul(write_PU.to(maps).view(shape), maps, keep_PU.to(maps).view(shape))


def _resampled(axis: int, keep_PU: Tensor, donors: Tensor, maps: Tensor) -> Tensor:
    return torch.where(keep_PU.bool().view(_along(axis, keep_PU, maps)), maps, donors.to(maps))


def _along(axis: int, rows_PU: Tensor, maps: Tensor) -> list[int]:
    shape = [1] * maps.ndim
    shape[0], shape[axis] = rows_PU.shape
    return shape
