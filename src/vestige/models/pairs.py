"""Arithmetic on replays: pairs of a held image and one of its neurons, of which little differs from the intact network.

Shapes: T images that were held, P replays, U neurons of a layer, O outputs, L positions, K entries of a kernel.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vestige.models.map_layouts import Layout, index_images, layout_of, ordered, seen_from
from vestige.models.spreading import Channel

_SHORTEST_RUN = 4  # replays of one image, on average, from which on broadcasting it beats gathering it


@dataclass(frozen=True)
class Pairs:
    """Which replays to run.

    Attributes:
      images: the held image of each, (P,) int64.
      units: its neuron, (P,) int64.
      runs: (first, last + 1, image) of successive replays of one image; None: too many to be worth it.
    """

    images: Tensor
    units: Tensor
    runs: tuple[tuple[int, int, int], ...] | None

    @classmethod
    def of(cls, images_P: Tensor, units_P: Tensor) -> "Pairs":
        """Look for runs; on a GPU gathering is cheap, and looking is not."""
        if images_P.device.type != "cpu":
            return cls(images_P, units_P, None)
        ends = [*(images_P.diff().nonzero()[:, 0] + 1).tolist(), len(images_P)]
        if len(ends) * _SHORTEST_RUN > len(images_P):
            return cls(images_P, units_P, None)
        starts = [0, *ends[:-1]]
        return cls(images_P, units_P, tuple(zip(starts, ends, images_P[starts].tolist(), strict=True)))

    def __len__(self) -> int:
        return len(self.images)


class Slice(NamedTuple):
    """A value that differs from the intact one in one channel only.

    Attributes:
      written: the channel in P replays; along its axis it is as long as a block.
      own: what it was.
      intact: the whole value of T images.
      channel: where it stands.
    """

    written: Tensor
    own: Tensor
    intact: Tensor
    channel: Channel


def own(intact: Tensor, channel: Channel, pairs: Pairs) -> Tensor:
    """The channel of each replay's neuron in the intact value, its axis kept."""
    blocks = intact.unflatten(channel.axis, (-1, channel.block)).movedim(channel.axis, 1)
    return blocks[pairs.images, pairs.units]


def gathered(intact: Tensor, pairs: Pairs) -> Tensor:
    """The intact value of each replay's image; maps keep their layout."""
    if intact.ndim == 4:
        return index_images(intact, pairs.images)
    return intact.index_select(0, pairs.images)


def whole(value: Slice, pairs: Pairs) -> Tensor:
    """The whole value of each replay: the intact one with the channel written into it."""
    full = gathered(value.intact, pairs)
    blocks = full.unflatten(value.channel.axis, (-1, value.channel.block)).movedim(value.channel.axis, 1)
    blocks[_places(pairs), pairs.units] = value.written
    return full


def add_intact_(into: Tensor, intact: Tensor, pairs: Pairs) -> Tensor:
    """Add each replay's intact value, in place."""
    if pairs.runs is None:
        return into.add_(gathered(intact, pairs))
    for start, stop, image in pairs.runs:
        into[start:stop].add_(intact[image])
    return into


def add_slice_(into: Tensor, value: Slice, pairs: Pairs) -> Tensor:
    """Add each replay's whole value, in place."""
    add_intact_(into, value.intact, pairs)
    blocks = into.unflatten(value.channel.axis, (-1, value.channel.block)).movedim(value.channel.axis, 1)
    blocks[_places(pairs), pairs.units] += value.written - value.own
    return into


def updated_conv(intact: Tensor, value: Slice, weight_UKO: Tensor, conv: nn.Conv2d, pairs: Pairs) -> Tensor:
    """A convolution's output, from the intact one (T, O, H, W) and the difference in one input channel."""
    difference = value.written - value.own
    patches_PLK = _patches(difference[:, 0], conv)
    layout = layout_of(intact)
    if layout is Layout.CHANNELS_FIRST:
        found_POL = _plus_product(intact.flatten(2), weight_UKO[pairs.units].mT, patches_PLK.mT, pairs)
        return found_POL.unflatten(2, intact.shape[2:])
    weight_PKO = weight_UKO[pairs.units]
    if layout is Layout.CHANNELS_LAST:
        found_PLO = _plus_product(ordered(intact, layout).flatten(1, 2), patches_PLK, weight_PKO, pairs)
        return seen_from(found_PLO.unflatten(1, intact.shape[2:]), layout)
    change_LPO = torch.bmm(patches_PLK, weight_PKO).transpose(0, 1)
    found_LPO = _plus_intact(ordered(intact, layout).flatten(0, 1), change_LPO, pairs)
    return seen_from(found_LPO.unflatten(0, intact.shape[2:]), layout)


def _patches(maps_PHW: Tensor, conv: nn.Conv2d) -> Tensor:
    """What a convolution sees of one channel at each position of its output, (P, L, K)."""
    if conv.kernel_size == (1, 1) and conv.padding == (0, 0):
        rows, columns = conv.stride
        return maps_PHW[:, ::rows, ::columns].flatten(1)[:, :, None]
    assert not isinstance(conv.padding, str)
    rows, columns = conv.padding
    seen = functional.pad(maps_PHW, (columns, columns, rows, rows))
    for axis, (size, step, apart) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        seen = seen.unfold(1 + axis, (size - 1) * apart + 1, step)[..., ::apart]
    return seen.flatten(3).flatten(1, 2)


def updated_linear(intact: Tensor, value: Slice, weight_UKO: Tensor, pairs: Pairs) -> Tensor:
    """A linear layer's output, from the intact one (T, *positions, O) and the difference in one input feature."""
    difference_PLK = (value.written - value.own).flatten(1, -2) if intact.ndim > 2 else None
    if difference_PLK is None:
        difference_PLK = (value.written - value.own)[:, None]
    intact_TLO = intact.reshape(len(intact), -1, intact.shape[-1])
    found_PLO = _plus_product(intact_TLO, difference_PLK, weight_UKO[pairs.units], pairs)
    return found_PLO.view(len(pairs), *intact.shape[1:])


def depthwise(written: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d, pairs: Pairs) -> Tensor:
    """A depthwise convolution of each replay's own channel, (P, 1, H, W)."""
    return functional.conv2d(
        written.movedim(1, 0),
        weight[pairs.units],
        None if bias is None else bias[pairs.units],
        conv.stride,
        conv.padding,  # pyright: ignore[reportArgumentType]
        conv.dilation,
        groups=len(pairs),
    ).movedim(0, 1)


def scaled(written: Tensor, scale_U: Tensor, shift_U: Tensor, pairs: Pairs) -> Tensor:
    """A batch norm of each replay's own channel, (P, 1, *positions)."""
    shape = (-1, *[1] * (written.ndim - 1))
    return torch.addcmul(shift_U[pairs.units].view(shape), written, scale_U[pairs.units].view(shape))


def _plus_product(intact: Tensor, a: Tensor, b: Tensor, pairs: Pairs) -> Tensor:
    """intact + a @ b, matrix by matrix; `intact` has T of them, the others P."""
    add = torch.addcmul if a.shape[2] == 1 else torch.baddbmm
    if pairs.runs is None:
        return add(intact[pairs.images], a, b)
    found = intact.new_empty(len(pairs), *intact.shape[1:])
    for start, stop, image in pairs.runs:
        run = slice(start, stop)
        add(intact[image : image + 1], a[run], b[run], out=found[run])
    return found


def _plus_intact(intact_LTO: Tensor, change_LPO: Tensor, pairs: Pairs) -> Tensor:
    """Each replay's change added to its image's intact value, contiguous."""
    if pairs.runs is None:
        return intact_LTO.index_select(1, pairs.images).add_(change_LPO)
    found_LPO = intact_LTO.new_empty(change_LPO.shape)
    for start, stop, image in pairs.runs:
        torch.add(intact_LTO[:, image : image + 1], change_LPO[:, start:stop], out=found_LPO[:, start:stop])
    return found_LPO


def _places(pairs: Pairs) -> Tensor:
    return torch.arange(len(pairs), device=pairs.images.device)
