"""Ablation of networks that cannot be traced: whole forwards, with the activation edited as the network runs.

Shapes: T images of a tile (its valid ones), U neurons of a layer, R replays, C classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from vestige.data.loader import Tile
from vestige.formulas.effects import Outcomes, outcomes
from vestige.measurement.ablation.fixed_forwards import forwards, how_they_did
from vestige.measurement.ablation.replacing import Replacement
from vestige.measurement.ablation.replay import Edits
from vestige.measurement.network import Network, check_finite
from vestige.models.layers import Layer
from vestige.models.observing import logits_of

NOTE = "Ablation runs whole forwards, since the network is not traced and its end cannot be replayed: exact, but slow."
_DOING = "ablating neurons"


@dataclass(frozen=True)
class Run:
    """One tile, run.

    Attributes:
      inputs: all of the tile, the padding included.
      maps: the layer's activation, neurons moved to the second axis, (T, U, *positions); empty where not asked for.
      logits: of all inputs.
      labels: of all inputs.
      valid: so many count.
      intact: outcomes of those.
    """

    inputs: Any
    maps: Tensor
    logits: Tensor
    labels: Tensor
    valid: int
    intact: Outcomes


class FullForwards:
    """As `Replay`, for a network that is observed as it runs; a forward takes T images, as in holding the tile."""

    def __init__(self, network: Network, layers: Sequence[Layer]):
        self._network, self._layers = network, tuple(layers)
        self._forward = network.graph.editing([layer.node for layer in layers])

    def hold(self, tile: Tile) -> Run:
        """Run a tile."""
        inputs, labels = self._network.on_device(tile.inputs), tile.labels.to(self._network.device)
        logits = self._logits(inputs, {})
        check_finite(logits[: tile.valid], "its output", doing=_DOING)
        intact = outcomes(logits[: tile.valid], labels[: tile.valid])
        return Run(inputs, logits[:0], logits, labels, tile.valid, intact)

    def outcomes(self, held: Run, images_R: Tensor, edits: Callable[[Tensor], Edits]) -> Outcomes:
        """How R replays did, each of one image under its edit."""

        def logits() -> Iterator[Tensor]:
            for these, places_P in forwards(len(images_R), len(held.labels), images_R.device):
                inputs = tree_map(lambda leaf, rows=images_R[places_P]: leaf[rows.to(leaf.device)], held.inputs)
                yield self._logits(inputs, edits(places_P))[: these.stop - these.start]

        return how_they_did(logits(), held.labels[images_R])

    def _logits(self, inputs: Any, edits: Edits) -> Tensor:
        with torch.no_grad(), self._network.autocast(inputs):
            return logits_of(self._forward(inputs, edits))


class FullForwardNeurons:
    """As `NeuronReplay`, for a network that is observed as it runs."""

    def __init__(self, network: Network, layer: Layer):
        self.network, self.layer = network, layer
        self._forwards = FullForwards(network, [layer])

    def hold(self, tile: Tile) -> Run:
        """Run a tile, and keep the layer's activation."""
        run = self._forwards.hold(tile)
        maps = self.network.captured(tile.inputs, [self.layer.node])[1][self.layer.node]
        return Run(run.inputs, maps.movedim(self.layer.axis, 1), run.logits, run.labels, run.valid, run.intact)

    def outcomes(self, held: Run, images_R: Tensor, units_R: Tensor, replacement: Replacement) -> Outcomes:
        """How R replays did, each of one image with one neuron replaced: `loss` and `correct`, (R,)."""

        def of(places_P: Tensor) -> Mapping[str, Callable[[Tensor], Tensor]]:
            images_P, units_P = images_R[places_P], units_R[places_P]
            rows_P = torch.arange(len(images_P), device=images_P.device)

            def write(value: Tensor) -> Tensor:
                value = value.clone()
                value.movedim(self.layer.axis, 1)[rows_P, units_P] = replacement.of(images_P, units_P).to(value)
                return value

            return {self.layer.node: write}

        return self._forwards.outcomes(held, images_R, of)
