"""Layouts change where numbers lie, never which they are."""

import pytest
import torch

from vestige.models.map_layouts import Layout, index_images, laid_out, layout_of, ordered, seen_from

STRIDES = {
    Layout.CHANNELS_FIRST: (60, 20, 5, 1),
    Layout.CHANNELS_LAST: (60, 1, 15, 3),
    Layout.SPATIAL_FIRST: (3, 1, 30, 6),
}
"""Of 2 images, 3 channels, 4 x 5 positions."""


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("before", Layout)
def test_the_same_maps_lie_as_asked(before, layout):
    maps = torch.randn(2, 3, 4, 5)
    found = laid_out(laid_out(maps, before), layout)
    assert torch.equal(found, maps)
    assert found.stride() == STRIDES[layout]
    assert layout_of(found) is layout
    assert torch.equal(seen_from(ordered(found, layout), layout), maps)


@pytest.mark.parametrize("layout", Layout)
def test_maps_of_some_images_keep_their_layout(layout):
    maps = torch.randn(4, 3, 4, 5)
    found = index_images(laid_out(maps, layout), torch.tensor([2, 0, 2]))
    assert torch.equal(found, maps[[2, 0, 2]])
    assert layout_of(found) is layout
