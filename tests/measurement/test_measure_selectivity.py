import numpy as np
import polars as pl
import pytest
import torch
from hooked import hooked_maps
from torch import nn

from vestige.config import ModelConfig
from vestige.data.loader import Tile
from vestige.errors import ConfigError, DataError, ModelError
from vestige.measurement.network import Network
from vestige.measurement.selectivity import measure_selectivity, permuted_labels
from vestige.measurement.sums import alternate_halves
from vestige.models.zoo import build
from vestige.runs.tables import SCHEMAS, conform

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine

N, C = 90, 5
LAYERS = ("layer1.0", "layer2.0", "layer3.0")

LABELS = {
    "balanced": torch.arange(N) % C,
    "unbalanced": torch.arange(N).sqrt().long() % C,
    "a class with no image": torch.arange(N) % 3 + 1,
    "a class with one image": (torch.arange(N) % 3).index_fill(0, torch.tensor(40), 4),
}


@pytest.fixture(scope="module", name="model")
def _model():
    model = build(ModelConfig(name="resnet8", width=4), classes=C, channels=1, size=8, seed=0)
    with torch.no_grad():
        model.get_parameter("layer2.0.bn2.bias")[0] = -100  # a neuron that never fires
        model.get_parameter("layer2.0.downsample.1.bias")[0] = -100
    return model.eval()


@pytest.fixture(scope="module", name="inputs")
def _inputs():
    return torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def tiles_of(inputs, labels, size):
    """Tiles padded with a strange image and label, which must not count."""
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], labels[start : start + size]
        short = size - len(x)
        x_T = torch.cat([x, torch.full((short, *x.shape[1:]), 9.0)])
        y_T = torch.cat([y, torch.full((short,), 1)])
        yield Tile(x_T, y_T, len(x), np.arange(size))


def measured(model, inputs, labels, size=256, **settings):
    network = Network.prepare(model, torch.zeros(2, 1, 8, 8))
    return measure_selectivity(network, tiles_of(inputs, labels, size), **settings)


def maps_by_hooks(model, inputs):
    """Whole float64 maps of each layer by forward hooks on the model itself."""
    found, logits = hooked_maps(model, inputs, LAYERS)
    return {name: maps.double().numpy() for name, maps in found.items()}, logits.double().numpy()


def index_by_loop(mu):
    """CSI of one neuron from a dict of class means."""
    best = max(mu, key=lambda c: mu[c])
    rest = sum(mu[c] for c in mu if c != best) / (len(mu) - 1)
    return (mu[best] - rest) / (mu[best] + rest + 1e-6)


def cross_validated_by_loop(a, labels):
    """csi_cv of one neuron: alternate images of each class, image by image."""
    halves, turn = ({}, {}), {}
    for value, label in zip(a, labels, strict=True):
        half = turn.get(label, 0)
        halves[half].setdefault(label, []).append(value)
        turn[label] = 1 - half
    kept = [c for c in halves[0] if c in halves[1]]
    results = []
    for one, other in (halves, halves[::-1]):
        mu_a, mu_b = ({c: sum(half[c]) / len(half[c]) for c in kept} for half in (one, other))
        star = max(kept, key=lambda c: (mu_a[c], -c))
        rest_a, rest_b = (sum(mu[c] for c in kept if c != star) / (len(kept) - 1) for mu in (mu_a, mu_b))
        results.append((mu_b[star] - rest_b) / (mu_a[star] + rest_a + 1e-6))
    return sum(results) / 2


def eta2_by_loop(a, labels):
    grand = sum(a) / len(a)
    total = sum((value - grand) ** 2 for value in a)
    means = {c: np.mean([v for v, y in zip(a, labels, strict=True) if y == c]) for c in set(labels)}
    between = sum((means[y] - grand) ** 2 for y in labels)
    return between / total if total else 0.0


@pytest.mark.parametrize("size", [1, 7, 256])
@pytest.mark.parametrize("kind", LABELS)
def test_agrees_with_a_float64_loop(kind, size, model, inputs):
    labels_N = LABELS[kind]
    table = measured(model, inputs, labels_N, size, permutations=2).table
    labels = labels_N.tolist()
    for name, maps in maps_by_hooks(model, inputs)[0].items():
        rows = table.filter(pl.col("layer") == name)
        assert rows["neuron"].to_list() == list(range(maps.shape[1]))
        for u, row in enumerate(rows.iter_rows(named=True)):
            a = maps[:, u].reshape(N, -1).mean(1)
            mu = {c: np.mean([v for v, y in zip(a, labels, strict=True) if y == c]) for c in set(labels)}
            expected = {
                "csi": index_by_loop(mu),
                "csi_cv": cross_validated_by_loop(a, labels),
                "eta2": eta2_by_loop(a, labels),
                "mean": a.mean(),
                "mu_max": max(mu.values()),
                "mu_rest": (sum(mu.values()) - max(mu.values())) / (len(mu) - 1),
                "closed": (maps[:, u] == 0).mean(),
            }
            assert {k: row[k] for k in expected} == pytest.approx(expected, abs=1e-6)
            ranked = sorted(mu, key=lambda c: (-mu[c], c))
            assert [row["preferred_class"], row["second_class"]] == ranked[:2]


def test_a_neuron_that_never_fires_is_flagged(model, inputs):
    table = measured(model, inputs, LABELS["unbalanced"]).table
    dead = table.filter("dead")
    assert dead.select("layer", "neuron").rows() == [("layer2.0", 0)]
    row = dead.row(0, named=True)
    zeros = ("csi", "csi_null_mean", "csi_null_q95", "csi_excess", "csi_cv", "eta2", "eta2_adj", "mean")
    assert [row[name] for name in zeros] == [0] * len(zeros)
    assert (row["closed"], row["p_value"]) == (1, 1)
    assert np.isnan([row["sparsity"], row["reliability"]]).all()
    assert (table.filter(~pl.col("dead"))["csi"] > 0).all()


def test_the_null_is_the_index_under_each_permutation(model, inputs):
    labels_N = LABELS["unbalanced"]
    table = measured(model, inputs, labels_N, permutations=20).table
    maps = maps_by_hooks(model, inputs)[0]
    null = [
        [
            index_by_loop({c: a[permuted == c].mean() for c in np.unique(permuted)})
            for name in LAYERS
            for a in maps[name].mean((2, 3)).T
        ]
        for permuted in permuted_labels(labels_N, 20).numpy()
    ]
    assert table["csi_null_mean"].to_numpy() == pytest.approx(np.mean(null, 0), abs=1e-6)
    assert table["csi_null_q95"].to_numpy() == pytest.approx(np.quantile(null, 0.95, axis=0), abs=1e-6)
    excess = (table["csi"] - table["csi_null_mean"]).to_numpy()
    assert table["csi_excess"].to_numpy() == pytest.approx(excess, abs=1e-12)


def test_permutations_depend_on_labels_and_number_alone():
    labels_N = LABELS["unbalanced"]
    first_PN = permuted_labels(labels_N, 5)
    assert torch.equal(first_PN, permuted_labels(labels_N.clone(), 5))
    assert not torch.equal(first_PN, permuted_labels(labels_N, 6)[:5])
    assert not torch.equal(first_PN, permuted_labels(labels_N.flip(0), 5))
    for permuted_N in first_PN:
        assert torch.equal(permuted_N.sort().values, labels_N.sort().values)
        assert not torch.equal(permuted_N, labels_N)


def test_alternate_halves_by_hand():
    assert alternate_halves(torch.tensor([2, 0, 2, 2, 0, 1])).tolist() == [0, 0, 1, 0, 1, 0]


def test_faithful_takes_sums_only_where_the_release_does(model, inputs):
    corrected, faithful = (
        measured(model, inputs, LABELS["unbalanced"], protocol=protocol).table for protocol in ("corrected", "faithful")
    )
    differing = {c for c in corrected.columns if not corrected[c].equals(faithful[c], null_equal=True)}
    assert differing == {"csi", "csi_null_mean", "csi_null_q95", "csi_excess", "p_value"}
    labels = LABELS["unbalanced"].numpy()
    a = maps_by_hooks(model, inputs)[0]["layer3.0"][:, 3].mean((1, 2))
    sums = {c: a[labels == c].sum() for c in range(C)}  # a class without an image would count as 0
    row = faithful.filter((pl.col("layer") == "layer3.0") & (pl.col("neuron") == 3)).row(0, named=True)
    assert row["csi"] == pytest.approx(index_by_loop(sums), abs=1e-6)


def test_result_has_what_ablation_needs(model, inputs):
    labels_N = LABELS["a class with no image"]
    result = measured(model, inputs, labels_N, 7)
    maps, logits = maps_by_hooks(model, inputs)
    assert result.n == N
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    chosen = shifted[np.arange(N), labels_N] / shifted.sum(1)
    assert result.loss == pytest.approx(-np.log(chosen).mean(), abs=1e-6)
    assert result.top1 == pytest.approx((logits.argmax(1) == labels_N.numpy()).mean())
    for name in LAYERS:
        means_CU = result.class_means[name]
        assert means_CU.shape == (C, maps[name].shape[1])
        assert means_CU.dtype == torch.float64
        assert means_CU[[0, 4]].isnan().all()
        expected_U = maps[name][labels_N == 2].mean((0, 2, 3))
        assert means_CU[2].numpy() == pytest.approx(expected_U, abs=1e-6)
        assert result.mean_activation[name].numpy() == pytest.approx(maps[name].mean((0, 2, 3)), abs=1e-6)
        assert torch.equal(result.preferred[name], means_CU.nan_to_num(-1).argmax(0))


def test_table_fits_the_schema_and_is_the_same_again(model, inputs):
    first, again = (measured(model, inputs, LABELS["balanced"], 7).table for _ in range(2))
    assert first.equals(again, null_equal=True)
    identity = dict.fromkeys(("condition", "protocol", "dataset", "split"), "x")
    stored = conform(first, "selectivity", **identity, seed=0, step=0, epoch=0.0, n=N)
    assert stored.schema == pl.Schema(SCHEMAS["selectivity"])
    assert stored.null_count().sum_horizontal().item() == 0


def test_without_permutations_or_halves_the_rest_is_measured(model, inputs):
    table = measured(model, inputs, LABELS["balanced"], permutations=0).table
    assert table.select("csi_null_mean", "csi_null_q95", "csi_excess", "p_value").to_numpy().shape == (28, 4)
    assert np.isnan(table.select("csi_null_mean", "csi_null_q95", "csi_excess", "p_value").to_numpy()).all()
    few = measured(model, inputs[:C], torch.arange(C)).table
    assert np.isnan(few.select("csi_cv", "reliability").to_numpy()).all()
    assert not few["csi"].is_nan().any()


def test_the_model_is_left_as_it_was(model, inputs):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured(model.train(), inputs, LABELS["balanced"])
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.eval()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 5, 2],
            "measuring selectivity: labels from 0 to 5, but the model's classes are 0 to 4. "
            "Use the data that the model was trained for, or map the labels to its class indices.",
        ),
        (
            [0, 1, -1, 2],
            "measuring selectivity: labels from -1 to 2, but the model's classes are 0 to 4. "
            "Use the data that the model was trained for, or map the labels to its class indices.",
        ),
        (
            [3, 3, 3, 3],
            "computing class selectivity: 1 of 5 classes has images. "
            "Give images of at least two classes (in a training batch: a larger batch).",
        ),
        (
            [],
            "measuring selectivity: there are no images. Give at least one image of two classes.",
        ),
    ],
)
def test_labels_that_cannot_be_measured(labels, message, model, inputs):
    with pytest.raises(DataError) as error:
        measured(model, inputs[: len(labels)], torch.tensor(labels, dtype=torch.int64))
    assert str(error.value) == message


def test_an_unknown_protocol_is_named(model, inputs):
    with pytest.raises(ConfigError, match=r"there is no protocol 'faithfull'\. Did you mean 'faithful'\?"):
        measured(model, inputs, LABELS["balanced"], protocol="faithfull")


def test_a_network_that_has_diverged_is_named(inputs):
    model = build(ModelConfig(name="resnet8", width=4), classes=C, channels=1, size=8, seed=0)
    torch.nn.init.constant_(model.get_parameter("layer2.0.bn2.weight"), torch.inf)
    with pytest.raises(ModelError) as error:
        measured(model, inputs, LABELS["balanced"])
    assert str(error.value) == (
        "measuring selectivity: its output gives values that are not finite: the network has diverged. "
        "Measure an earlier checkpoint, or train with a smaller learning rate."
    )


def test_an_output_that_is_no_row_of_logits_is_named():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU())
    with pytest.raises(ModelError) as error:
        Network.prepare(model, torch.zeros(2, 1, 4, 4))
    assert str(error.value) == (
        "measuring a Sequential: inputs of shape (2, 1, 4, 4) give shape (2, 3, 4, 4). "
        "Give a classifier whose output is one row of logits an input, (N, classes)."
    )
