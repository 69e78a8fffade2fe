"""What replacing every neuron of every layer will do, estimated from one forward and a few backwards a tile.

Each of the label's opponents (the classes with the highest other logits, and all the rest as one) takes one backward
of its log-odds; a neuron's change of them is gradient times change of its map, summed over positions. Exact where what
follows is linear and every other class is an opponent of its own.

Shapes: T images of a tile (its valid ones), U neurons of a layer, C classes, Q opponents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.formulas.linearised import Estimates, log_odds, predicted, rivals
from vestige.measurement.ablation.replacing import Replacement
from vestige.measurement.network import Network, check_finite
from vestige.models.layers import Layer
from vestige.models.observing import logits_of
from vestige.models.operations import only_tensor

RIVALS = 3
"""Classes that get a backward of their own; the rest share one."""
_DOING = "estimating what ablating neurons does"


@dataclass(frozen=True)
class Run:
    """One tile, run, its valid images.

    Attributes:
      maps: by layer name, the activation, (T, U, *positions).
      logits: (T, C).
      margin: the label's logit minus the highest other one, (T,).
    """

    maps: Mapping[str, Tensor]
    logits: Tensor
    margin: Tensor
    _odds_TQ: Tensor
    _activations: Mapping[str, Tensor]


class Screen:
    """Estimates for all neurons of some layers of a network, traced or not.

    Args:
      network: with the batch-norm statistics to measure with.
      layers: of its layers; None: all.
      opponents: classes that get a backward of their own; C - 1: the softmax is followed exactly.
    """

    def __init__(self, network: Network, layers: Sequence[Layer] | None = None, opponents: int = RIVALS):
        self.network, self.layers = network, tuple(network.layers if layers is None else layers)
        self.opponents = opponents
        self._forward = network.graph.editing(list(dict.fromkeys(layer.node for layer in self.layers)))

    def run(self, tile: Tile) -> Run:
        """Run a tile, ready for backwards: what follows the first layer is held.

        Raises:
          ModelError: the network has diverged.
        """
        inputs = self.network.on_device(tile.inputs)
        activations: dict[str, Tensor] = {}
        edits = {layer.node: partial(_tapped, activations, layer.node) for layer in self.layers}
        with torch.enable_grad(), self.network.autocast(inputs):
            given = only_tensor(inputs) if self.network.graph.traced else inputs
            logits_TC = logits_of(self._forward(given, edits))[: tile.valid].float()
            check_finite(logits_TC, "its output", doing=_DOING)
            labels_T = tile.labels[: tile.valid].to(logits_TC.device)
            odds_TQ = log_odds(logits_TC, labels_T, rivals(logits_TC.detach(), labels_T, self.opponents))
        maps = {
            layer.name: activations[layer.node].detach()[: tile.valid].movedim(layer.axis, 1) for layer in self.layers
        }
        margin_T = -odds_TQ.detach()[:, : self.opponents].amax(1)
        return Run(maps, logits_TC.detach(), margin_T, odds_TQ, activations)

    def estimates(self, run: Run, replaced: Sequence[tuple[Layer, Replacement]]) -> list[Estimates]:
        """What each of some replacements of layers does, (T, U) each. A tile can be asked once.

        Args:
          run: of a tile.
          replaced: layers, and what their neurons are replaced by, each alone.
        """
        changes = [_change(run.maps[layer.name], replacement) for layer, replacement in replaced]
        sums: list[list[tuple[Tensor, Tensor]]] = [[] for _ in replaced]
        odds_TQ, nodes = run._odds_TQ, list(run._activations)
        for q in range(odds_TQ.shape[1]):
            last = q == odds_TQ.shape[1] - 1
            found = torch.autograd.grad(
                odds_TQ[:, q].sum(), list(run._activations.values()), retain_graph=not last, allow_unused=True
            )
            gradients = dict(zip(nodes, found, strict=True))
            for (layer, _), change_TU, of_layer in zip(replaced, changes, sums, strict=True):
                of_layer.append(_summed(gradients[layer.node], layer.axis, change_TU))
        odds = odds_TQ.detach()
        estimates = []
        for (layer, replacement), of_layer in zip(replaced, sums, strict=True):
            signed_TUQ, absolute_TUQ = (torch.stack(part, -1) for part in zip(*of_layer, strict=True))
            changed_TU = replacement.changed(run.maps[layer.name])
            estimates.append(predicted(odds, signed_TUQ, absolute_TUQ, changed_TU, self.opponents))
        return estimates


def _tapped(activations: dict[str, Tensor], node: str, value: Tensor) -> Tensor:
    """A copy that gradients are taken at: nothing overwrites it, and nothing before the first of them is held."""
    copied = value.clone() if value.requires_grad else value.detach().clone().requires_grad_()
    activations[node] = copied
    return copied


def _change(maps_TU: Tensor, replacement: Replacement) -> Tensor:
    """What is added to each neuron's map, (T, U, *positions)."""
    images, units = maps_TU.shape[:2]
    images_P = torch.arange(images, device=maps_TU.device).repeat_interleave(units)
    units_P = torch.arange(units, device=maps_TU.device).repeat(images)
    return replacement.of(images_P, units_P).unflatten(0, (images, units)) - maps_TU


def _summed(gradient: Tensor | None, axis: int, change_TU: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over positions of gradient times change, with and without signs, (T, U).

    What does not change does nothing, though its gradient be infinite, as that of a square root at 0.
    """
    if gradient is None:
        nothing = torch.zeros_like(change_TU.flatten(2).sum(2) if change_TU.ndim > 2 else change_TU)
        return nothing, nothing
    terms = (gradient[: len(change_TU)].movedim(axis, 1) * change_TU).masked_fill_(change_TU == 0, 0)
    positions = tuple(range(2, terms.ndim))
    if not positions:
        return terms.float(), terms.abs().float()
    return terms.sum(positions, dtype=torch.float32), terms.abs_().sum(positions, dtype=torch.float32)
