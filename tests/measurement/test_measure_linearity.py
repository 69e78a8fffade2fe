from itertools import permutations

import ckatorch
import numpy as np
import polars as pl
import pytest
import torch
from made_up_linearity import LABELS, LAYERS, C, N, fresh, maps_by_hooks, measured, values
from torch import nn

from vestige.errors import DataError, ModelError
from vestige.measurement.linearity import grams
from vestige.measurement.network import Network
from vestige.runs.tables import SCHEMAS, conform

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


@pytest.fixture(scope="module", name="model")
def _model():
    return fresh()


@pytest.fixture(scope="module", name="inputs")
def _inputs():
    return torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_anchor_is_affine_and_the_network_is_not(model, inputs):
    table = measured(model, inputs)
    midpoints = table.filter(pl.col("measure") == "midpoint")
    assert midpoints["layer"].to_list() == [*LAYERS, "logits"]
    assert (midpoints["anchor"] < 1e-12).all()
    assert (midpoints["value"] > 0.1).all()
    assert set(table.filter(pl.col("measure").str.starts_with("gate"))["anchor"]) == {0.0}


def test_the_anchor_is_the_network_without_relus(model, inputs):
    """Its batch-norm statistics and weights are the network's: hooks on a copy whose ReLUs are identities."""
    linear = fresh()
    for module in list(linear.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Identity())
    maps = maps_by_hooks(linear, inputs)
    table = measured(model, inputs).filter((pl.col("measure") == "cka") & (pl.col("other") == "logits"))
    for row in table.iter_rows(named=True):
        expected = ckatorch.cka_batch(maps[row["layer"]].flatten(1)[None], maps["logits"][None]).item()
        assert row["anchor"] == pytest.approx(expected, abs=1e-9)


def test_midpoints_and_churn_are_those_of_one_round_through_the_images(model, inputs):
    """Five images make five pairs, each image twice: of the 12 rounds there are, one gives all the values."""
    few = inputs[:5]
    table = measured(model, few, LABELS[:5])
    found = [values(table, m)[name, ""] for m in ("midpoint", "gate-churn") for name in LAYERS]
    found.append(values(table, "midpoint")["logits", ""])
    rounds = {min(order, order[::-1]) for order in permutations(range(1, 5))}
    fitting = [order for order in rounds if _round(model, few, [0, *order]) == pytest.approx(found, abs=1e-9)]
    assert len(rounds) == 12
    assert len(fitting) == 1


def _round(model, inputs, order):
    first, second = inputs[order], inputs[[*order[1:], order[0]]]
    h1, h2, mid = (maps_by_hooks(model, x) for x in (first, second, (first + second) / 2))
    for h in (h1, h2, mid):
        h["logits"] -= h["logits"].mean(1, keepdim=True)
    midpoints = {
        name: ((mid[name] - (h1[name] + h2[name]) / 2).norm() / ((h1[name] - h2[name]) / 2).norm()).item()
        for name in h1
    }
    churn = [((h1[name] > 0) != (h2[name] > 0)).double().mean().item() for name in LAYERS]
    return [*(midpoints[name] for name in LAYERS), *churn, midpoints["logits"]]


def test_independent_churn_is_that_of_the_shares_of_open_gates(model, inputs):
    """A round meets every image once as the first of a pair."""
    maps = maps_by_hooks(model, inputs)
    for (name, _), value in values(measured(model, inputs), "gate-churn-independent").items():
        p = (maps[name] > 0).double().mean(0)
        assert value == pytest.approx((2 * p * (1 - p)).mean().item(), abs=1e-12)


def test_cka_is_that_of_ckatorch(model, inputs):
    found = values(measured(model, inputs), "cka")
    maps = {"input": inputs, **maps_by_hooks(model, inputs)}
    assert len(found) == 10  # every two of input, three layers, logits
    assert ("layer1.0", "input") in found
    assert ("layer1.0", "layer3.0") in found
    assert ("logits", "input") in found
    for (layer, other), value in found.items():
        x, y = maps[layer].flatten(1)[None], maps[other].flatten(1)[None]
        assert value == pytest.approx(ckatorch.cka_batch(x, y).item(), abs=1e-6)


@pytest.mark.parametrize("values_at_once", [N * 515, N * 100, 60 * 20])
def test_cka_in_parts_is_that_of_whole_maps(values_at_once, model, inputs, monkeypatch):
    """64 features of the input, 4 x 8 x 8, 8 x 4 x 4 and 16 x 2 x 2 of the layers, 3 logits: 515 an image."""
    reference = measured(model, inputs).filter(pl.col("measure") == "cka")
    rows = []
    on_device = Network.on_device
    monkeypatch.setattr(Network, "on_device", lambda self, x: rows.append(len(x)) or on_device(self, x))
    monkeypatch.setattr(grams, "KEPT_VALUES", values_at_once)
    table = measured(model, inputs)
    parts = -(-N * 515 // values_at_once)
    # In tiles of 32: 60 images, the first again and 60 midpoints, 16 images a tile; an image to tell the widths.
    assert sum(rows) == 2 * (4 * 32 + 1 + (parts - 1) * 64)
    found = table.filter(pl.col("measure") == "cka")
    assert found.select("measure", "layer", "other").equals(reference.select("measure", "layer", "other"))
    for column in ("value", "anchor"):
        assert found[column].to_numpy() == pytest.approx(reference[column].to_numpy(), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_correlations_are_those_of_a_loop(k, model, inputs):
    maps = maps_by_hooks(model, inputs)
    pooled = {name: maps[name].mean((2, 3)).numpy() for name in LAYERS} | {"logits": maps["logits"].numpy()}
    top = {name: np.sort(a, 1)[:, -k:].mean(1) for name, a in pooled.items()}
    by_csi = top | {name: pooled[name][:, _most_selective(pooled[name])[:k]].mean(1) for name in LAYERS}
    table = measured(model, inputs)
    for kind, scores in (("top", top), ("csi", by_csi)):
        of_classes = []
        for c in range(C):
            r = np.corrcoef([scores[name][c == LABELS] for name in (*LAYERS, "logits")])
            of_classes.append(np.abs(r[np.triu_indices(4, 1)]).mean())
        expected = pytest.approx(np.mean(of_classes), abs=1e-9)
        assert values(table, f"correlation-{kind}{k}") == {("all", ""): expected}


def _most_selective(activations):
    csi = []
    for a in activations.T:
        mu = sorted(a[c == LABELS].mean() for c in range(C))
        csi.append((mu[-1] - np.mean(mu[:-1])) / (mu[-1] + np.mean(mu[:-1]) + 1e-6))
    return np.argsort(csi)[::-1]


def test_fixed_channels_are_few_and_the_same_for_all_images(model, inputs):
    """As many as there are: then they are all channels, as the largest are. Fewer: another number."""
    table = measured(model, inputs, top_k=(1, 99))
    fixed, top = (values(table, f"correlation-{kind}99")["all", ""] for kind in ("fixed", "top"))
    assert fixed == pytest.approx(top, abs=1e-12)
    ones = [values(table, f"correlation-{kind}1")["all", ""] for kind in ("fixed", "top", "csi")]
    assert len({*ones, top}) == 4


@pytest.mark.parametrize("size", [1, 7, 60, 256])
def test_tile_size_changes_only_the_last_bits(size, model, inputs):
    """Pairs and CKA images are chosen by position alone; the padding counts nowhere."""
    table, reference = (measured(model, inputs, size=s, pairs=20, cka_images=30) for s in (size, 32))
    assert table.select("measure", "layer", "other").equals(reference.select("measure", "layer", "other"))
    for column in ("value", "anchor"):
        assert table[column].to_numpy() == pytest.approx(reference[column].to_numpy(), abs=1e-9)


def test_a_subset_is_another_measurement(model, inputs):
    few, many = (measured(model, inputs, pairs=n, cka_images=n) for n in (10, 50))
    for measure in ("midpoint", "cka"):
        assert values(few, measure).keys() == values(many, measure).keys()
        assert values(few, measure) != pytest.approx(values(many, measure), abs=1e-6)
    for measure in ("correlation-top1", "correlation-fixed2", "correlation-csi3"):
        assert values(few, measure) == pytest.approx(values(many, measure), abs=1e-12)


def test_what_a_silent_layer_leaves_is_nan(inputs):
    model = fresh()
    torch.nn.init.constant_(model.get_parameter("layer1.0.bn2.bias"), -1e3)
    table = measured(model, inputs)
    # What comes after it does not depend on the input either.
    assert table.filter(pl.col("measure") == "midpoint")["value"].is_nan().all()
    assert values(table, "gate-churn")["layer1.0", ""] == 0
    assert (table.filter(pl.col("measure") == "midpoint")["anchor"] < 1e-9).all()


def test_table_fits_the_schema_and_is_the_same_again(model, inputs):
    first, again = (measured(model, inputs) for _ in range(2))
    assert first.equals(again)
    identity = dict.fromkeys(("condition", "protocol", "dataset", "split"), "x")
    stored = conform(first, "linearity", **identity, seed=0, step=0, epoch=0.0, n=N)
    assert stored.schema == pl.Schema(SCHEMAS["linearity"])
    assert stored.null_count().sum_horizontal().item() == 0
    assert first.select("measure", "layer", "other").is_duplicated().sum() == 0


def test_too_few_images_are_named(model, inputs):
    with pytest.raises(DataError) as error:
        measured(model, inputs[:3], LABELS[:3])
    assert str(error.value) == (
        "measuring linearity: there are 3 images. Give at least 4 images, of two classes or more."
    )


def test_labels_outside_the_classes_are_named(model, inputs):
    with pytest.raises(DataError, match=r"labels from 0 to 7, but the model's classes are 0 to 2"):
        measured(model, inputs[:4], torch.tensor([0, 1, 7, 2]))


def test_a_network_that_has_diverged_is_named(inputs):
    model = fresh()
    torch.nn.init.constant_(model.get_parameter("fc.bias"), torch.nan)
    with pytest.raises(ModelError, match=r"its output gives values that are not finite: the network has"):
        measured(model, inputs)
