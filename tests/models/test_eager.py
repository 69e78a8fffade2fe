"""A network observed as it runs gives what hooks set by hand on the original give, whatever it does in place."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from vestige.errors import ModelError
from vestige.models.eager import Eager
from vestige.models.layers import find_layers
from vestige.models.zoo import ResNet

torch.set_num_threads(1)


class Branching(nn.Module):
    """Cannot be traced: it looks at its values. One ReLU is called twice, one statement overwrites, one adds."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(6, 6) for _ in range(3))
        self.rare, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.first(x)
        self.relu(h)
        h = self.relu(self.second(h))
        g = torch.tanh(self.third(h))
        g += h
        if x.sum() > 1e3:
            g = functional.gelu(self.rare(g))
        return self.last(g)

    def by_hand(self, x):
        a = self.first(x)
        b = a.clamp(min=0)
        c = self.second(b)
        d = c.clamp(min=0)
        e = self.third(d)
        f = e.tanh()
        return {"first": a, "relu": b, "second": c, "relu_1": d, "third": e, "tanh": f, "iadd": f + d}


@pytest.fixture
def branching():
    torch.manual_seed(0)
    model = Branching().double().eval()
    inputs = torch.randn(5, 6, dtype=torch.float64)
    return model, inputs, Eager(model, inputs)


@torch.no_grad()
def test_every_value_is_that_of_its_moment(branching):
    model, inputs, network = branching
    expected = model.by_hand(inputs)
    added = next(name for name in network.nodes if name.strip("_").removeprefix("i") == "add")
    expected[added] = expected.pop("iadd")
    names = list(expected)
    output, captured = network.capturing(names)(inputs)
    torch.testing.assert_close(captured, expected)
    torch.testing.assert_close(output, model(inputs), rtol=0, atol=0)
    output, sums = network.observing(dict.fromkeys(names, torch.sum))(inputs)
    torch.testing.assert_close(sums, {name: value.sum() for name, value in expected.items()})
    assert output.equal(model(inputs))


@torch.no_grad()
def test_edits_replace_also_what_was_made_in_place(branching):
    model, inputs, network = branching
    hand = model.by_hand(inputs)
    replacement = torch.full_like(hand["relu"], 0.5)
    kept = replacement.clone()

    def rest(b):
        d = model.second(b).clamp(min=0)
        return model.last(model.third(d).tanh() + d)

    forward = network.editing(["first", "relu"])
    torch.testing.assert_close(forward(inputs, {"relu": lambda _: replacement}), rest(replacement))
    torch.testing.assert_close(forward(inputs, {"first": lambda _: -replacement}), rest(0 * replacement))
    torch.testing.assert_close(forward(inputs, {"relu": lambda value: 2 * value}), rest(2 * hand["relu"]))
    torch.testing.assert_close(forward(inputs, {}), model(inputs))
    assert replacement.equal(kept)
    with pytest.raises(ModelError, match=r"node 'second' is not among those that this forward can edit"):
        forward(inputs, {"second": torch.zeros_like})


def test_a_layer_that_inputs_do_not_reach_is_said(branching):
    model, inputs, _ = branching
    far = inputs.abs() * 1e4
    network = Eager(model, far)
    forward = network.capturing(["gelu"])
    assert forward(far)[1]["gelu"].shape == (5, 6)
    with pytest.raises(ModelError, match=r"these inputs do not reach 'gelu'.*Leave that layer out, or give inputs"):
        forward(inputs)
    with pytest.raises(ModelError, match="these inputs do not reach 'gelu'"):
        network.editing(["gelu"])(inputs, {"gelu": torch.zeros_like})
    with pytest.raises(ModelError, match=r"there is no node 'relu_2'\. Did you mean 'relu"):
        network.capturing(["relu_2"])


def test_names_are_the_same_at_each_forward_and_after_one_that_failed(branching):
    _, inputs, network = branching
    before = list(network.record(inputs).operations)
    with pytest.raises(RuntimeError):
        network.capturing(["relu"])(torch.zeros(5, 7, dtype=torch.float64))
    assert list(network.record(inputs).operations) == before
    assert before[:3] == ["first", "first (returned)", "relu"]


@torch.no_grad()
def test_modules_alone_are_seen_as_they_are_among_functions(branching):
    model, inputs, network = branching
    modules = ["first", "relu", "second", "relu_1", "relu_1 (returned)", "third"]
    alone = network.capturing(modules)(inputs)[1]
    among = network.capturing([*modules, "tanh"])(inputs)[1]
    assert list(alone) == modules
    torch.testing.assert_close(alone, {name: among[name] for name in modules}, rtol=0, atol=0)
    torch.testing.assert_close(alone["relu_1"], model.by_hand(inputs)["relu_1"])


def overwritten_later(kind):
    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down, self.act = nn.Linear(6, 6), nn.Linear(6, 3), nn.GELU()

        def forward(self, x):
            h = self.act(self.up(x))
            match kind:
                case "augmented":
                    h += 1
                case "method":
                    h.mul_(3)
                case "view":
                    h.view(-1)[::2] = 0
                case "relu":
                    functional.relu(h, inplace=True)
            return self.down(h) if x.sum() != 7 else x

    return Later()


@pytest.mark.parametrize("kind", ["augmented", "method", "view", "relu"])
@torch.no_grad()
def test_a_captured_value_is_not_harmed_by_what_comes_later(kind):
    model = overwritten_later(kind).eval()
    inputs = torch.randn(4, 6)
    output, captured = Eager(model, inputs).capturing(["act", "act (returned)"])(inputs)
    expected = functional.gelu(model.up(inputs))
    torch.testing.assert_close(captured, {"act": expected, "act (returned)": expected})
    torch.testing.assert_close(output, model(inputs))


class Several(nn.Module):
    """Takes several arguments; a block that is called twice returns a tuple."""

    def __init__(self):
        super().__init__()
        self.block = Pair()
        self.last = nn.Linear(4, 2)

    def forward(self, image, scale=None, *, names=()):
        first, extra = self.block(image)
        second, _ = self.block(first * scale)
        return {"logits": self.last(second), "extra": extra}


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.SiLU()

    def forward(self, x):
        return self.act(self.linear(x)), x


@pytest.mark.parametrize("form", [tuple, list, dict])
@torch.no_grad()
def test_several_arguments_tuples_and_modules_called_twice(form):
    model = Several().eval()
    image, scale = torch.randn(3, 4), torch.rand(3, 4)
    inputs = {"image": image, "scale": scale} if form is dict else form((image, scale))
    network = Eager(model, inputs)
    assert network.modules["block_1"] == "block_1 (returned)"
    nodes = ["block (returned)", "block_1 (returned)", "block.act_1"]
    output, captured = network.capturing(nodes)(inputs)
    once = model.block(image)[0]
    twice = model.block(once * scale)[0]
    torch.testing.assert_close([captured[n] for n in nodes], [once, twice, twice])
    torch.testing.assert_close(output["logits"], model.last(twice))
    edited = network.editing(nodes)(inputs, {"block (returned)": lambda v: 0 * v})
    torch.testing.assert_close(edited["logits"], model.last(model.block(torch.zeros(3, 4))[0]))
    torch.testing.assert_close(edited["extra"], image)


@torch.no_grad()
def test_scripted_and_compiled_parts():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    compiled = torch.compile(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    model = nn.Sequential(scripted, compiled, nn.Linear(6, 2)).eval()
    inputs = torch.randn(3, 6)
    network = Eager(model, inputs)
    layers = find_layers(network, inputs)
    assert [layer.name.rpartition(".")[2] for layer in layers] == ["1"]  # the scripted one is not seen
    _, captured = network.capturing([layers[0].node, "0"])(inputs)
    torch.testing.assert_close(captured["0"], scripted(inputs))
    torch.testing.assert_close(captured[layers[0].node], model[1]._orig_mod(scripted(inputs)))
    with pytest.raises(ModelError, match="'0' is a scripted module, which may hide one"):
        network.without_relus()


@pytest.mark.parametrize("make", [lambda: ResNet(8), lambda: torchvision.models.resnet18(num_classes=4)])
@torch.no_grad()
def test_without_relus_is_affine_in_float64(make):
    model = make().double()
    if hasattr(model, "maxpool"):
        model.maxpool = nn.AvgPool2d(2)  # not a ReLU, but not affine either
    a, b = torch.randn(2, 3, 3, 32, 32, dtype=torch.float64)
    network = Eager(model, a)
    anchor = network.without_relus()

    def bend(observed):
        forward = observed.observing({})
        logits = [forward(x)[0] for x in (a, b, (a + b) / 2)]
        return (logits[0] + logits[1] - 2 * logits[2]).abs().max() / logits[0].abs().max()

    assert bend(anchor) < 1e-12
    assert bend(network) > 1e-3
    assert len(network.relus) == {8: 7, 18: 17}[8 if isinstance(model, ResNet) else 18]
    assert anchor.relus == ()
    assert anchor.capturing([network.relus[1]])(a)[1][network.relus[1]].min() < 0
    assert network.observing({})(a)[0].equal(model.eval()(a))


@torch.no_grad()
def test_relus_that_are_taken_out_do_not_tie_what_they_read_to_what_they_gave():
    class Tied(nn.Module):
        def forward(self, x):
            h = x * 1
            y = functional.relu(h)
            y += 1
            return y + h

    inputs = torch.randn(2, 3)
    anchor = Eager(Tied(), inputs).without_relus()
    torch.testing.assert_close(anchor.observing({})(inputs)[0], 2 * inputs + 1)


def test_transformer_encoder_layers_are_seen_into():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    inputs = torch.randn(3, 5, 8)
    network = Eager(model, inputs)
    layers = find_layers(network, inputs)
    assert [(x.name, x.units, x.axis, x.why, x.signed) for x in layers] == [
        (f"layers.{i}.gelu", 16, 2, "GELU", True) for i in (0, 1)
    ]
    with torch.no_grad():
        output, captured = network.capturing([layers[0].node])(inputs)
        first = model.layers[0]
        x = first.norm1(inputs + first.self_attn(inputs, inputs, inputs, need_weights=False)[0])
        torch.testing.assert_close(captured[layers[0].node], functional.gelu(first.linear1(x)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output, model(inputs), rtol=1e-4, atol=1e-5)


def test_nothing_is_seen_in_a_model_that_is_scripted_whole():
    model = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    network = Eager(model, torch.randn(3, 6))
    assert network.observing({})(torch.ones(3, 6))[0].equal(model(torch.ones(3, 6)))
    with pytest.raises(ModelError, match=r"no activation function .* that can be seen"):
        find_layers(network, torch.randn(3, 6))


def test_what_readers_compute_is_none_of_the_networks(branching):
    _, inputs, network = branching
    output, read = network.observing(
        {"relu": lambda v: torch.relu(v).sum(), "relu_1": lambda v: functional.gelu(v), "tanh": torch.tanh}
    )(inputs)
    assert list(read) == ["relu", "relu_1", "tanh"]
    assert output.equal(network.observing({})(inputs)[0])


def test_the_model_is_left_as_it_is():
    model = Branching().train()
    model.third.eval()
    model.last.weight.grad = torch.ones(3, 6)
    model.first.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    before.last.weight.grad = torch.ones(3, 6)
    inputs = torch.randn(5, 6)
    network = Eager(model, inputs)
    network.capturing(["relu"])(inputs)
    network.editing(["relu"])(inputs, {"relu": torch.zeros_like})
    network.without_relus().observing({})(inputs)
    network.to("cpu")
    assert_same(model, before)
    assert not any(p.requires_grad for p in network.module.parameters())


def assert_same(model, before):
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)
    for mine, theirs in zip(model.modules(), before.modules(), strict=True):
        assert mine.training == theirs.training
        assert getattr(mine, "inplace", None) == getattr(theirs, "inplace", None)
        assert not mine._forward_hooks
        assert not mine._forward_pre_hooks
    for mine, theirs in zip(model.parameters(), before.parameters(), strict=True):
        assert mine.requires_grad == theirs.requires_grad
        assert (mine.grad is None) == (theirs.grad is None)
        assert mine.grad is None or mine.grad.equal(theirs.grad)


def test_inputs_that_the_model_cannot_take():
    with pytest.raises(ModelError, match=r"a Branching: it cannot take inputs of shape \(2, 9\) \(RuntimeError: "):
        Eager(Branching(), torch.zeros(2, 9))
