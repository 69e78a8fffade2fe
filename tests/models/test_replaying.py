"""Replays of single neurons against full forwards with the neuron replaced, in float64, on networks of all shapes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vestige.models import convolving
from vestige.models.graph import Graph
from vestige.models.observing import logits_of
from vestige.models.pairs import Pairs
from vestige.models.replaying import Replayer

T, C = 5, 7


def norm(channels):
    made = nn.BatchNorm2d(channels)
    made.running_mean, made.running_var = torch.randn(channels), torch.rand(channels) + 0.5
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), norm(8)
        self.down, self.norm3 = nn.Conv2d(6, 8, 1, 2, bias=False), norm(8)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, C)

    def forward(self, x):
        x = self.relu(self.stem(x))
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        x = self.relu(y + self.norm3(self.down(x)))
        x = self.relu(x + self.conv2(x))  # called twice, and with an identity branch
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Shapes(nn.Module):
    """Sizes, a view, a functional convolution, a token that is no activation."""

    def __init__(self):
        super().__init__()
        self.stem, self.token = nn.Conv2d(3, 6, 3), nn.Parameter(torch.randn(1, 1, 6))
        self.weight = nn.Parameter(torch.randn(4, 6, 2, 2))
        self.mix, self.head = nn.Linear(6, 6), nn.Linear(4 * 25 + 6, C)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        n, c, h, w = x.shape
        tokens = torch.cat([self.token.expand(n, -1, -1), x.view(n, c, h * w).transpose(1, 2)], 1)
        seen = functional.conv2d(x, self.weight).reshape(x.size(0), -1)
        return self.head(torch.cat([seen, self.mix(tokens).mean(1)], 1))


class Concatenating(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1), norm(7)
        self.head = nn.Conv2d(7, C, 1)

    def forward(self, x):
        a = torch.relu(self.a(x))
        both = torch.relu(self.norm(torch.cat([a, torch.sigmoid(self.b(a)) * a[:, :3]], 1)))
        return self.head(both).mean((2, 3))


class Features(nn.Module):
    """Tokens with the features last: linear layers, layer norm, attention."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(16, 8), nn.LayerNorm(8)
        self.grow, self.shrink, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, C)
        self.places = nn.Parameter(torch.randn(1, 5, 8))

    def forward(self, x):
        x = self.embed(x.flatten(2))
        x = x + self.shrink(functional.gelu(self.grow(self.norm(x))))
        x = torch.softmax(x @ x.transpose(1, 2), -1) @ x
        x = x + (self.shrink(self.grow(x.mean(1, keepdim=True))) + self.places)  # the sum is larger than its first part
        return self.head(functional.gelu(x).mean(dim=1))


def sequential(*layers):
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *layers)


class Sized(nn.Module):
    """Pools whose arguments come from sizes; two outputs of which one is called logits."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, C)

    def forward(self, x):
        x = functional.avg_pool2d(torch.relu(self.stem(x)), 2)
        x = functional.adaptive_avg_pool2d(x, (x.shape[2] // 2, x.shape[3] // 2))
        x = functional.avg_pool2d(x, x.size()[3]).view(x.size(0), -1)
        return {"features": x, "logits": self.head(x)}


class Viewed(nn.Module):
    """Flattened by views, which small maps that lie positions first, or large ones channels last, do not have."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.shrink = nn.Conv2d(4, 4, 3, 2, 1)
        self.large, self.small = nn.Linear(4 * 64, C), nn.Linear(4 * 16, C)

    def forward(self, x):
        x = torch.relu(self.mix(torch.relu(self.stem(x))))
        y = torch.relu(self.shrink(x))
        return self.large(x.view(x.size(0), -1)) + self.small(y.view((y.size(0), -1)))


class Indexed(nn.Module):
    """A pool that gives indices too, and gives them back."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool, self.back = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.MaxPool2d(2, return_indices=True),
            nn.MaxUnpool2d(2),
        )
        self.head = nn.Linear(6, C)

    def forward(self, x):
        x, places = self.pool(torch.relu(self.stem(x)))
        return self.head(self.back(x, places).mean((2, 3)))


class Gain(nn.Module):
    """An activation function of one's own, with a weight a channel."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        return x * torch.sigmoid(self.beta * x)


class Swish(Gain):
    pass


NETWORKS = {
    "sized": Sized,
    "viewed": Viewed,
    "indexed": Indexed,
    "own activation": lambda: sequential(
        nn.AvgPool2d(2), Swish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, C)
    ),
    "reflected": lambda: sequential(
        nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), norm(5), nn.ReLU(), nn.Flatten(), nn.Linear(320, C)
    ),
    "residual": Residual,
    "shapes": Shapes,
    "concatenating": Concatenating,
    "features": Features,
    "flattened": lambda: sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 9), nn.ReLU(), nn.Linear(9, C)),
    "pooled": lambda: sequential(
        nn.AvgPool2d(2), norm(6), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, C)
    ),
    "depthwise": lambda: sequential(
        nn.Conv2d(6, 6, 3, 2, 1, groups=6),
        norm(6),
        nn.Hardswish(),
        nn.Conv2d(6, C, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ),
    "per channel": lambda: sequential(nn.PReLU(6), nn.Conv2d(6, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 36, C)),
    "dilated": lambda: sequential(
        nn.Conv2d(6, C, 3, padding=2, dilation=2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "padding in words": lambda: sequential(nn.Conv2d(6, C, 3, padding="same"), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "circular": lambda: sequential(
        nn.Conv2d(6, C, 3, padding=1, padding_mode="circular"), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "group norm": lambda: sequential(nn.GroupNorm(2, 6), nn.Conv2d(6, C, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "large maps": lambda: sequential(
        nn.Conv2d(6, 5, 3, padding=1), norm(5), nn.ReLU(), nn.Conv2d(5, C, 8), nn.Flatten()
    ),
    "the logits": lambda: sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
}


def replayed(graph, node, axis, inputs, images_P, units_P, written_P, **settings):
    operations = graph.record(inputs[:2]).operations
    replayer = Replayer(graph, node, axis, operations, dtype=inputs.dtype, **settings)
    with torch.no_grad():
        _, captured = graph.capturing(replayer.captured)(inputs)
        held = replayer.laid_out(captured)
        return replayer, replayer.logits(held, Pairs.of(images_P, units_P), lambda own: written_P.expand_as(own))


def replaced(graph, node, axis, inputs, images_P, units_P, written_P):
    """The slow way: a full forward for each pair."""

    def write(value, p):
        value = value.clone()
        view = value.movedim(axis, 1)
        view[0, units_P[p]] = written_P[p].expand_as(view[0, units_P[p]])
        return value

    forward = graph.editing([node])
    with torch.no_grad():
        rows = [
            logits_of(forward(inputs[i : i + 1], {node: lambda value, p=p: write(value, p)}))
            for p, i in enumerate(images_P.tolist())
        ]
    return torch.cat(rows)


@pytest.fixture(name="graph", params=NETWORKS)
def _graph(request):
    torch.manual_seed(0)
    return request.param, Graph.trace(NETWORKS[request.param]().eval().double())


@pytest.mark.parametrize("shortcuts", [True, False])
@pytest.mark.parametrize("order", ["by image", "mixed"])
@pytest.mark.parametrize("fewest_channels", [1, 1000], ids=["Winograd", "torch"])
def test_every_activation_of_every_network(graph, shortcuts, order, fewest_channels, monkeypatch):
    monkeypatch.setattr(convolving, "FEWEST_CHANNELS", fewest_channels)
    _, graph = graph
    inputs = (
        torch.randn(T, 3, 8, 8, dtype=torch.float64)
        if "embed" not in graph.nodes.values()
        else torch.randn(T, 5, 4, 4).double()
    )
    operations = graph.record(inputs[:2]).operations
    checked = 0
    for name, operation in operations.items():
        if operation.kind != "activation":
            continue
        axis = len(operation.shape) - 1 if "embed" in graph.nodes.values() else 1
        units = operation.shape[axis]
        images_P = torch.arange(T).repeat_interleave(units)
        units_P = torch.arange(units).repeat(T)
        if order == "mixed":
            places = torch.randperm(len(images_P), generator=torch.Generator().manual_seed(1))
            images_P, units_P = images_P[places], units_P[places]
        written_P = torch.randn(len(images_P), *[1] * (len(operation.shape) - 2), dtype=torch.float64)
        _, found = replayed(graph, name, axis, inputs, images_P, units_P, written_P, shortcuts=shortcuts)
        expected = replaced(graph, name, axis, inputs, images_P, units_P, written_P)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * float(expected.abs().max()))
        checked += 1
    assert checked


def kinds(name, node, axis=1):
    torch.manual_seed(0)
    graph = Graph.trace(NETWORKS[name]().eval())
    operations = graph.record(torch.randn(2, 3, 8, 8)).operations
    spread = Replayer(graph, node, axis, operations)._spread
    return {n.name: kind for n, kind in spread.kinds.items()}, spread


def test_the_tail_of_a_network_is_closed_form():
    found, _ = kinds("residual", "relu_3")
    assert found == {"relu_3": "source", "adaptive_avg_pool2d": "channel", "flatten": "channel", "head": "update"}


def test_pooled_and_flattened_maps_reach_the_linear_layer_as_blocks():
    found, spread = kinds("flattened", "_1")
    assert [found[name] for name in ("_2", "_3", "_4", "_5")] == ["channel", "channel", "update", "whole"]
    blocks = {node.name: tuple(channel) for node, channel in spread.channels.items()}
    assert blocks["_3"] == (1, 16)


def test_convolutions_of_the_layer_are_updated_and_their_batch_norms_folded():
    found, spread = kinds("residual", "relu")
    assert (found["conv1"], found["down"]) == ("update", "update")
    assert (found["conv2"], found["norm1"]) == ("whole", "whole")
    assert {norm.name for norm in spread.folded.values()} == {"norm1", "norm2", "norm3"}


def test_nothing_that_is_held_is_overwritten():
    torch.manual_seed(0)
    graph, inputs = Graph.trace(Residual().eval()), torch.randn(T, 3, 8, 8)
    replayer = Replayer(graph, "relu", 1, graph.record(inputs).operations)
    with torch.no_grad():
        held = replayer.laid_out(graph.capturing(replayer.captured)(inputs)[1])
        before = {name: value.clone() for name, value in held.items()}
        pairs = Pairs.of(torch.arange(T).repeat_interleave(6), torch.arange(6).repeat(T))
        first = replayer.logits(held, pairs, torch.zeros_like)
        assert torch.equal(replayer.logits(held, pairs, torch.zeros_like), first)
    assert all(torch.equal(held[name], value) for name, value in before.items())


def test_runs_of_one_image():
    assert Pairs.of(torch.tensor([3, 3, 3, 3, 3, 1, 1, 1]), torch.arange(8)).runs == ((0, 5, 3), (5, 8, 1))
    assert Pairs.of(torch.tensor([3, 3, 1, 1, 0, 0, 2, 2]), torch.arange(8)).runs is None
