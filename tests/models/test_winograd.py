"""Winograd's convolutions are convolutions: against torch's in float64, and counted by hand."""

import pytest
import torch
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vestige.models.winograd import PointwiseConv, WinogradConv, axis, largest_step, products, toom_cook

SIZES = [(1, 1), (1, 4), (2, 2), (2, 3), (3, 3), (4, 4), (5, 6), (7, 7), (8, 8), (8, 5), (13, 9), (14, 14), (16, 16)]
STRIDES = [(1, 1), (2, 2), (1, 2)]


def convolved(weight, bias, stride, maps):
    fast = WinogradConv(weight, bias, stride, maps.shape[2:])
    return fast(maps.permute(2, 3, 0, 1).contiguous()).permute(2, 3, 0, 1)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_convolution(size, stride):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 5, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 5, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    expected = conv2d(maps, weight, bias, stride, 1)
    torch.testing.assert_close(convolved(weight, bias, stride, maps), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        convolved(weight, None, stride, maps), expected - bias[:, None, None], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
def test_a_kernel_of_one_position(stride):
    maps, weight = torch.randn(3, 5, 6, 7).double(), torch.randn(4, 5, 1, 1).double()
    expected = conv2d(maps, weight, stride=stride)
    found = PointwiseConv(weight, None, stride)(maps.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [4, 8, 14, 16])
def test_in_float32_it_rounds_to_a_hundred_thousandth_of_the_scale(size):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(4, 128, size, size, generator=generator).relu_()
    weight = torch.randn(64, 128, 3, 3, generator=generator) / 24
    exact = conv2d(maps.double(), weight.double(), None, 1, 1)
    wrong = (convolved(weight, None, (1, 1), maps).double() - exact).abs().max() / exact.abs().max()
    assert 0 < wrong < 1e-5


@pytest.mark.parametrize(
    ("length", "stride", "expected"),
    [(1, 1, 1), (2, 1, 4), (3, 1, 5), (4, 1, 6), (7, 1, 12), (8, 1, 12), (16, 1, 24), (8, 2, 9), (16, 2, 18)],
)
def test_how_many_products_an_axis_takes(length, stride, expected):
    # F(m, 3) takes m + 2; every second of 2 m: m + 1 for the outer two taps and m for the middle one.
    assert products(length, stride) == expected


def test_two_outputs_of_three_taps_by_hand():
    # Points 0, 1, -1 and infinity: y0 = d0 g0 + d1 g1 + d2 g2, y1 = d1 g0 + d2 g1 + d3 g2.
    found = toom_cook(2, 3)
    inputs, kernel = torch.tensor([1.0, 2, 3, 4]).double(), torch.tensor([10.0, 100, 1000]).double()
    products_4 = (found.kernel @ kernel) * (found.inputs[0] @ inputs)
    torch.testing.assert_close(found.outputs[:, 0] @ products_4, torch.tensor([3210.0, 4320.0]).double())


def test_an_axis_alone():
    found = axis(5, 1)
    inputs, kernel = torch.arange(1.0, 6).double(), torch.tensor([1.0, -2, 5]).double()
    made = (found.kernel @ kernel) * (found.inputs @ inputs)
    expected = torch.tensor([2 * 5 - 2 * 1, 1 - 4 + 15, 2 - 6 + 20, 3 - 8 + 25, 4 - 10.0]).double()
    torch.testing.assert_close(torch.einsum("htn, tn -> h", found.outputs, made), expected)


class Largest(TorchDispatchMode):
    """Notes the entries of the largest value that is made."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not func.is_view and "expand" not in str(func):
            self.entries = max(self.entries, *(leaf.numel() for leaf in tree_leaves(made) if torch.is_tensor(leaf)))
        return made


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize(("channels", "outputs"), [(4, 6), (6, 4)])
@pytest.mark.parametrize("size", [(14, 14), (8, 16), (7, 7)])
def test_the_largest_value_on_the_way(size, channels, outputs, stride):
    conv = WinogradConv(torch.randn(outputs, channels, 3, 3), None, stride, size)
    with Largest() as largest:
        conv(torch.randn(*size, 5, channels))
    assert largest.entries == 5 * largest_step((1, channels, *size), outputs, stride)
