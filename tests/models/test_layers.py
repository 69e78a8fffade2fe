"""The layers found by rule are those that can be counted by hand in the published architectures."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from vestige.errors import ConfigError, ModelError
from vestige.models.eager import Eager
from vestige.models.graph import Graph
from vestige.models.layers import (
    Layer,
    all_but_last_stage,
    find_layers,
    penalised_layers,
    pooled,
    stages,
)
from vestige.models.zoo import ResNet

torch.set_num_threads(1)


def layers_of(make, size=64):
    with torch.device("meta"):  # shapes only
        return find_layers(Graph.trace(make()), torch.empty(2, 3, size, size))


@pytest.mark.parametrize("make", [torchvision.models.resnet50, lambda: timm.create_model("resnet50")])
def test_resnet50_has_15104_neurons_in_16_layers(make):
    layers = layers_of(make)
    assert [layer.name for layer in layers] == [
        f"layer{stage}.{block}" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)
    ]
    assert [layer.units for layer in layers] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert sum(layer.units for layer in layers) == 15_104
    assert stages(layers) == ("layer1", "layer2", "layer3", "layer4")
    assert {layer.axis for layer in layers} == {1}
    assert len({layer.node for layer in layers}) == 16


@pytest.mark.parametrize("make", [torchvision.models.resnet18, lambda: timm.create_model("resnet18")])
def test_resnet18(make):
    layers = layers_of(make)
    assert [(layer.name, layer.units) for layer in layers] == [
        (f"layer{stage}.{block}", 32 * 2**stage) for stage in (1, 2, 3, 4) for block in (0, 1)
    ]


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_own_resnets(depth):
    n = (depth - 2) // 6
    layers = layers_of(lambda: ResNet(depth, width=4), size=8)
    assert [(layer.name, layer.stage, layer.units) for layer in layers] == [
        (f"layer{stage}.{block}", f"layer{stage}", 2 * 2**stage) for stage in (1, 2, 3) for block in range(n)
    ]
    assert {layer.why for layer in layers} == {"ReLU after a residual addition"}


def test_vgg16_gives_every_relu_its_stages_between_poolings():
    layers = layers_of(torchvision.models.vgg16, size=32)
    assert [layer.units for layer in layers] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6 + [4096] * 2
    per_stage = {stage: [x.name for x in layers if x.stage == stage] for stage in stages(layers)}
    assert per_stage == {
        "features.0": ["features.1", "features.3"],
        "features.1": ["features.6", "features.8"],
        "features.2": ["features.11", "features.13", "features.15"],
        "features.3": ["features.18", "features.20", "features.22"],
        "features.4": ["features.25", "features.27", "features.29"],
        "classifier": ["classifier.1", "classifier.4"],
    }


def test_a_stage_may_lie_below_a_common_trunk():
    model = torchvision.models.regnet_y_400mf()
    layers = layers_of(lambda: model.to("meta"))
    assert len(layers) == 16
    assert stages(layers) == tuple(f"trunk_output.block{i}" for i in (1, 2, 3, 4))


def test_poolings_in_a_branch_divide_nothing():
    layers = layers_of(lambda: torchvision.models.googlenet(init_weights=False))
    assert len(layers) == 57
    assert [stage for stage in stages(layers) if stage.startswith("inception")] == [
        f"inception{block}" for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    ]


def test_relus_within_batch_norms_are_found():
    model = timm.create_model("resnetv2_18", num_classes=2).eval()
    inputs = torch.randn(2, 3, 32, 32)
    graph = Graph.trace(model)
    assert len(graph.relus) == sum(isinstance(module, nn.ReLU) for module in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(graph.module(inputs), model(inputs))


def test_a_relu_hidden_from_tracing_is_said_when_relus_are_taken_out():
    graph = Graph.trace(timm.create_model("vgg11", num_classes=2))
    with pytest.raises(ModelError, match=r"'pre_logits', a ConvMlp, hides one from tracing\. Leave the"):
        graph.without_relus()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.act = nn.Linear(6, 12), nn.Linear(12, 2), nn.ReLU()

    def forward(self, x):
        return self.down(self.act(self.up(x))).mean(1)


def test_neurons_of_tokens_are_their_features():
    (layer,) = find_layers(Graph.trace(Tokens()), torch.randn(4, 5, 6))
    assert layer == Layer("act", "act", "act", 12, 2, "ReLU")


class Two(nn.Module):
    """Two residual additions in one module, one of them into the next, and an addition of a constant."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(x + self.a(x))
        x = torch.relu(torch.add(x, self.b(x)))
        return torch.relu(x + 1)


class Straight(nn.Module):
    """A stranger's residual network in one forward, its ReLUs functions: only one of them follows an addition."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x))
        x = torch.relu(x + self.c(x))
        return torch.relu(self.a(x))


@pytest.mark.parametrize("look", [Graph.trace, lambda model: Eager(model, torch.randn(2, 4))])
def test_a_pattern_that_matches_activations_alone_means_all_of_them(look):
    network, inputs = look(Straight()), torch.randn(2, 4)
    names = [path for path in network.nodes.values() if path.startswith("relu")]
    (listed,) = find_layers(network, inputs)
    assert len(names) == 4
    all_of_them = find_layers(network, inputs, ["relu*"])
    assert [layer.name for layer in all_of_them] == names
    assert all_of_them[2] == listed
    assert all_of_them.note == ""
    assert [layer.name for layer in find_layers(network, inputs, [f"{names[0]}", "c"])] == [names[0], "c"]


def test_a_pattern_that_matches_more_means_the_layers_of_the_rule_and_names_the_activations_beside_them():
    network, inputs = Graph.trace(Straight()), torch.randn(2, 4)
    found = find_layers(network, inputs, ["*"])
    assert [layer.name for layer in found] == ["relu_2"]
    assert found.note == (
        "The pattern '*' stands for layers that the rule finds. It matches other activation functions too, which are "
        "measured where they are named: relu, relu_1, relu_3."
    )
    assert find_layers(network, inputs, ["*", "relu", "relu_1"]).note.endswith("named: relu_3.")


@pytest.mark.parametrize("make", [torchvision.models.resnet18, lambda: timm.create_model("resnet18")])
def test_within_blocks_nothing_is_passed_over(make):
    with torch.device("meta"):
        graph, inputs = Graph.trace(make()), torch.empty(2, 3, 64, 64)
        found = {pattern: find_layers(graph, inputs, [pattern]) for pattern in ("layer3.*", "layer*", "*")}
    assert [layer.name for layer in found["layer3.*"]] == ["layer3.0", "layer3.1"]
    assert found["layer3.*"].note == found["layer*"].note == ""
    assert len(found["layer*"]) == len(found["*"]) == 8
    assert found["*"].note.endswith((": relu.", ": act1."))


def test_gates_are_not_meant_by_a_pattern():
    with torch.device("meta"):
        graph, inputs = Graph.trace(timm.create_model("efficientnet_b0")), torch.empty(2, 3, 64, 64)
        found = find_layers(graph, inputs, ["*act*"])
    assert tuple(found) == tuple(layer for layer in find_layers(graph, inputs) if "act" in layer.name)
    assert found.note == ""


def test_every_layer_has_its_own_name_and_constants_are_no_shortcut():
    layers = find_layers(Graph.trace(Two()), torch.randn(2, 4))
    assert [layer.name for layer in layers] == ["relu", "relu_1"]


def test_no_activation_function():
    with pytest.raises(ModelError, match=r"it has no activation function .* nor as a function\. Name the modules"):
        find_layers(Graph.trace(nn.Linear(3, 2)), torch.randn(2, 3))


def test_inputs_of_the_wrong_shape():
    graph = Graph.trace(ResNet(8))
    with pytest.raises(ModelError, match=r"cannot take inputs of shape \(2, 1, 8, 8\).*Check data.channels"):
        find_layers(graph, torch.randn(2, 1, 8, 8))


def test_pooled_is_the_mean_over_positions():
    x = torch.randn(3, 4, 2, 5)
    by_hand = torch.tensor([[sum(x[i, u].flatten().tolist()) / 10 for u in range(4)] for i in range(3)])
    torch.testing.assert_close(pooled(x, 1), by_hand)
    torch.testing.assert_close(pooled(x.movedim(1, -1), 3), by_hand)
    assert pooled(x, 1, dtype=torch.float64).dtype == torch.float64
    flat = x[:, :, 0, 0]
    assert pooled(flat, 1).equal(flat)


def test_penalised_layers():
    layers = [Layer(f"layer{s}.{b}", f"layer{s}", "", 1, 1, "") for s in (1, 2, 3) for b in (0, 1)]
    assert all_but_last_stage(layers) == penalised_layers(layers) == tuple(layers[:4])
    assert penalised_layers(layers, ["layer3", "layer1"]) == (*layers[:2], *layers[4:])
    with pytest.raises(ConfigError, match=r"the model has no stage 'layer4'\. Did you mean 'layer3'"):
        penalised_layers(layers, ["layer4"])
