"""Weights are laid out channels last where maps are large, unless the network cannot run that way; outputs stay."""

import pytest
import torch
from torch import nn

from vestige.models.graph import Graph
from vestige.models.layouts import mean_positions
from vestige.models.observing import observe


class Net(nn.Module):
    def __init__(self, flatten):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.Conv2d(8, 4, 1)
        self.relu, self.head, self.flatten = nn.ReLU(), nn.LazyLinear(5), flatten

    def forward(self, x):
        return self.head(self.flatten(self.relu(self.two(self.one(x)))))


def net(size, flatten=None):
    torch.manual_seed(0)
    model, inputs = Net(flatten or nn.Flatten()).eval(), torch.randn(2, 3, size, size)
    model(inputs)
    return model, inputs


def is_channels_last(graph):
    return graph.module.get_submodule("one").weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("size", "last"), [(16, False), (40, True)])
def test_large_maps_are_channels_last(size, last):
    model, inputs = net(size)
    graph = observe(model, inputs)
    assert isinstance(graph, Graph)
    assert is_channels_last(graph) is last
    torch.testing.assert_close(graph.observing({})(inputs)[0], model(inputs))
    assert model.one.weight.is_contiguous()


def test_a_network_that_needs_the_usual_layout_keeps_it():
    class View(nn.Module):
        def forward(self, x):
            return x.view(x.shape[0], -1)

    model, inputs = net(40, View())
    with pytest.raises(RuntimeError, match="view"):
        model.to(memory_format=torch.channels_last)(inputs)
    model.to(memory_format=torch.contiguous_format)
    graph = observe(model, inputs)
    assert isinstance(graph, Graph)
    assert not is_channels_last(graph)
    torch.testing.assert_close(graph.observing({})(inputs)[0], model(inputs))


def test_positions_are_weighted_by_multiply_adds():
    model, inputs = net(40)
    graph = Graph.trace(model)
    assert mean_positions(graph, graph.operations(inputs)) == pytest.approx(20 * 20)
    model.two = nn.Conv2d(8, 4, 1, stride=2)
    model.head = nn.Linear(400, 5)
    graph = Graph.trace(model)
    first, second = 8 * 400 * 27, 4 * 100 * 8
    expected = 400 ** (first / (first + second)) * 100 ** (second / (first + second))
    assert mean_positions(graph, graph.operations(inputs)) == pytest.approx(expected)


def test_without_convolutions_there_is_nothing_to_lay_out():
    graph = Graph.trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert mean_positions(graph, graph.operations(torch.randn(2, 4))) == 0
