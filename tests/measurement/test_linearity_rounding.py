"""What does not vary but by rounding, overflows, or is averaged in too few digits is no number of linearity."""

import math
import warnings

import pytest
import torch
from torch import nn

import vestige
from vestige.formulas.linearity import midpoint_nonlinearity
from vestige.measurement.linearity import pixels

N, C = 60, 3
LABELS_N = torch.arange(N) % C


def linearity(model, inputs, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vestige.linearity(
            model, (inputs, LABELS_N), batch_norm="stored", **{"pairs": 30, "cka_images": 40} | settings
        )


def convolutional(*, bias=0.0):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, C)]
    nn.init.constant_(layers[0].bias, bias)
    return nn.Sequential(*layers)


@pytest.fixture(name="inputs")
def _inputs():
    return torch.randn(N, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_dead_network_has_no_linearity(dtype, inputs):
    """Its first ReLU never fires; what follows has biases, and gives the same for all inputs but for rounding."""
    table = linearity(convolutional(bias=-1000.0), inputs, dtype=dtype).table
    of_output = table.filter(
        table["measure"].is_in(["midpoint", "cka", "ridge-flattened", "ridge-pooled"])
        & ~((table["measure"] == "midpoint") & ~table["layer"].is_in(["logits", "1", "3"]))
    )
    assert len(of_output) > 8
    assert of_output["value"].is_nan().all(), of_output.filter(~of_output["value"].is_nan())
    assert table.filter(measure="gate-churn")["value"].to_list() == [0, 0]


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 1e3), ("float64", 1e9)])
def test_what_varies_little_beside_its_size_varies(dtype, offset):
    """Rounding is 1e-7 or 1e-16 of the offset, what varies 1e-3 or 1e-9 of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, C))
    shifted = nn.Sequential(*model, nn.Identity())
    expected = linearity(model, inputs := torch.randn(N, 5), dtype=dtype).table.filter(measure="midpoint")
    with torch.no_grad():
        shifted[2].bias += offset
    found = linearity(shifted, inputs, dtype=dtype).table.filter(measure="midpoint")
    assert found["value"].to_list() == pytest.approx(expected["value"].to_list(), rel=0.01)


@pytest.mark.parametrize(
    ("given", "dtype", "bound"),
    [("float32", "float64", 1e-12), ("float16", "float64", 1e-12), ("float16", "float32", 2e-5)],
)
def test_midpoints_are_taken_in_the_networks_precision(given, dtype, bound, inputs):
    """Far from 0 the average of two numbers in half or single precision is none of a line's."""
    data = (inputs * 5 + 100).to(getattr(torch, given))
    table = linearity(convolutional(), data, dtype=dtype).table
    assert table.filter(measure="midpoint")["anchor"].max() < bound


def test_large_half_precision_inputs_do_not_overflow_in_their_average(inputs):
    table = linearity(convolutional(), (1000 * inputs + 40_000).half()).table
    assert table.filter(measure="midpoint")["value"].is_finite().all()


@pytest.mark.parametrize("size", [1e22, 1e-24])
def test_what_cannot_be_squared_is_not_affine(size):
    """1e22 squared overflows in float32: infinity in the denominator would read as affine."""
    first, second, middle = (size * torch.randn(20, 8, generator=torch.Generator().manual_seed(s)) for s in range(3))
    assert midpoint_nonlinearity(first, second, middle).isnan()
    assert midpoint_nonlinearity(*(h.double() for h in (first, second, middle))).item() == pytest.approx(
        3**0.5, rel=0.2
    )


def test_a_network_with_five_axes_among_its_weights_is_laid_out():
    """Large maps ask for channels last, which tensors of five axes do not have."""
    torch.manual_seed(0)

    class Volumes(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.act, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(1, 2, 3, padding=1)
            self.register_buffer("mask", torch.ones(1, 1, 1, 32, 32))
            self.head = nn.Linear(2, C)

        def forward(self, x):
            volume = self.act(self.flat(x))[:, None] * self.mask
            return self.head(self.deep(volume).mean((2, 3, 4)))

    found = linearity(Volumes(), torch.randn(N, 3, 32, 32))
    assert found.table.filter(measure="midpoint")["value"].is_finite().all()


def test_a_training_list_that_is_longer_than_what_is_fitted_says_which_are(inputs, monkeypatch):
    monkeypatch.setattr(pixels, "VALUES", 40 * inputs[0].numel())
    training = inputs + 0.1
    batches = [(training[i : i + 20], LABELS_N[i : i + 20]) for i in range(0, N, 20)]
    notes = linearity(convolutional(), inputs, training_data=batches).notes
    said = "The linear model of the inputs (kalimeris) is of 40 of the training images ({})."
    assert said.format("the first, whatever their classes") in notes
    balanced = linearity(convolutional(), inputs, training_data=(training, LABELS_N)).notes
    assert said.format("the same number of each class") in balanced


def test_groups_of_classes_are_said(inputs):
    class Known:
        def predict(self, inputs):
            return inputs.flatten(1).sum(1).long() % C

    told = (
        "kalimeris tells 2 groups of neighbouring classes apart, and not 3 classes: 60 images are fewer than 5 x 3^3."
    )
    assert told in linearity(convolutional(), inputs, linear_model=Known()).notes


def test_a_network_that_draws_random_numbers_is_not_said_to_have_other_nonlinearities_for_sure(inputs):
    class Drawing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = convolutional()

        def forward(self, x):
            return self.inner(nn.functional.dropout(x, 0.5))

    (note,) = [note for note in linearity(Drawing(), inputs).notes if "is not affine" in note]
    assert "or draws random numbers; or rounding is large beside what varies" in note


def test_one_class_is_refused(inputs):
    of_one = inputs, torch.full((N,), 2)
    with pytest.raises(vestige.errors.DataError) as error:
        vestige.linearity(convolutional(), of_one, batch_norm="stored")
    assert str(error.value) == (
        "measuring linearity: all images are of class 2. Give images of two classes or more: some measures compare "
        "classes."
    )


def test_training_images_that_are_no_numbers_are_not_a_network_that_diverged(inputs):
    model = nn.Sequential(nn.BatchNorm2d(2), *convolutional())
    broken = inputs.clone()
    broken[3] = math.nan
    with pytest.raises(
        vestige.errors.DataError, match="recomputing batch-norm statistics: some training inputs are NaN"
    ):
        vestige.linearity(model, (inputs, LABELS_N), training_data=broken)
