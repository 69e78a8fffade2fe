"""What replaces neurons: zero, their mean, or their map from another image.

Shapes: T images of a tile, U neurons of a layer, P replays.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Replacement(Protocol):
    """What the neurons of one layer are replaced by, on the images of one tile."""

    def of(self, images_P: Tensor, units_P: Tensor) -> Tensor:
        """What is written for each pair of an image and a neuron, (P, *positions), each 1 where all are alike."""
        ...

    def changed(self, maps_TU: Tensor) -> Tensor:
        """Where writing it changes anything, bit for bit: (T, U) bool.

        Args:
          maps_TU: the layer's activations, (T, U, *positions).
        """
        ...


@dataclass(frozen=True)
class Constant:
    """The same at every position of every image.

    Args:
      fills_U: of each neuron.
      positions: axes of positions that the layer has.
    """

    fills_U: Tensor
    positions: int

    def of(self, images_P: Tensor, units_P: Tensor) -> Tensor:  # noqa: ARG002, D102
        return self.fills_U[units_P][(..., *[None] * self.positions)]

    def changed(self, maps_TU: Tensor) -> Tensor:  # noqa: D102
        return _anywhere(maps_TU != self.fills_U[(..., *[None] * self.positions)])


@dataclass(frozen=True)
class Donors:
    """The neuron's whole map from another image.

    Args:
      maps_TU: of the donor of each image, (T, U, *positions).
    """

    maps_TU: Tensor

    def of(self, images_P: Tensor, units_P: Tensor) -> Tensor:  # noqa: D102
        return self.maps_TU[images_P, units_P]

    def changed(self, maps_TU: Tensor) -> Tensor:  # noqa: D102
        return _anywhere(maps_TU != self.maps_TU[: len(maps_TU)])


def _anywhere(differs: Tensor) -> Tensor:
    return differs.flatten(2).any(2) if differs.ndim > 2 else differs


def constant(value: str, mean_U: Tensor, maps_TU: Tensor) -> Constant:
    """Zero, or the neurons' means, for a layer's activations (T, U, *positions)."""
    fills_U = torch.zeros_like(mean_U) if value == "zero" else mean_U
    return Constant(fills_U.to(maps_TU), maps_TU.ndim - 2)
