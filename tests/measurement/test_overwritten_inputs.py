"""A network that works in place on its inputs gives what the same gives that does not, and leaves the user's alone."""

import copy
import warnings

import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vestige

N, C = 48, 3
LABELS_N = torch.arange(N) % C


class Normalising(nn.Module):
    """Its first operation is on the inputs themselves, in the way of `write`."""

    def __init__(self, write):
        super().__init__()
        torch.manual_seed(0)
        self.write, self.relu = write, nn.ReLU(inplace=True)
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.head = nn.Conv2d(6, 8, 3, padding=1), nn.Linear(8, C)

    def forward(self, x):
        x = self.relu(self.norm(self.first(self.write(self, x))))
        return self.head(self.relu(self.second(x)).mean((2, 3)))


class Branching(Normalising):
    """It cannot be traced."""

    def forward(self, x):
        return super().forward(x) if x.sum() < 1e9 else super().forward(-x)


def by_statement(model, x):
    x -= 0.3
    x /= 0.7
    return x


def through_a_view(model, x):
    x.flatten(1).mul_(0.5)
    return x


WAYS = {
    "methods": (lambda m, x: x.sub_(0.3).div_(0.7), lambda m, x: (x - 0.3) / 0.7),
    "statements": (by_statement, lambda m, x: (x - 0.3) / 0.7),
    "a reused module": (lambda m, x: m.relu(x), lambda m, x: x.relu()),
    "a function": (lambda m, x: nn.functional.relu(x, inplace=True), lambda m, x: x.relu()),
    "a clamp": (lambda m, x: x.clamp_(-1, 1), lambda m, x: x.clamp(-1, 1)),
}  # fmt: skip


@pytest.fixture(name="inputs")
def _inputs():
    return torch.randn(N, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def data_of(kind, inputs):
    if kind == "tensors":
        return inputs, LABELS_N
    if kind == "batches":
        return [(inputs[i : i + 16], LABELS_N[i : i + 16]) for i in range(0, N, 16)]
    return DataLoader(TensorDataset(inputs, LABELS_N), batch_size=16)


def linear(model, data, training):
    settings = {"dtype": "float64", "pairs": 20, "cka_images": 30}
    return vestige.linearity(model, data, training_data=(training, LABELS_N), batch_size=16, **settings).table


def selective(model, data, training):
    return vestige.measure(model, data, training_data=(training, LABELS_N), batch_size=16, dtype="float64").table


def ablated(model, data, training):
    return vestige.ablate(model, data, training_data=(training, LABELS_N), batch_size=16, dtype="float64").table


@pytest.mark.parametrize("kind", ["tensors", "batches", "loader"])
@pytest.mark.parametrize("of", [Normalising, Branching])
@pytest.mark.parametrize("way", WAYS)
def test_linearity_is_that_of_the_same_network_that_copies(way, of, kind, inputs):
    compare(way, of, kind, inputs, linear)


@pytest.mark.parametrize("of", [Normalising, Branching])
@pytest.mark.parametrize("measure", [selective, ablated])
def test_other_measurements_are(measure, of, inputs):
    compare("methods", of, "tensors", inputs, measure)


def compare(way, of, kind, inputs, measure):
    """Inputs and training images are doubles: they would not be copied on their way to the network."""
    overwriting, copying = WAYS[way]
    given = inputs.double()
    kept, training = given.clone(), given.flip(0).clone()
    before = training.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = measure(of(overwriting), data_of(kind, given), training)
        assert torch.equal(given, kept)
        assert torch.equal(training, before)
        expected = measure(of(copying), data_of(kind, given), training)
    assert_frame_equal(found, expected, rel_tol=1e-6, abs_tol=1e-9)


def test_a_view_of_the_inputs_is_protected_too(inputs):
    """Tracing does not follow what is written through a view: the network is observed as it runs."""
    kept = inputs.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vestige.measure(Normalising(through_a_view), (inputs, LABELS_N), batch_norm="stored")
    assert torch.equal(inputs, kept)


def test_a_linear_model_that_overwrites_its_inputs_leaves_the_users_alone(inputs):
    class Zeroing:
        def predict(self, inputs):
            return inputs.zero_().flatten(1).sum(1).long()

    kept = copy.deepcopy(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vestige.linearity(
            Normalising(WAYS["methods"][1]), (inputs, LABELS_N), linear_model=Zeroing(), batch_norm="stored"
        )
    assert torch.equal(inputs, kept)
