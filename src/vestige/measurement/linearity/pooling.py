"""Pooled activations and logits of every image, kept for what needs all images at once.

Shapes: N images, T of a tile, U neurons (units) of a layer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from vestige.measurement.keeping import Kept
from vestige.measurement.linearity.rows import LOGITS
from vestige.measurement.network import Network


class Pooled:
    """Pooled activations of each layer, and the logits, image by image in the order in which they were added, float64.

    Args:
      network: whose.
      kept: room for them.
    """

    def __init__(self, network: Network, kept: Kept):
        units = {layer.name: layer.units for layer in network.layers} | {LOGITS: network.classes}
        self.names = tuple(units)
        self._kept, self._places, self._width = kept, dict[str, slice](), 0
        for name, count in units.items():
            self._places[name] = slice(self._width, self._width + count)
            self._width += count

    def add(self, of_layers: Mapping[str, Tensor], logits_TC: Tensor) -> None:
        """Those of some images."""
        values = {**of_layers, LOGITS: logits_TC}
        self._kept.add(torch.cat([values[name].double() for name in self.names], 1).cpu())

    def of(self, name: str) -> Tensor:
        """All of one layer, (N, U)."""
        return self._kept.of(self._places[name], self._width)
