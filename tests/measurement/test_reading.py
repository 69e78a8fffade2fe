"""What is read off a map is what plain comparisons and means in float64 give, whatever its shape and layout."""

import pytest
import torch

from vestige.measurement.reading import read, spatial_mean, zeros
from vestige.models.layers import Layer

SHAPES = [
    ((5, 16, 7, 7), 1),
    ((300, 8, 4, 4), 1),  # more images than a byte counts
    ((3, 5, 6), 2),
    ((4, 6, 24), 2),
    ((4, 7, 7, 24), 3),
    ((9, 16), 1),
    ((9, 13), 1),
    ((600, 8), 1),
    ((5, 3, 5, 5), 1),
    ((2, 4, 3, 4, 4), 1),
    ((6, 10, 8), 1),
]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "transposed": lambda x: x.transpose(1, -1).contiguous().transpose(1, -1),
    "sliced": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "expanded": lambda x: x[:1].expand(x.shape),
    "bfloat16": lambda x: x.bfloat16(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_zeros_and_means(shape, axis, layout):
    maps = LAYOUTS[layout](torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu())
    around = [d for d in range(maps.ndim) if d != axis]
    assert torch.equal(zeros(maps, axis), (maps == 0).sum(around))
    expected = maps.double().movedim(axis, 1).reshape(shape[0], shape[axis], -1).mean(2)
    torch.testing.assert_close(spatial_mean(maps, axis).double(), expected, rtol=1e-6, atol=1e-7)


def test_padding_does_not_count_and_zeros_may_be_of_some_images():
    maps = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[2.0, 0.0]], [[0.0, 0.0]]])
    layer = Layer("a", "a", "a", 1, 1, "")
    whole = read(maps, layer, valid=3)
    assert whole.pooled.tolist() == [[0.5], [0.0], [1.0]]
    assert (whole.zeros.tolist(), whole.positions) == ([4], 6)
    some = read(maps, layer, 3, torch.tensor([True, False, True]))
    assert (some.zeros.tolist(), some.positions) == ([2], 4)
    assert some.pooled.equal(whole.pooled)


def test_what_is_read_is_no_part_of_the_activation():
    flat = torch.ones(2, 3)
    pooled = spatial_mean(flat, 1)
    flat.zero_()
    assert pooled.tolist() == [[1, 1, 1], [1, 1, 1]]
