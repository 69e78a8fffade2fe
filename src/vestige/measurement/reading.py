"""What is read off a layer's activation at the moment it is made, so that no map has to be kept.

Shapes: T images of a tile, U neurons (units) of a layer.
"""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from vestige.models.layers import Layer, pooled

_LANE = 255  # most that a byte can count
_WORD = 8  # bytes added at once


class Reading(NamedTuple):
    """A layer's activation for some images, reduced."""

    pooled: Tensor
    """Spatial means (T, U), float32 (float64 where the activation is)."""
    zeros: Tensor
    """(U,) int64: how many of the (image, position) are exactly 0, of the images looked at for it."""
    positions: int
    """(image, position) that were looked at."""


def read(activation: Tensor, layer: Layer, valid: int, chosen: Tensor | None = None) -> Reading:
    """Reduce an activation to what selectivity needs of it.

    Args:
      activation: inputs along axis 0, neurons along `layer.axis`, positions along the others; not changed.
      layer: where it was read.
      valid: so many of the inputs count, the first ones.
      chosen: (valid,) bool, on the CPU: in which images zeros are counted; None: in all.
    """
    counted = activation[:valid]
    mean_TU = spatial_mean(counted, layer.axis)
    if chosen is not None and not chosen.any():
        return Reading(mean_TU, torch.zeros(layer.units, dtype=torch.int64), 0)
    looked_at = counted if chosen is None else counted[chosen.nonzero()[:, 0].to(counted.device)]
    return Reading(mean_TU, zeros(looked_at, layer.axis), looked_at.numel() // layer.units)


def spatial_mean(activation: Tensor, axis: int) -> Tensor:
    """Mean over positions, (T, U), accumulated in float32 at least, in many partial sums: to some 1e-7."""
    if axis == 1 and activation.ndim > 2 and activation.device.type == "cpu" and activation.is_contiguous():
        return _row_means(activation.flatten(0, 1).flatten(1)).view(activation.shape[:2])
    wide = torch.float64 if activation.dtype == torch.float64 else torch.float32
    mean_TU = pooled(activation, axis, dtype=wide)
    # Without positions it is the activation itself, which the network may overwrite.
    return mean_TU.clone() if activation.ndim == 2 else mean_TU


def _row_means(rows: Tensor) -> Tensor:
    """A product with a vector reads memory twice as fast as torch's mean."""
    rows = rows.float() if rows.dtype not in (torch.float32, torch.float64) else rows
    length = rows.shape[1]
    return torch.mv(rows, rows.new_full((length,), 1 / length))


def zeros(activation: Tensor, axis: int) -> Tensor:
    """How many images and positions of each neuron are exactly 0, (U,) int64.

    Eight flags are added at once, as the bytes of a word: torch's own count of a comparison takes several times
    as long as the mean, this one less than two.
    """
    units = activation.shape[axis]
    ordered = _in_memory_order(activation)
    flags = torch.empty_like(ordered, dtype=torch.bool).copy_(ordered)  # the fastest comparison with 0 on a CPU
    per_image = prod(ordered.shape[1:])
    if activation.device.type != "cpu" or per_image % _WORD or not flags.is_contiguous():
        open_places = flags.sum(0)
    else:
        words = flags.view(len(ordered), per_image).view(torch.int64)
        open_places = torch.zeros(per_image, dtype=torch.int32, device=activation.device)
        for part in words.split(_LANE):
            open_places += part.sum(0).view(torch.uint8)
    places = open_places.view(ordered.shape[1:]).movedim(_axis_in(activation, axis) - 1, -1)
    return activation.numel() // units - places.reshape(-1, units).sum(0, dtype=torch.int64)


def _in_memory_order(activation: Tensor) -> Tensor:
    """The same values with channels-last layouts laid out as they lie in memory."""
    return activation.movedim(1, -1) if _channels_last(activation) else activation


def _axis_in(activation: Tensor, axis: int) -> int:
    """The place of an axis of an activation in what `_in_memory_order` makes of it."""
    if not _channels_last(activation):
        return axis
    return activation.ndim - 1 if axis == 1 else axis - 1


def _channels_last(activation: Tensor) -> bool:
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    if activation.ndim not in layouts or activation.is_contiguous():
        return False
    return activation.is_contiguous(memory_format=layouts[activation.ndim])
