"""Which convolutions replays compute by Winograd's way, and how maps then lie."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from vestige.models import convolving
from vestige.models.convolving import Convolver
from vestige.models.graph import Graph
from vestige.models.map_layouts import Layout, layout_of


def chain(*modules):
    return nn.Sequential(nn.ReLU(), *modules).eval()


def convolver(model, size, dtype=torch.float32):
    graph = Graph.trace(model.to(dtype))
    inputs = torch.rand(2, 4, size, size, dtype=dtype)
    nodes = [n for n in graph.module.graph.nodes if n.op == "call_module" and isinstance(graph.submodule(n), nn.Conv2d)]
    return Convolver(graph, nodes, graph.record(inputs).operations, dtype), nodes, graph, inputs


PLAIN = [nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 5, 3, 2, 1)]


@pytest.fixture(autouse=True)
def _few_channels_do(monkeypatch):
    monkeypatch.setattr(convolving, "FEWEST_CHANNELS", 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_maps_of_plain_convolutions_lie_positions_first(dtype):
    found, nodes, graph, inputs = convolver(chain(*PLAIN), 8, dtype)
    assert found.layout((2, 6, 8, 8)) is Layout.SPATIAL_FIRST
    value = inputs
    for node in nodes:
        module = graph.submodule(node)
        expected = conv2d(value, module.weight, module.bias, module.stride, module.padding)
        value = found.convolution(node, module.weight.detach(), module.bias.detach())(value)
        assert layout_of(value) is Layout.SPATIAL_FIRST
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5 if dtype is torch.float32 else 1e-12)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(5, 5, 3, padding=1, groups=5),
        nn.Conv2d(5, 5, 5, padding=2),
        nn.Conv2d(5, 5, 3, padding=2, dilation=2),
        nn.Conv2d(5, 5, (1, 3), padding=(0, 1)),
    ],
    ids=["depthwise", "5x5", "dilated", "1x3"],
)
def test_one_of_another_kind_leaves_all_to_torch(other):
    found, *_ = convolver(chain(*PLAIN[:2], other), 8)
    assert found.layout((2, 6, 8, 8)) is Layout.CHANNELS_LAST


def test_few_channels_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(convolving, "FEWEST_CHANNELS", 5)
    found, *_ = convolver(chain(*PLAIN), 8)
    assert found.layout((2, 6, 8, 8)) is Layout.CHANNELS_LAST


def test_kernels_of_one_position_alone_are_left_to_torch():
    found, *_ = convolver(chain(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 5, 1)), 8)
    assert found.layout((2, 6, 8, 8)) is Layout.CHANNELS_LAST


def test_bfloat16_is_left_to_torch():
    found, *_ = convolver(chain(*PLAIN), 8, torch.bfloat16)
    assert found.layout((2, 6, 8, 8)) is Layout.CHANNELS_LAST


def test_large_maps_are_left_to_torch_and_what_comes_out_small_is_laid_out():
    found, nodes, graph, inputs = convolver(chain(nn.Conv2d(4, 6, 5, 4, 2), *PLAIN[1:], nn.Conv2d(5, 5, 3, 1, 1)), 32)
    value = found.convolution(nodes[0], graph.submodule(nodes[0]).weight.detach(), None)(inputs)
    assert found.layout(inputs.shape) is Layout.CHANNELS_LAST
    assert layout_of(value) is Layout.SPATIAL_FIRST
    expected = conv2d(inputs, graph.submodule(nodes[0]).weight, None, 4, 2)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)
