"""Capture, replay and edits on the graph agree with module hooks and full forwards."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from vestige.config import ModelConfig
from vestige.errors import ModelError
from vestige.models.graph import Graph
from vestige.models.layers import find_layers
from vestige.models.zoo import ResNet, build

torch.set_num_threads(1)


def small_vgg(**kwargs):
    model = torchvision.models.vgg11(init_weights=False, num_classes=4, **kwargs)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        nn.Linear(512, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 16), nn.ReLU(True), nn.Linear(16, 4)
    )
    return model


MODELS = {
    "resnet8": (lambda: ResNet(8, classes=4), 8),
    "resnet20": (lambda: ResNet(20, classes=4), 16),
    "torchvision-resnet18": (lambda: torchvision.models.resnet18(num_classes=4), 64),
    "torchvision-resnet50": (lambda: torchvision.models.resnet50(num_classes=4), 64),
    "vgg11": (small_vgg, 32),
    "timm-resnet18": (lambda: timm.create_model("resnet18", num_classes=4), 64),
    "timm-resnet26": (lambda: timm.create_model("resnet26", num_classes=4), 32),
}


def sensitive(model):
    """Random weights and batch-norm statistics, so that no layer is invisible in the logits."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(0.1 * torch.randn(shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            module.weight.data.copy_(0.5 + torch.rand(shape, generator=generator))
            module.bias.data.copy_(0.2 * torch.randn(shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    make, size = MODELS[request.param]
    torch.manual_seed(0)
    model = sensitive(make())
    inputs = torch.randn(3, 3, size, size)
    graph = Graph.trace(model)
    with torch.no_grad():
        return model.eval(), graph, find_layers(graph, inputs), inputs


def hooked(model, layer):
    """The module whose output a layer is: a block, or a ReLU of its own."""
    return model.get_submodule(layer.name)


@torch.no_grad()
def test_capture_sees_what_module_hooks_see(case):
    model, graph, layers, inputs = case
    seen = {}
    handles = [
        hooked(model, layer).register_forward_hook(
            lambda _m, _i, output, node=layer.node: seen.update({node: output.clone()})
        )
        for layer in layers
    ]
    expected = model(inputs)
    for handle in handles:
        handle.remove()
    logits, captured = graph.capturing([layer.node for layer in layers])(inputs)
    assert list(captured) == [layer.node for layer in layers]
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(captured, seen)


@torch.no_grad()
def test_suffix_of_captured_values_equals_full_forward_at_every_layer(case):
    model, graph, layers, inputs = case
    expected = model(inputs)
    assert expected.std() > 1e-3
    for layer in layers:
        suffix = graph.suffix(layer.node)
        _, values = graph.capturing(suffix.live)(inputs)
        kept = {name: value.clone() for name, value in values.items()}
        torch.testing.assert_close(suffix(values), expected)
        torch.testing.assert_close(values, kept, rtol=0, atol=0)  # a replay leaves its values as they are
        torch.testing.assert_close(suffix(values), expected)


@torch.no_grad()
def test_editing_and_replay_equal_an_edit_by_module_hook(case):
    model, graph, layers, inputs = case
    plain = model(inputs)

    def edit(value):
        return torch.cat([torch.zeros_like(value[:, :5]), 2 * value[:, 5:]], dim=1)

    for layer in layers:
        handle = hooked(model, layer).register_forward_hook(lambda _m, _i, output: edit(output))
        expected = model(inputs)
        handle.remove()
        assert (expected - plain).abs().max() > 1e-4
        suffix = graph.suffix(layer.node)
        _, values = graph.capturing(suffix.live)(inputs)
        torch.testing.assert_close(graph.editing([layer.node])(inputs, {layer.node: edit}), expected)
        torch.testing.assert_close(suffix({**values, layer.node: edit(values[layer.node])}), expected)


@torch.no_grad()
def test_edits_in_several_layers_at_once(case):
    model, graph, layers, inputs = case
    handles = [hooked(model, layer).register_forward_hook(lambda _m, _i, out: 0.5 * out) for layer in layers]
    expected = model(inputs)
    for handle in handles:
        handle.remove()
    nodes = [layer.node for layer in layers]
    forward = graph.editing(nodes)
    torch.testing.assert_close(forward(inputs, {node: lambda out: 0.5 * out for node in nodes}), expected)
    torch.testing.assert_close(forward(inputs, {}), model(inputs))


@torch.no_grad()
def test_suffix_from_every_single_node_of_a_resnet():
    model = sensitive(ResNet(8, classes=4)).eval()
    graph = Graph.trace(model)
    inputs = torch.randn(2, 3, 8, 8)
    expected = model(inputs)
    widest = 0
    for node in graph.nodes:
        suffix = graph.suffix(node)
        assert suffix.live[0] == node
        _, values = graph.capturing(suffix.live)(inputs)
        torch.testing.assert_close(suffix(values), expected)
        widest = max(widest, len(suffix.live))
    assert widest == 2
    assert graph.suffix("layer1_0_bn1").live == ("layer1_0_bn1", "relu")  # the shortcut crosses the cut


@pytest.mark.parametrize("make", [lambda: ResNet(20), torchvision.models.resnet18, small_vgg])
@torch.no_grad()
def test_without_relus_is_affine_in_float64(make):
    model = sensitive(make()).double()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MaxPool2d):  # not a ReLU, but not affine either
            model.set_submodule(name, nn.AvgPool2d(2))
    graph = Graph.trace(model)
    anchor = graph.without_relus()
    a, b = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)

    def bend(forward):
        return (forward(a) + forward(b) - 2 * forward((a + b) / 2)).abs().max() / forward(a).abs().max()

    assert bend(anchor.module) < 1e-12
    assert bend(graph.module) > 1e-3
    assert anchor.relus == ()
    node = graph.relus[1]
    assert anchor.nodes == graph.nodes
    suffix = anchor.suffix(node)
    logits, values = anchor.capturing(suffix.live)(a)
    torch.testing.assert_close(suffix(values), logits)
    assert values[node].min() < 0
    assert graph.module(a).equal(Graph.trace(model).module(a))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x):
        x = nn.functional.relu(self.a(x), inplace=True)
        x = torch.relu(self.b(x))
        x = self.c(x).relu()
        return torch.relu_(self.d(x)).relu_()


@torch.no_grad()
def test_relus_are_found_in_every_form():
    model = Functional().double()
    graph = Graph.trace(model)
    assert len(graph.relus) == 5
    x = torch.randn(7, 6, dtype=torch.float64)
    torch.testing.assert_close(graph.module(x), model(x))
    expected = model.d(model.c(model.b(model.a(x))))
    torch.testing.assert_close(graph.without_relus().module(x), expected)


def test_a_measured_model_is_left_as_it_is():
    model = torchvision.models.resnet18(num_classes=4).train()
    model.layer1.eval()
    before = copy.deepcopy(model)
    graph = Graph.trace(model)
    inputs = torch.randn(2, 3, 64, 64)
    layers = find_layers(graph, inputs)
    graph.capturing([layers[0].node])(inputs)
    graph.suffix(layers[2].node)
    graph.without_relus().module(inputs)
    graph.to("cpu", torch.channels_last)
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    for mine, theirs in zip(model.modules(), before.modules(), strict=True):
        assert mine.training == theirs.training
        assert getattr(mine, "inplace", None) == getattr(theirs, "inplace", None)
        assert not mine._forward_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.conv1.weight.is_contiguous()
    assert not any(parameter.requires_grad for parameter in graph.module.parameters())
    assert not any(getattr(module, "inplace", False) for module in graph.module.modules())


def test_training_capture_gives_the_models_own_gradients_and_statistics():
    torch.manual_seed(0)
    model = ResNet(8, classes=4).train()
    reference = copy.deepcopy(model)
    graph = Graph.trace(model, copy=False)
    layers = find_layers_without_counting(model, graph)
    inputs, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    nodes = [layer.node for layer in layers]
    logits, captured = graph.capturing(nodes)(inputs)
    loss = nn.functional.cross_entropy(logits, labels) + sum(c.square().mean() for c in captured.values())
    loss.backward()

    outputs = []
    for layer in layers:
        reference.get_submodule(layer.name).register_forward_hook(lambda _m, _i, out: outputs.append(out))
    expected = nn.functional.cross_entropy(reference(inputs), labels)
    (expected + sum(out.square().mean() for out in outputs)).backward()
    for (name, mine), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(model.state_dict(), reference.state_dict())


def find_layers_without_counting(model, graph):
    state = copy.deepcopy(model.state_dict())
    layers = find_layers(graph, torch.randn(2, 3, 8, 8))
    model.load_state_dict(state)
    return layers


@torch.no_grad()
def test_a_training_graph_follows_the_model_into_eval_mode():
    model = sensitive(ResNet(8, classes=4)).train()
    graph = Graph.trace(model, copy=False)
    forward = graph.capturing([graph.relus[-1]])
    inputs = torch.randn(4, 3, 8, 8)
    model.eval()
    torch.testing.assert_close(forward(inputs)[0], model(inputs))
    model.conv1.weight.mul_(2)
    torch.testing.assert_close(forward(inputs)[0], model(inputs))


def test_what_is_built_is_built_once_and_shares_parameters():
    graph = Graph.trace(ResNet(8))
    node = graph.relus[2]
    assert graph.capturing([node]) is graph.capturing([node])
    assert graph.suffix(node) is graph.suffix(node)
    assert graph.without_relus() is graph.without_relus()
    mine = {id(parameter) for parameter in graph.module.parameters()}
    assert {id(p) for p in graph.suffix(node).module.parameters()} < mine
    assert {id(p) for p in graph.without_relus().module.parameters()} == mine


class Reshaping(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1))
        self.linear = nn.Linear(8, 4)

    def forward(self, x, mask=None, *, bias=1.0):
        n, _ = x.shape[0], x.size(1)
        x = torch.relu(x * self.scale)
        if mask is not None:
            x = x * mask
        return self.linear(x.view(n, -1)) + bias


@torch.no_grad()
def test_a_suffix_takes_another_batch_size_and_other_arguments_keep_their_defaults():
    model = Reshaping()
    graph = Graph.trace(model)
    inputs = torch.randn(3, 2, 4)
    suffix = graph.suffix("relu")
    _, values = graph.capturing(suffix.live)(inputs)
    twice = {name: torch.cat([value, value]) for name, value in values.items()}
    torch.testing.assert_close(suffix(twice), model(torch.cat([inputs, inputs])))


@torch.no_grad()
def test_wrapped_models_are_unwrapped():
    model = ResNet(8).eval()
    inputs = torch.randn(2, 3, 8, 8)
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        graph = Graph.trace(wrapped)
        assert graph.nodes["layer1_0_conv1"] == "layer1.0.conv1"
        torch.testing.assert_close(graph.module(inputs), model(inputs))


@torch.no_grad()
def test_channels_last():
    model = build(ModelConfig(), classes=4, channels=3, size=16, seed=0).eval()
    inputs = torch.randn(4, 3, 16, 16)
    graph = Graph.trace(model).to("cpu", torch.channels_last)
    logits, values = graph.capturing(graph.relus)(inputs.to(memory_format=torch.channels_last))
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in values.values())
    torch.testing.assert_close(logits, model(inputs), rtol=1e-4, atol=1e-5)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_is_said():
    with pytest.raises(ModelError, match=r"a Branching: it cannot be traced \(TraceError: .*\. Give a"):
        Graph.trace(Branching())


def test_unknown_nodes_are_named():
    graph = Graph.trace(ResNet(8))
    with pytest.raises(ModelError, match=r"no node 'layer1_0_relu_2'\. Did you mean 'layer1_0_relu_1'"):
        graph.capturing(["layer1_0_relu_2"])
    with pytest.raises(ModelError, match="there is no node"):
        graph.suffix("nothing")
    forward = graph.editing(["layer1_0_relu_1"])
    with pytest.raises(ModelError, match="node 'relu' is not among those that this forward can edit"):
        forward(torch.randn(1, 3, 8, 8), {"relu": torch.relu})
