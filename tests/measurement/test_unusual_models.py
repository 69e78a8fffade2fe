"""Models that break careless tools: no parameters, complex buffers, several inputs, odd batch norms, two views."""

import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import vestige
from vestige.errors import ConfigError

torch.set_num_threads(1)

N, C = 24, 3
LABELS_N = torch.arange(N) % C


def measured(model, inputs, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vestige.measure(model, (inputs, LABELS_N), **{"permutations": 0} | settings)


def test_neurons_without_positions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, C))
    inputs = torch.randn(N, 5)
    with torch.no_grad():
        a_NU = model[:2](inputs).double()
    table = measured(model, inputs).table
    np.testing.assert_allclose(table["closed"], (a_NU == 0).double().mean(0), atol=1e-12)
    np.testing.assert_allclose(table["mean"], a_NU.mean(0), rtol=1e-6)


class Turned(nn.Module):
    """Its buffer is complex, as those of rotary embeddings."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, C)
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)))

    def forward(self, x):
        return self.linear(torch.relu((x * self.turn).imag))


def test_complex_buffers_keep_their_imaginary_part():
    inputs = torch.randn(N, 4)
    expected = torch.relu((inputs * torch.polar(torch.ones(4), torch.arange(4.0))).imag).double().mean(0)
    for dtype in ("float32", "float64"):
        np.testing.assert_allclose(measured(Turned(), inputs, dtype=dtype).table["mean"], expected, atol=1e-6)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, C)

    def forward(self, x):
        return self.down(self.act(self.up(x))).mean(1)


def test_two_layers_may_read_one_node_along_other_axes():
    torch.manual_seed(0)
    model, inputs = Tokens(), torch.randn(N, 5, 5)
    (features,) = vestige.layers(model, inputs)
    tokens = replace(features, name="tokens", axis=1)
    table = measured(model, inputs, layers=[features, tokens]).table
    with torch.no_grad():
        maps = model.act(model.up(inputs)).double()
    np.testing.assert_allclose(table.filter(layer="act")["mean"], maps.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(table.filter(layer="tokens")["mean"], maps.mean((0, 2)), rtol=1e-6)


class Bare(nn.Module):
    """No parameter at all: statistics alone."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(C, affine=False)

    def forward(self, x):
        return torch.relu(self.norm(x))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_model_without_parameters(dtype):
    inputs = 3 + torch.randn(N, C, dtype=torch.float64)
    result = measured(Bare(), inputs, training_data=inputs, dtype=dtype)
    normal = (inputs - inputs.mean(0)) / (inputs.var(0) + 1e-5).sqrt()
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(result.table["mean"], normal.relu().mean(0), atol=tolerance)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.act, self.head = nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, C)

    def forward(self, left, right):
        return {"logits": self.head(self.act(self.norm(left + right)))}


def test_several_inputs_with_batch_norm():
    torch.manual_seed(0)
    model, left, right = Two(), torch.randn(N, 4), torch.randn(N, 4)
    for inputs in ((left, right), {"left": left, "right": right}):
        result = measured(model, inputs, training_data=(inputs, LABELS_N))
        total = (left + right).double()
        normal = (total - total.mean(0)) / (total.var(0) + 1e-5).sqrt()
        np.testing.assert_allclose(result.table["mean"], normal.relu().mean(0), atol=1e-5)


def test_batch_norm_without_statistics_is_said():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(), nn.Linear(4, C))
    notes = measured(model, torch.randn(N, 4)).notes
    assert any("Some batch norms keep no statistics and use those of each batch" in note for note in notes)


def test_a_constant_added_behind_a_relu_makes_a_layer_signed():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.sub, self.head = nn.Linear(4, 4), Down(), nn.Linear(4, C)

        def forward(self, x):
            return self.head(self.sub(self.up(x)))

    class Down(nn.Module):
        def forward(self, x):
            return torch.relu(x) + (-3.0)

    assert set(measured(Shifted(), torch.randn(N, 4), layers=["sub"]).table["rectify"]) == {"abs"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"permutations": -1}, "measuring selectivity: permutations is -1. Give 0 or more."),
        ({"batch_size": 0}, "measuring selectivity: batch_size is 0. Give 1 or more."),
        ({"sample": -5}, "measuring selectivity: sample is -5. Give 0 or more."),
    ],
)
def test_numbers_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError) as error:
        measured(Tokens(), torch.randn(N, 5, 5), **settings)
    assert str(error.value) == message


def test_a_table_of_step_0_of_other_layers_is_said():
    model, inputs = Tokens(), torch.randn(N, 5, 5)
    initial = measured(model, inputs).table.with_columns(layer=pl.lit("other"))
    notes = measured(model, inputs, permutations=5, initial=initial).notes
    assert "The table of step 0 lacks act: `selective` is the flag alone there." in notes
