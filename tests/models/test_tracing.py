"""Operations that overwrite their input leave captured values alone and mean what they meant."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vestige.models.graph import Graph

torch.set_num_threads(1)


class Overwriting(nn.Module):
    """A model whose hidden value is overwritten in the way of `overwrite` before it is read on."""

    def __init__(self, overwrite):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.relu, self.leaky, self.dropout = nn.ReLU(True), nn.LeakyReLU(0.1, True), nn.Dropout(0.5, True)
        self.overwrite = overwrite

    def forward(self, x):
        return self.last(self.overwrite(self, self.first(x), x))


def as_statement(self, h, x):
    self.relu(h)
    return h


def method_statement(self, h, x):
    h.relu_()
    return h + x


def augmented(self, h, x):
    h += x
    h *= 2
    return h


def view_first(self, h, x):
    self.relu(h.view(-1, 6))
    return h


def returned_view(self, h, x):
    return self.relu(h.unsqueeze(0)).squeeze(0)


WAYS = {
    "module": lambda self, h, x: self.relu(h),
    "statement": as_statement,
    "method-statement": method_statement,
    "augmented": augmented,
    "leaky": lambda self, h, x: self.leaky(h),
    "dropout-then-relu": lambda self, h, x: self.relu(self.dropout(h)),
    "functional": lambda self, h, x: functional.relu(h, inplace=True),
    "functional-leaky": lambda self, h, x: functional.leaky_relu_(h, 0.2),
    "torch": lambda self, h, x: torch.relu_(h),
    "method": lambda self, h, x: h.clamp_(-0.1, 0.1),
    "no-counterpart": lambda self, h, x: h.zero_() + x,
    "add": lambda self, h, x: h.add_(x, alpha=3),
    "chain": lambda self, h, x: h.add_(x).mul_(0.5).tanh_(),
    "through-a-view": returned_view,
}


@pytest.mark.parametrize("copy", [True, False], ids=["copy", "shared"])
@pytest.mark.parametrize("way", WAYS)
def test_a_captured_value_is_not_overwritten(way, copy):
    torch.manual_seed(0)
    model = Overwriting(WAYS[way]).eval()
    inputs = torch.randn(5, 6)
    graph = Graph.trace(model, copy=copy)
    logits, captured = graph.capturing(["first"])(inputs)
    torch.testing.assert_close(captured["first"], model.first(inputs))
    torch.testing.assert_close(logits, model(inputs))
    torch.testing.assert_close(graph.module(inputs), model(inputs))
    if copy:
        values = {"first": captured["first"].clone(), "x": inputs}
    else:
        values = {"first": captured["first"].detach().clone(), "x": inputs.clone()}
    kept = values["first"].clone()
    torch.testing.assert_close(graph.suffix("first")(values), model(inputs))
    torch.testing.assert_close(values["first"], kept, rtol=0, atol=0)
    replacement = torch.ones_like(kept)
    edited = graph.editing(["first"])(inputs, {"first": lambda _: replacement})
    expected = model.last(WAYS[way](model, torch.ones_like(kept), inputs))
    torch.testing.assert_close(edited, expected)
    assert replacement.eq(1).all()


def test_gradients_flow_through_a_value_that_training_overwrites():
    torch.manual_seed(0)
    model = Overwriting(WAYS["module"])
    inputs = torch.randn(5, 6)
    logits, captured = Graph.trace(model, copy=False).capturing(["first"])(inputs)
    (logits.sum() + captured["first"].square().sum()).backward()
    h = functional.linear(
        inputs, weight := model.first.weight.detach().clone().requires_grad_(), model.first.bias.detach()
    )
    (model.last(h.relu()).sum() + h.square().sum()).backward()
    torch.testing.assert_close(model.first.weight.grad, weight.grad)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen.add_(1)
        return torch.relu(x)


def test_tracing_does_not_count_as_a_batch():
    model = Counting()
    Graph.trace(model, copy=False)
    assert model.seen == 0
