"""The rule, the neuron axis, the sign and the choice of layers, on networks whose answers are counted by hand."""

from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional

from vestige.errors import ModelError
from vestige.models.eager import Eager
from vestige.models.graph import Graph
from vestige.models.layers import Layer, Layers, find_layers, stages

torch.set_num_threads(1)


def on_meta(make, size=64):
    with torch.device("meta"):  # shapes only
        return find_layers(Graph.trace(make()), torch.empty(2, 3, size, size))


def brief(layers):
    return [(layer.name, layer.units, layer.axis) for layer in layers]


def test_vit_gives_the_hidden_features_of_its_mlps():
    layers = on_meta(lambda: timm.create_model("vit_small_patch16_224"), 224)
    assert brief(layers) == [(f"blocks.{i}.mlp.act", 4 * 384, 2) for i in range(12)]
    assert {(layer.stage, layer.why, layer.signed) for layer in layers} == {("blocks", "GELU", True)}
    theirs = on_meta(torchvision.models.vit_b_16, 224)
    assert brief(theirs) == [(f"encoder.layers.encoder_layer_{i}.mlp.1", 4 * 768, 2) for i in range(12)]


def test_swin_and_convnext_have_their_features_last():
    swin = on_meta(torchvision.models.swin_t, 64)
    assert [(x.units, x.axis) for x in swin] == [
        (4 * 96 * 2**s, 3) for s, n in enumerate((2, 2, 6, 2)) for _ in range(n)
    ]
    assert stages(swin) == ("features.1", "features.3", "features.5", "features.7")
    convnext = on_meta(torchvision.models.convnext_tiny, 64)
    assert [(x.units, x.axis) for x in convnext] == [
        (4 * 96 * 2**s, 3) for s, n in enumerate((3, 3, 9, 3)) for _ in range(n)
    ]
    atto = on_meta(lambda: timm.create_model("convnext_atto"), 64)  # 1x1 convolutions instead of linear layers
    assert [(x.units, x.axis) for x in atto] == [
        (4 * 40 * 2**s, 1) for s, n in enumerate((2, 2, 6, 2)) for _ in range(n)
    ]
    assert stages(atto) == tuple(f"stages.{i}" for i in range(4))


def test_gates_are_no_layers():
    # EfficientNet-B0: stem, head, an expansion in all of the 16 blocks but the first, a depthwise one in each
    b0 = on_meta(torchvision.models.efficientnet_b0)
    assert len(b0) == 2 + 15 + 16
    model = torchvision.models.efficientnet_b0(weights=None)
    assert sum(isinstance(module, nn.SiLU) for module in model.modules()) == len(b0) + 16
    assert not any("fc" in layer.name or (".block.2" in layer.name and "activation" in layer.name) for layer in b0)
    mobile = on_meta(torchvision.models.mobilenet_v3_large)
    assert {layer.why for layer in mobile} == {"ReLU", "Hardswish"}
    assert {layer.signed for layer in mobile if layer.why == "ReLU"} == {False}
    assert len(mobile) == 2 + 14 + 15 + 1  # stem, last convolution; expansions; depthwise ones; the classifier's


class OnlyGates(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 8), nn.Linear(8, 2), nn.Mish()

    def forward(self, x):
        return torch.sigmoid(self.b(self.act(self.a(x))))


def test_where_everything_passes_a_sigmoid_nothing_is_a_gate():
    assert brief(find_layers(Graph.trace(OnlyGates()), torch.randn(3, 4))) == [("act", 8, 1)]


def test_densenet_has_a_stage_a_block():
    layers = on_meta(torchvision.models.densenet121)
    assert len(layers) == 1 + 2 * (6 + 12 + 24 + 16) + 3 + 1  # stem, two a dense layer, transitions, the last
    assert stages(layers) == (
        *("features.relu0", "features.denseblock1", "features.transition1", "features.denseblock2"),
        *("features.transition2", "features.denseblock3", "features.transition3", "features.denseblock4", "relu"),
    )


ACTIVATIONS = {
    nn.ReLU: ("ReLU", False),
    nn.ReLU6: ("ReLU6", False),
    nn.Softplus: ("Softplus", False),
    nn.LeakyReLU: ("LeakyReLU", True),
    nn.PReLU: ("PReLU", True),
    nn.RReLU: ("RReLU", True),
    nn.ELU: ("ELU", True),
    nn.SELU: ("SELU", True),
    nn.CELU: ("CELU", True),
    nn.GELU: ("GELU", True),
    nn.SiLU: ("SiLU", True),
    nn.Mish: ("Mish", True),
    nn.Hardswish: ("Hardswish", True),
    nn.Hardtanh: ("Hardtanh", True),
    timm.layers.activations.GELUTanh: ("GELU", True),
    timm.layers.activations.QuickGELU: ("QuickGELU", True),
    timm.layers.activations.Swish: ("SiLU", True),
    timm.layers.activations_me.HardSwishMe: ("Hardswish", True),
    timm.layers.activations_me.MishMe: ("Mish", True),
}


@pytest.mark.parametrize("way", [Graph.trace, lambda model: Eager(model, torch.zeros(1, 4))], ids=["traced", "eager"])
@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_activation_function_is_found_and_its_sign_is_what_it_gives(kind, way):
    model = nn.Sequential(nn.Linear(4, 6), kind(), nn.Linear(6, 2))
    inputs = 5 * torch.randn(50, 4)
    network = way(model)
    (layer,) = find_layers(network, inputs)
    why, signed = ACTIVATIONS[kind]
    assert layer == Layer("1", "1", layer.node, 6, 1, why, signed)
    with torch.no_grad():
        value = network.capturing([layer.node])(inputs)[1][layer.node]
    assert bool((value < 0).any()) == signed


FUNCTIONS = {
    "relu": lambda x: torch.relu_(x * 1),
    "relu6": functional.relu6,
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "elu": functional.elu,
    "selu": torch.selu,
    "celu": torch.celu,
    "softplus": functional.softplus,
    "method": lambda x: x.relu(),
}


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.up, self.down, self.function = nn.Linear(4, 6), nn.Linear(6, 2), function

    def forward(self, x):
        return self.down(self.function(self.up(x)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_functions_that_are_functions(name):
    model, inputs = Calling(FUNCTIONS[name]), torch.randn(5, 4)
    traced = find_layers(Graph.trace(model), inputs)
    running = find_layers(Eager(model, inputs), inputs)
    assert [replace(x, node="") for x in traced] == [replace(x, node="") for x in running]
    assert [layer.units for layer in traced] == [6]


@pytest.mark.parametrize("function", [torch.sigmoid, torch.tanh, lambda x: x.softmax(1), functional.logsigmoid])
def test_these_are_not_measured(function):
    with pytest.raises(ModelError, match="no activation function"):
        find_layers(Graph.trace(Calling(function)), torch.randn(5, 4))


class Moving(nn.Module):
    """`between` stands between what makes channels or features and the activation function; all lengths differ."""

    def __init__(self, made, between):
        super().__init__()
        self.made, self.between, self.act = made, between, nn.GELU()

    def forward(self, x):
        return self.act(self.between(self.made(x)))


CONV, LINEAR = nn.Conv2d(3, 5, 1), nn.Linear(7, 5)
MOVES = {  # the activation's shape, from inputs (2, 3, 6, 7)
    "conv": (CONV, lambda x: x, 1),  # (2, 5, 6, 7)
    "linear": (LINEAR, lambda x: x, 3),  # (2, 3, 6, 5)
    "conv-tokens": (CONV, lambda x: x.flatten(2).transpose(1, 2), 2),  # (2, 42, 5)
    "conv-flat": (CONV, lambda x: x.flatten(2), 1),  # (2, 5, 42): not the last of three
    "conv-permuted": (CONV, lambda x: x.permute(0, 2, 3, 1), 3),
    "conv-permuted-tuple": (CONV, lambda x: torch.permute(x, (0, 3, 1, 2)), 2),
    "conv-movedim": (CONV, lambda x: x.movedim(1, -1), 3),
    "linear-permuted": (LINEAR, lambda x: x.permute(0, 3, 1, 2), 1),
    "linear-transposed": (LINEAR, lambda x: x.transpose(-1, -2), 2),
    "linear-merged": (LINEAR, lambda x: x.reshape(2, 18, 5), 2),
    "linear-scaled": (LINEAR, lambda x: functional.dropout(2 * x + 1, 0.5, False).contiguous(), 3),
    "linear-norm": (LINEAR, lambda x: functional.layer_norm(x, (6, 5)), 3),
    "conv-chunk": (nn.Conv2d(3, 10, 1), lambda x: x.chunk(2, 1)[1], 1),
    "conv-cat": (CONV, lambda x: torch.cat([x, x], 1), 1),
}


@pytest.mark.parametrize("way", ["traced", "eager"])
@pytest.mark.parametrize("name", MOVES)
def test_the_neuron_axis_is_followed_to_where_it_goes(name, way):
    made, between, axis = MOVES[name]
    model, inputs = Moving(made, between), torch.randn(2, 3, 6, 7)
    network = Graph.trace(model) if way == "traced" else Eager(model, inputs)
    (layer,) = find_layers(network, inputs)
    assert layer.axis == axis
    assert layer.units == model(inputs).shape[axis]
    assert layer.units in (5, 10)


class Consumed(nn.Module):
    def __init__(self, consumer, move):
        super().__init__()
        self.consumer, self.move = consumer, move

    def forward(self, x):
        return self.consumer(self.move(functional.relu(x)))


@pytest.mark.parametrize(
    ("consumer", "move", "axis"),
    [
        (nn.Linear(7, 2), lambda x: x, 3),
        (nn.Conv2d(3, 2, 1), lambda x: 2 * x, 1),
        (nn.Conv2d(7, 2, 1), lambda x: x.permute(0, 3, 1, 2), 3),
        (nn.Linear(3, 2), lambda x: x.transpose(1, 3), 1),
        (nn.Identity(), lambda x: x, 1),
    ],
)
def test_where_nothing_made_the_value_what_takes_it_says_the_axis(consumer, move, axis):
    (layer,) = find_layers(Graph.trace(Consumed(consumer, move)), torch.randn(2, 3, 6, 7))
    assert layer.axis == axis


class Windows(nn.Module):
    """A layer in windows, one over positions alone that no input changes, one summed over everything, one sound."""

    def __init__(self):
        super().__init__()
        self.stem, self.window, self.table = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(2, 8)
        self.act, self.inner, self.position, self.total = nn.GELU(), nn.GELU(), nn.ReLU(), nn.ReLU()
        self.register_buffer("grid", torch.rand(1, 4, 2))

    def forward(self, x):
        x = self.act(self.stem(x))  # (N, 4, 8)
        n = x.shape[0]
        w = self.inner(self.window(x.reshape(2 * n, 2, 8)))  # (2N, 2, 16)
        x = x + self.position(self.table(self.grid))
        return x.mean((1, 2)) * self.total(w.mean()) + w.reshape(n, -1).mean(1)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("way", ["traced", "eager"])
def test_layers_whose_first_axis_does_not_count_inputs_are_left_out_aloud(way, number):
    model, inputs = Windows(), torch.randn(number, 4, 6)
    network = Graph.trace(model) if way == "traced" else Eager(model, inputs)
    layers = find_layers(network, inputs)
    assert brief(layers) == [("act", 8, 2)]
    assert layers.note.startswith("Left out: 2 of 3 layers whose first axis does not count the inputs")
    assert layers.note.endswith(": inner, total.")
    with pytest.raises(ModelError, match=r"the first axis of 'window', of shape \(\d+, 2, 16\) here, does not count"):
        find_layers(network, inputs, ["window"])


class SequenceFirst(nn.Module):
    """Has as many positions, first, as there are inputs."""

    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 2)

    def forward(self, x):
        return self.down(self.act(self.up(x.transpose(0, 1)))).mean(0)


def test_as_many_positions_as_inputs_are_not_mistaken_for_them():
    with pytest.raises(ModelError, match=r"the first axis of no activation counts the inputs\. Give a model whose"):
        find_layers(Graph.trace(SequenceFirst()), torch.randn(2, 2, 6))


@pytest.fixture(scope="module")
def resnet():
    model = torchvision.models.resnet18(num_classes=4).eval()
    inputs = torch.randn(2, 3, 32, 32)
    return Graph.trace(model), Eager(model, inputs), model, inputs


@pytest.mark.parametrize("way", [0, 1], ids=["traced", "eager"])
def test_layers_that_are_asked_for(resnet, way):
    network, (_, _, model, inputs) = resnet[way], resnet

    def asked(*wanted):
        return [(x.name, x.stage, x.units, x.signed, x.why) for x in find_layers(network, inputs, wanted)]

    listed = find_layers(network, inputs)
    rule = "ReLU after a residual addition"
    assert asked("layer3.*") == [(f"layer3.{i}", "layer3", 256, False, rule) for i in (0, 1)]
    assert asked("layer4.1", "layer1.0") == [  # in the order of the network
        ("layer1.0", "layer1", 64, False, rule),
        ("layer4.1", "layer4", 512, False, rule),
    ]
    assert asked("layer2", "maxpool", "layer1.0.conv1", "fc") == [
        ("maxpool", "maxpool", 64, False, "asked for"),
        ("layer1.0.conv1", "layer1", 64, True, "asked for"),
        ("layer2", "layer2", 128, False, "asked for"),
        ("fc", "fc", 4, True, "asked for"),
    ]
    assert [name for name, *_ in asked("layer1.*.relu*")] == [f"layer1.{b}.relu{n}" for b in (0, 1) for n in ("", "_1")]
    mine = replace(listed[2], axis=2, name="rows")
    assert asked(mine, "layer2.0")[0] == ("rows", "layer2", 4, False, rule)
    assert find_layers(network, inputs, list(listed)) == listed
    (layer,) = find_layers(network, inputs, "layer2")
    with torch.no_grad():
        value = network.observing({layer.node: torch.clone})(inputs)[1][layer.node]
        torch.testing.assert_close(value, torch.nn.Sequential(*list(model.children())[:6])(inputs))


def test_layers_listed_in_the_other_way_are_found_again(resnet):
    graph, eager, _, inputs = resnet
    traced, running = find_layers(graph, inputs), find_layers(eager, inputs)
    assert find_layers(eager, inputs, list(traced)) == running
    assert [x.name for x in find_layers(graph, inputs, list(running))] == [x.name for x in traced]


@pytest.mark.parametrize("way", [0, 1], ids=["traced", "eager"])
def test_layers_that_there_are_not(resnet, way):
    network, inputs = resnet[way], resnet[3]
    with pytest.raises(ModelError, match=r"is called 'layer3\.7', or these inputs.*Did you mean 'layer3\.\d'"):
        find_layers(network, inputs, ["layer3.7"])
    with pytest.raises(ModelError, match=r"none is named\. Name at least one, or leave `layers` out"):
        find_layers(network, inputs, [])
    layer = find_layers(network, inputs)[0]
    with pytest.raises(ModelError, match=r"layer 'layer1\.0' has no axis 4: its activation has shape \(2, 64, 8, 8\)"):
        find_layers(network, inputs, [replace(layer, axis=4)])
    with pytest.raises(ModelError, match=r"no node 'nothing' for the layer 'nothing'\. Take the layers from vestige"):
        find_layers(network, inputs, [replace(layer, name="nothing", node="nothing")])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.shared, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.shared(self.act(self.shared(x)))
        return self.act(x).mean(1)


@pytest.mark.parametrize("way", ["traced", "eager"])
@torch.no_grad()
def test_tuples_and_modules_called_twice(way):
    model, inputs = Attending().eval(), torch.randn(3, 5, 8)
    network = Graph.trace(model) if way == "traced" else Eager(model, inputs)
    layers = find_layers(network, inputs, ["attention", "shared", "shared_1", "act", "act_1"])
    assert [layer.name for layer in layers] == ["attention", "shared", "act", "shared_1", "act_1"]
    assert {(layer.units, layer.axis) for layer in layers} == {(8, 2)}
    _, values = network.observing({layer.node: torch.clone for layer in layers})(inputs)
    attended = model.attention(inputs, inputs, inputs)[0]
    once = model.shared(inputs + attended)
    twice = model.shared(once.clamp(min=0))
    expected = [attended, once, once.clamp(min=0), twice, twice.clamp(min=0)]
    torch.testing.assert_close([values[layer.node] for layer in layers], expected, rtol=1e-4, atol=1e-6)


def test_a_module_shared_by_blocks_and_another_function_after_the_sum():
    class Block(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.conv, self.act = nn.Conv2d(4, 4, 1), act

        def forward(self, x):
            y = self.act(self.conv(x))
            y += x
            return self.act(y)

    for act in (nn.ReLU(inplace=True), nn.SiLU(inplace=True)):
        model = nn.Sequential(Block(act), Block(act))
        for network in (Graph.trace(model), Eager(model, torch.zeros(1, 4, 3, 3))):
            layers = find_layers(network, torch.zeros(2, 4, 3, 3))
            paths = ["0.act", "0.act_1", "0.act_2", "0.act_3"]  # the path under which it stands first
            if isinstance(act, nn.ReLU):
                assert [x.name for x in layers] == ["0", "1"]
                assert [network.nodes[x.node] for x in layers] == paths[1::2]
            else:
                assert [(x.name, x.why, x.signed) for x in layers] == [(path, "SiLU", True) for path in paths]


class Attention(nn.Module):
    """Adds two values before an activation function, but goes on after it."""

    def __init__(self, act):
        super().__init__()
        self.a, self.b, self.last, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), act

    def forward(self, x):
        return self.last(self.act(self.a(x) + self.b(x)))


@pytest.mark.parametrize("way", ["traced", "eager"])
def test_a_sum_within_a_module_makes_no_residual_block(way):
    def found(act):
        model, inputs = nn.Sequential(Attention(act), nn.GELU(), nn.Linear(4, 2)), torch.randn(3, 4)
        network = Graph.trace(model) if way == "traced" else Eager(model, inputs)
        return [(layer.name, layer.why) for layer in find_layers(network, inputs)]

    assert found(nn.GELU()) == [("0.act", "GELU"), ("1", "GELU")]
    assert found(nn.ReLU()) == [("0.act", "ReLU"), ("1", "GELU")]


def test_layers_print_as_a_table():
    layers = Layers(
        [
            Layer("blocks.0", "blocks", "n0", 1536, 2, "GELU", True),
            Layer("blocks.11", "blocks", "n1", 24, 1, "ReLU"),
        ],
        note="Left out: 1.",
    )
    assert str(layers) == repr(layers)
    assert str(layers).splitlines() == [
        "layer      stage   neurons  axis  why",
        "blocks.0   blocks  1,536    2     GELU",
        "blocks.11  blocks  24       1     ReLU",
        "2 layers, 1,560 neurons",
        "Left out: 1.",
    ]
    assert layers == tuple(layers)
    assert str(Layers()) == "layer  stage  neurons  axis  why\n0 layers, 0 neurons"
