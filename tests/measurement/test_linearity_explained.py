"""Ridge regression, the linear model of the pixels, and CKA over batches, of whole networks."""

import math

import numpy as np
import pytest
import torch
from made_up_linearity import LABELS, LAYERS, C, N, fresh, maps_by_hooks, measured, tiles_of, values
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold

from vestige.data.loader import Tile
from vestige.errors import DataError, ModelError
from vestige.formulas.kalimeris import explained_by_linear
from vestige.formulas.ridge import EXPONENTS
from vestige.measurement.keeping import Place
from vestige.measurement.linearity import grams, measure_linearity
from vestige.measurement.linearity.explained import measure_explained
from vestige.measurement.linearity.sampling import Image, Sample
from vestige.measurement.network import Network
from vestige.models.batchnorm import recalibrate

torch.set_num_threads(1)

MANY = 200


@pytest.fixture(scope="module", name="model")
def _model():
    return fresh()


@pytest.fixture(scope="module", name="inputs")
def _inputs():
    return torch.randn(MANY, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module", name="labels")
def _labels():
    return torch.arange(MANY) % C


def order_of(n, size):
    """The random order in which images are gone through."""
    sample = Sample(size)
    list(sample.others(Image(torch.tensor(i), 0, -1) for i in range(n)))
    return [int(image.input) for image in sample.chosen()]


def always_open(inputs):
    """Every ReLU gets what is far above 0, so the network is affine where there are images."""
    model = fresh()
    for name, parameter in model.named_parameters():
        if "bn" in name and name.endswith("bias"):
            torch.nn.init.constant_(parameter, 20.0)
    recalibrate(model, [inputs])
    return model.eval()


def test_a_network_whose_gates_never_close_is_affine_and_reads_so(inputs, labels):
    """Not the anchor: its ReLUs are there. 100 images to fit, of 64 pixels."""
    table = measured(always_open(inputs), inputs, labels, cka_images=MANY)
    for measure in ("midpoint", "gate-churn"):
        assert max(values(table, measure).values()) < 1e-9
    r2 = values(table, "ridge-flattened")
    assert list(r2) == [(name, "") for name in ("input", *LAYERS)]
    assert min(r2.values()) > 1 - 1e-6
    anchors = table.filter(measure="ridge-flattened")["anchor"]
    assert (anchors > 1 - 1e-6).all()
    assert (anchors <= 1).all()


def test_a_network_with_relus_is_not_affine(model, inputs, labels):
    table = measured(model, inputs, labels, cka_images=MANY)
    r2 = values(table, "ridge-flattened")
    assert r2["input", ""] < 0.9
    assert r2["input", ""] < r2["layer2.0", ""]
    assert (table.filter(measure="ridge-flattened")["anchor"] > 1 - 1e-6).all()


def test_logits_are_explained_wholly_by_the_pooled_last_layer(model, inputs, labels):
    r2 = values(measured(model, inputs, labels), "ridge-pooled")
    assert list(r2) == [(name, "") for name in LAYERS]
    assert r2["layer3.0", ""] == pytest.approx(1, abs=1e-6)
    assert r2["layer1.0", ""] < 0.9


def test_ridge_is_scikit_learns_of_the_first_half_of_the_images_of_cka(model, inputs, labels):
    """Features and logits by hooks; every fold and penalty fitted anew."""
    table = measured(model, inputs, labels, pairs=20, cka_images=60)
    order = order_of(MANY, 60)
    maps = maps_by_hooks(model, inputs[order])
    logits = maps["logits"] - maps["logits"].mean(1, keepdim=True)
    features = {("ridge-flattened", name): maps[name].flatten(1) for name in LAYERS}
    features["ridge-flattened", "input"] = inputs[order].flatten(1)
    features |= {("ridge-pooled", name): maps[name].mean((2, 3)) for name in LAYERS}
    for (measure, name), x in features.items():
        expected = _scikit_learns(x.numpy(), logits.numpy())
        assert values(table, measure)[name, ""] == pytest.approx(expected, abs=1e-6), (measure, name)


def _scikit_learns(x, y):
    half = len(x) // 2
    scale = ((x[:half] - x[:half].mean(0)) ** 2).sum() / half
    search = GridSearchCV(
        Ridge(solver="svd"),
        {"alpha": [scale * 10.0**exponent for exponent in EXPONENTS]},
        scoring=lambda model, x_F, y_F: -((model.predict(x_F) - y_F) ** 2).sum(),
        cv=KFold(5),
    ).fit(x[:half], y[:half])
    return r2_score(y[half:], search.predict(x[half:]), multioutput="variance_weighted")


def test_cka_of_many_images_averages_each_hsic_over_batches(model, inputs, labels, monkeypatch):
    """50 images in batches of at most 20: 16, 17 and 17 of them, in their random order."""
    monkeypatch.setattr(grams, "MOST_IMAGES", 20)
    found = values(measured(model, inputs, labels, size=12, pairs=5, cka_images=50), "cka")
    order = order_of(MANY, 50)
    x = {"input": inputs[order], **maps_by_hooks(model, inputs[order])}
    for (layer, other), value in found.items():
        sums = np.zeros(3)
        for part in (slice(0, 16), slice(16, 33), slice(33, 50)):
            k, l = (x[name][part].flatten(1).numpy() for name in (layer, other))
            k, l = k @ k.T, l @ l.T
            sums += [_hsic1(k, l), _hsic1(k, k), _hsic1(l, l)]
        assert value == pytest.approx(sums[0] / np.sqrt(sums[1] * sums[2]), abs=1e-9)


def _hsic1(k, l):
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
    n, one = len(k), np.ones(len(k))
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 * one @ k @ l @ one / (n - 2)) / (n * (n - 3))


def test_batches_and_parts_change_nothing_else(model, inputs, labels, monkeypatch):
    """Ridge regression takes the first batch of images, with all their features."""
    monkeypatch.setattr(grams, "MOST_IMAGES", 30)
    reference = measured(model, inputs, labels, cka_images=30)
    monkeypatch.setattr(grams, "KEPT_VALUES", 30 * 200)
    table = measured(model, inputs, labels, cka_images=60)
    for measure in ("ridge-flattened", "ridge-pooled", "midpoint", "correlation-csi2"):
        assert values(table, measure) == pytest.approx(values(reference, measure), abs=1e-9)


def test_pooled_activations_in_files_are_the_same(model, inputs, labels):
    settings = {"pairs": 20, "cka_images": 30, "linear_labels": labels}
    in_files = measured(model, inputs, labels, place=Place(1.0, 0), **settings)
    assert in_files.equals(measured(model, inputs, labels, **settings), null_equal=True)


def test_a_linear_model_is_compared_with_network_and_anchor(model, inputs, labels):
    """On all images, however few are taken for the rest; L is wrong about every fifth."""
    linear = torch.where(torch.arange(MANY) % 5 == 0, (labels + 1) % C, labels)
    logits = maps_by_hooks(model, inputs)["logits"]
    truth = logits.argmax(1)
    own = torch.where(torch.arange(MANY) % 4 == 0, labels, truth)
    table = measured(model, inputs, own, pairs=20, cka_images=30, linear_labels=linear)
    expected = explained_by_linear(truth, own, linear)
    assert expected.information > 0.1
    assert values(table, "kalimeris")["logits", ""] == pytest.approx(expected.share, abs=1e-12)
    assert values(table, "kalimeris-information")["logits", ""] == pytest.approx(expected.information, abs=1e-12)
    assert values(table, "kalimeris-unexplained")["logits", ""] == pytest.approx(expected.unexplained, abs=1e-12)
    assert values(table, "kalimeris-groups")["logits", ""] == expected.groups == 3
    assert values(table, "kalimeris-linear-top1")["logits", ""] == (linear == own).double().mean()
    affine = fresh().apply(_without_relus)
    expected = explained_by_linear(maps_by_hooks(affine, inputs)["logits"].argmax(1), own, linear)
    anchors = table.filter(measure="kalimeris-information")["anchor"].item()
    assert anchors == pytest.approx(expected.information, abs=1e-12)


def _without_relus(module):
    for name, child in module.named_children():
        if isinstance(child, torch.nn.ReLU):
            setattr(module, name, torch.nn.Identity())


def test_a_network_that_says_what_the_linear_model_says_is_explained(model, inputs):
    predicted = maps_by_hooks(model, inputs)["logits"].argmax(1)
    table = measured(model, inputs, predicted, linear_labels=predicted, pairs=20, cka_images=30)
    assert values(table, "kalimeris")["logits", ""] == 1
    assert values(table, "kalimeris-information")["logits", ""] > 0.1


def test_predictions_can_be_a_function_of_the_inputs(model, inputs, labels):
    def linear(inputs_T):
        return (inputs_T[:, 0, 0, 0] > 0).long()

    given = [
        measured(model, inputs, labels, pairs=20, cka_images=30, linear_labels=how) for how in (linear, linear(inputs))
    ]
    assert given[0].equals(given[1])


def test_the_comparison_alone_is_that_of_the_whole_measurement(model, inputs, labels):
    linear = labels.flip(0)
    network = Network.prepare(model, torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    alone = measure_explained(network, tiles_of(inputs, labels, 32), linear)
    whole = measured(model, inputs, labels, pairs=20, cka_images=30, linear_labels=linear)
    rows = whole.filter(whole["measure"].str.starts_with("kalimeris"))
    assert alone.equals(rows)
    assert len(alone) == 5


def test_without_predictions_nothing_is_compared(model, inputs):
    table = measured(model, inputs[:N])
    assert not table["measure"].str.starts_with("kalimeris").any()


@pytest.mark.parametrize(
    ("given", "how"),
    [
        (torch.zeros(N - 1, dtype=torch.int64), "fewer"),
        (torch.zeros(20, dtype=torch.int64), "fewer"),
        (torch.zeros(N + 1, dtype=torch.int64), "more"),
        (lambda inputs_T: torch.zeros(1, dtype=torch.int64), "another number of"),
    ],
)
def test_another_number_of_predictions_is_named(given, how, model, inputs):
    with pytest.raises(DataError) as error:
        measured(model, inputs[:N], linear_labels=given)
    assert str(error.value) == (
        f"measuring linearity: the linear model gives {how} predictions than there are images. "
        "Give one prediction for every image, in the order of the images."
    )


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (lambda inputs_T: torch.zeros(len(inputs_T), C), f"float32 of shape (32, {C})"),
        (lambda inputs_T: torch.zeros(len(inputs_T)), "float32 of shape (32,)"),
        (lambda inputs_T: [0] * len(inputs_T), "a list"),
        (lambda inputs_T: np.zeros(len(inputs_T)), "a ndarray"),
    ],
    ids=["logits", "floats", "list", "numpy"],
)
def test_predictions_that_are_no_classes_are_refused(given, what, model, inputs):
    with pytest.raises(DataError) as error:
        measured(model, inputs[:N], linear_labels=given)
    assert str(error.value) == (
        f"measuring linearity: reading the linear model's predictions: the linear model predicts {what} for 32 inputs. "
        "Let it give the class of each input, a tensor of whole numbers, (N,)."
    )


def test_predictions_outside_the_classes_are_named(model, inputs):
    with pytest.raises(
        DataError, match=r"reading the linear model's predictions: class 7, but the model's classes are 0 to"
    ):
        measured(model, inputs[:N], linear_labels=torch.full((N,), 7))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_inputs_that_are_no_numbers_are_not_taken_for_a_network_that_has_diverged(value, model, inputs):
    wrong = inputs[:N].clone()
    wrong[3, 0, 2, 2] = value
    network = Network.prepare(model, inputs[:2])
    for measure in (
        lambda: measured(model, wrong, pairs=20, cka_images=30),
        lambda: measure_explained(network, tiles_of(wrong, LABELS, 32), LABELS),
    ):
        with pytest.raises(DataError, match=r"some inputs are NaN or infinite\. Look at how they are read"):
            measure()


def test_a_diverged_network_is_named_by_the_comparison_alone(inputs):
    model = fresh()
    torch.nn.init.constant_(model.get_parameter("fc.bias"), torch.nan)
    network = Network.prepare(model, torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"its output gives values that are not finite"):
        measure_explained(network, tiles_of(inputs[:N], LABELS, 32), LABELS)


def test_an_anchor_that_overflows_is_nan_and_the_network_is_measured(inputs):
    """Without its ReLUs, and in float32, the network's logits are infinite; with them they are not."""
    model = Overflowing()
    network = Network.prepare(model, torch.zeros(2, 1, 8, 8), layers=["relu"])
    tiles = [Tile(inputs[:N].float(), LABELS, N, np.arange(N))]
    table = measure_linearity(network, tiles, pairs=20, cka_images=30, linear_labels=LABELS)
    r2 = table.filter(measure="ridge-flattened")
    assert r2["value"].is_finite().all()
    assert r2["anchor"].is_nan().all()
    assert table.filter(measure="kalimeris")["anchor"].is_nan().all()


class Overflowing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.out = torch.nn.ReLU(), torch.nn.Linear(64, C)

    def forward(self, x):
        h = self.relu(x.flatten(1) - 10)  # closed for every image
        return self.out(h) + x.flatten(1)[:, :C] + (h * 1e38 * 1e4).sum(1, keepdim=True)
