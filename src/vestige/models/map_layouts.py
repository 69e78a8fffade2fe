"""Where the four axes of maps (P, C, H, W) lie in memory during replays: which is fast depends on who computes them.

Shapes: P images, C channels, H and W positions.
"""

from collections.abc import Sequence
from enum import Enum

from torch import Tensor


class Layout(Enum):
    """The axes of maps, outermost in memory first."""

    CHANNELS_FIRST = (0, 1, 2, 3)
    CHANNELS_LAST = (0, 2, 3, 1)
    SPATIAL_FIRST = (2, 3, 0, 1)


FEW_POSITIONS = 32
"""Below which torch's convolutions on a CPU are faster channels-first."""


def fastest_for_torch(shape: Sequence[int]) -> Layout:
    """The layout of maps that torch's convolutions give fastest on a CPU."""
    return Layout.CHANNELS_FIRST if shape[2] * shape[3] < FEW_POSITIONS else Layout.CHANNELS_LAST


def laid_out(maps: Tensor, layout: Layout) -> Tensor:
    """The same maps, in a layout."""
    return seen_from(ordered(maps, layout).contiguous(), layout)


def ordered(maps: Tensor, layout: Layout) -> Tensor:
    """A view of maps with the axes in the order of a layout."""
    return maps.permute(layout.value)


def seen_from(value: Tensor, layout: Layout) -> Tensor:
    """A view as maps (P, C, H, W) of what has its axes in the order of a layout."""
    return value.permute([layout.value.index(axis) for axis in range(4)])


def layout_of(value: Tensor) -> Layout:
    """The layout of maps; channels first where they have another, or where several are the same."""
    fitting = (layout for layout in Layout if ordered(value, layout).is_contiguous())
    return next(fitting, Layout.CHANNELS_FIRST)


def images_axis(layout: Layout) -> int:
    """Where images stand among the axes of a layout."""
    return layout.value.index(0)


def index_images(maps: Tensor, images_P: Tensor) -> Tensor:
    """Maps of some images, (P, C, H, W), in the layout of the maps."""
    layout = layout_of(maps)
    return seen_from(ordered(maps, layout).index_select(images_axis(layout), images_P), layout)
