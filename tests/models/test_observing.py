"""Traced or observed as it runs, a network has the same layers with the values that hooks by hand see."""

import copy
import re
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from torch import nn

from vestige.errors import ModelError
from vestige.models.eager import Eager
from vestige.models.graph import Graph
from vestige.models.layers import find_layers
from vestige.models.observing import logits_of, observe
from vestige.models.zoo import ResNet

torch.set_num_threads(1)


def small_swin():
    return torchvision.models.SwinTransformer([4, 4], 8, [1, 2], [1, 2], [2, 2], num_classes=4)


def small_vit():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4)


def small_vgg():
    model = torchvision.models.vgg11_bn(init_weights=False, num_classes=4)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(nn.Linear(512, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 4))
    return model


def out_of_place(model):
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


MODELS = {
    "resnet8": lambda: ResNet(8, classes=4),
    "resnet18": lambda: torchvision.models.resnet18(num_classes=4),
    "vgg11_bn": small_vgg,
    "mobilenet_v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=4),
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=4),
    "efficientnet": lambda: timm.create_model("efficientnet_b0", num_classes=4),
    "resnetv2": lambda: timm.create_model("resnetv2_18", num_classes=4),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=4),
    "swin": small_swin,
    "vit": small_vit,
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    torch.manual_seed(0)
    model = MODELS[request.param]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-3:  # heads that start at zero would hide everything
                parameter.normal_(0, 0.1)
    return model, torch.randn(3, 3, 32, 32, dtype=torch.float64)


@torch.no_grad()
def test_the_same_layers_with_the_values_of_hooks_by_hand(case):
    model, inputs = case
    graph, eager = Graph.trace(model), Eager(model, inputs)
    traced, running = find_layers(graph, inputs), find_layers(eager, inputs)
    assert [replace(layer, node="") for layer in traced] == [replace(layer, node="") for layer in running]
    seen = {}
    modules = {name: module for name, module in model.named_modules() if name in {layer.name for layer in traced}}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out.clone()))
        for name, module in modules.items()
    ]
    expected = model(inputs)
    for handle in handles:
        handle.remove()
    assert expected.std() > 1e-3
    once = {name: values[0] for name, values in seen.items() if len(values) == 1}
    assert len(once) >= len(traced) - 1
    for network, layers in ((graph, traced), (eager, running)):
        for forward in (
            network.capturing([layer.node for layer in layers]),
            network.observing({layer.node: torch.clone for layer in layers}),
        ):
            output, values = forward(inputs)
            torch.testing.assert_close(output, expected)
            by_name = {layer.name: values[layer.node] for layer in layers}
            torch.testing.assert_close({name: by_name[name] for name in once}, once)
            assert all(by_name[layer.name].shape[layer.axis] == layer.units for layer in layers)
            assert all(layer.signed or by_name[layer.name].min() >= 0 for layer in layers)
            assert all(not layer.signed or by_name[layer.name].min() < 0 for layer in layers)


@torch.no_grad()
def test_observing_works_in_place_and_keeps_channels_last():
    model = small_vgg().eval().to(memory_format=torch.channels_last)
    inputs = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    network = observe(model, inputs)
    assert network.traced
    assert network.note == ""
    nodes = {network.modules[path]: torch.Tensor.data_ptr for path in ("features.1", "features.2")}
    output, places = network.observing(nodes)(inputs)
    assert len(set(places.values())) == 1
    assert output.equal(model(inputs))
    _, places = observe(out_of_place(model), inputs).observing(nodes)(inputs)
    assert len(set(places.values())) == 2
    layouts = network.observing({n: lambda v: v.is_contiguous(memory_format=torch.channels_last) for n in nodes})
    assert all(layouts(inputs)[1].values())
    assert not any(getattr(module, "inplace", False) for module in network.module.modules())
    captured = network.capturing(list(nodes))(inputs)[1]
    norm, relu = captured.values()
    assert norm.min() < 0
    torch.testing.assert_close(relu, norm.clamp(min=0))


@pytest.mark.parametrize("kind", [Graph.trace, lambda model: Eager(model, torch.zeros(1, 4))])
@torch.no_grad()
def test_no_map_is_held_longer_than_by_the_network(kind):
    model = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(4, 4), nn.GELU())]).eval()
    network = kind(model)
    born, alive = [], []

    def read(value):
        alive.append(sum(reference() is not None for reference in born))
        born.append(weakref.ref(value))

    network.observing({network.modules[str(i)]: read for i in (1, 3, 5, 7)})(torch.randn(2, 4))
    assert len(alive) == 4
    assert max(alive) == 0
    assert all(reference() is None for reference in born[:3])


def test_observing_shares_parameters_moves_along_and_is_rebuilt():
    model = small_vgg().eval()
    graph = Graph.trace(model)
    forward = graph.observing({"features_0": torch.sum})
    inputs = torch.randn(1, 3, 32, 32)
    before = forward(inputs)[1]["features_0"]
    with torch.no_grad():
        graph.module.get_submodule("features.0").weight.mul_(0)
        graph.module.get_submodule("features.0").bias.fill_(1)
    assert before != forward(inputs)[1]["features_0"] == 64 * 32 * 32
    graph.to(memory_format=torch.channels_last)
    assert graph.observing({"features_0": torch.sum})(inputs)[1]["features_0"] == 64 * 32 * 32
    assert graph.without_relus().observing({})(inputs)[0].shape == (1, 4)


class Choosing(nn.Module):
    def forward(self, x):
        return torch.relu(x) if x.sum() > 0 else -torch.relu(-x)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()
        nn.init.ones_(self.linear.weight)  # of zeros no multiple differs
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.act(self.linear(x)) * self.calls


class Hiding(nn.Module):
    """Its first part is scripted by a loop over rows that tracing cannot follow."""

    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)

    def forward(self, x):
        return self.inner(x).mean(1)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, a, b=None):
        return self.act(a if b is None else a + b)


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (Choosing(), torch.ones(2, 4), r"Observed as it runs: it cannot be traced \(TraceError: .*\)\."),
        (Noisy(), torch.ones(2, 4), "Observed as it runs: traced, it does not give its own logits."),
        (
            Hiding(),
            torch.ones(2, 3, 4),
            "Observed as it runs: 'inner', a TransformerEncoderLayer, hides activation functions from tracing.",
        ),
        (Two(), (torch.ones(2, 4), torch.ones(2, 4)), "Observed as it runs: it takes more than one tensor, "),
        (Two(), {"a": torch.ones(2, 4)}, "Observed as it runs: it takes more than one tensor, "),
    ],
    ids=["branches", "counts", "hides", "tuple", "dict"],
)
def test_what_cannot_be_traced_is_observed_as_it_runs(model, inputs, why):
    network = observe(model, inputs)
    assert isinstance(network, Eager)
    assert not network.traced
    assert re.match(why, network.note)
    layers = find_layers(network, inputs)
    assert layers
    network.observing({layer.node: torch.sum for layer in layers})(inputs)


def test_one_argument_in_a_tuple_is_traced():
    network = observe(Two(), (torch.ones(2, 4),))
    assert isinstance(network, Graph)
    output, _ = network.observing({})((torch.ones(2, 4),))
    assert output.equal(torch.ones(2, 4))


def test_in_place_modules_stay_so_where_tracing_is_given_up():
    class Late(Noisy):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

    model = Late()
    network = observe(model, torch.ones(2, 4))
    assert not network.traced
    assert network.module.act.inplace is model.act.inplace is True


@pytest.mark.parametrize("make", [small_vgg, Noisy, small_vit])
def test_the_model_is_left_bit_equal(make):
    model = make().train()
    inputs = torch.randn(2, 4) if isinstance(model, Noisy) else torch.randn(2, 3, 32, 32)
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    next(reversed(list(model.parameters()))).requires_grad_(False)
    fired = []
    handle = model.register_forward_hook(lambda *_: fired.append(1))
    before = copy.deepcopy(model)
    network = observe(model, inputs)
    layers = find_layers(network, inputs)
    network.observing({layer.node: torch.sum for layer in layers})(inputs)
    network.capturing([layers[0].node])(inputs)
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    for mine, theirs in zip(model.modules(), before.modules(), strict=True):
        assert mine.training == theirs.training is True
        assert getattr(mine, "inplace", None) == getattr(theirs, "inplace", None)
        assert len(mine._forward_hooks) == (mine is model)
        assert not mine._forward_pre_hooks
        assert vars(mine).keys() == vars(theirs).keys()
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert first.grad.eq(1).all()
    assert sum(p.grad is not None for p in model.parameters()) == 1
    handle.remove()


def test_inputs_that_a_model_cannot_take():
    with pytest.raises(ModelError, match=r"running a ResNet: it cannot take inputs of shape \(2, 1, 8, 8\) \(Run"):
        observe(ResNet(8), torch.zeros(2, 1, 8, 8))


LOGITS = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS, torch.zeros(1)),
        [None, LOGITS],
        {"aux": torch.zeros(1), "logits": LOGITS},
        {"out": LOGITS},
        SimpleNamespace(logits=LOGITS),
        torchvision.models.GoogLeNetOutputs(LOGITS, None, None),
    ],
)
def test_logits_of(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize("output", [None, 3.0, {"scores": LOGITS}, (), SimpleNamespace(logits=None)])
def test_no_logits(output):
    with pytest.raises(ModelError, match=r"it returns a \w+.*Give a model that returns logits: a tensor, a tuple"):
        logits_of(output)


class ThroughViews(nn.Module):
    """Writes through two views of a value, which a graph in which nothing is overwritten does not see."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        h = self.act(self.first(x))
        a, b = h.chunk(2, 1)
        a.mul_(3)
        b.neg_()
        return self.last(h)


def test_what_is_written_through_a_view_is_not_lost():
    torch.manual_seed(0)
    model, x = ThroughViews().eval(), torch.randn(5, 4)
    network = observe(model, x)
    with torch.no_grad():
        torch.testing.assert_close(network.capturing([])(x)[0], model(x))
    assert network.note == "Observed as it runs: traced, it does not give its own logits."


@pytest.mark.parametrize("far", [True, False], ids=["out of the input", "out of a value"])
def test_what_is_written_into_with_out_is_overwritten(far):
    class Out(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            h = x if far else self.first(x)
            torch.add(h, 1, out=h)
            return self.act(self.first(h))

    torch.manual_seed(0)
    model, x = Out().eval(), torch.randn(5, 4)
    kept = x.clone()
    with torch.no_grad():
        expected = model(x.clone())
        network = observe(model, x)
        for forward in (network.observing({}), network.capturing([layer.node for layer in find_layers(network, x)])):
            assert torch.allclose(forward(x)[0], expected)
            assert torch.equal(x, kept)
