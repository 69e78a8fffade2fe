"""Class means and top inputs against loops over hooked forwards."""

import hooked
import numpy as np
import pytest
import torch
from hooked import TILE, N

from vestige.config import ModelConfig
from vestige.data.loader import Tile
from vestige.errors import DataError, ModelError
from vestige.measurement.network import Network
from vestige.measurement.portraits import measure_portraits
from vestige.measurement.selectivity import measure_selectivity
from vestige.models.zoo import build
from vestige.runs.tables import SCHEMAS, conform

ABOUT = {
    "condition": "c",
    "seed": 0,
    "step": 0,
    "epoch": 0.0,
    "protocol": "corrected",
    "dataset": "d",
    "split": "test",
    "n": N,
}


def tiles_of(inputs, labels, size=TILE, indices=None):
    return hooked.tiles(inputs, labels, size) if indices is None else [Tile(inputs, labels, len(labels), indices)]


def activations(model, inputs, name):
    """Spatial means of one layer, an image at a time, float64."""
    found = []
    handle = model.get_submodule(name).register_forward_hook(lambda *args: found.append(args[2].double().mean((2, 3))))
    with torch.no_grad():
        for image in inputs:
            model(image[None])
    handle.remove()
    return torch.cat(found)


@pytest.fixture(scope="module")
def found(network, images):
    return measure_portraits(network, tiles_of(*images), inputs=4)


def test_class_means_are_those_of_a_loop_and_of_selectivity(network, model, images, found):
    means = found[0]
    selectivity = measure_selectivity(network, tiles_of(*images), permutations=0).table
    assert np.allclose(means["class_means"].list.max(), selectivity["mu_max"], rtol=1e-6)
    inputs, labels = images
    a_NU = activations(model, inputs, "layer2.0")
    mine = np.array(means.filter(layer="layer2.0")["class_means"].to_list())
    for label in labels.unique().tolist():
        assert np.allclose(mine[:, label], a_NU[labels == label].mean(0), rtol=1e-4, atol=1e-6)


def test_top_inputs_are_those_of_a_loop(model, images, found):
    inputs, labels = images
    a_NU = activations(model, inputs, "layer3.0")
    rows = found[1].filter(layer="layer3.0")
    for neuron in range(a_NU.shape[1]):
        own = rows.filter(neuron=neuron).sort("rank")
        by_hand = sorted(a_NU[:, neuron].tolist(), reverse=True)[:4]
        assert np.allclose(own["activation"], [value for value in by_hand if value > 0], rtol=1e-4, atol=1e-6)
        assert np.allclose(a_NU[own["input"].to_list(), neuron], own["activation"], rtol=1e-4, atol=1e-6)
        assert own["label"].to_list() == labels[own["input"].to_list()].tolist()


def test_tables_fit_their_schemas(found):
    for kind, table in zip(("class-means", "top-inputs"), found, strict=True):
        assert conform(table, kind, **ABOUT).columns == list(SCHEMAS[kind])


def test_tiles_change_nothing_and_padding_counts_for_nothing(network, images):
    inputs, labels = images[0][:20], images[1][:20]
    whole = measure_portraits(network, tiles_of(inputs, labels, 20), inputs=3)[1]
    padded = [
        Tile(torch.cat([inputs[:13], inputs[:7]]), torch.cat([labels[:13], labels[:7]]), 13, np.r_[0:13, 0:7]),
        Tile(torch.cat([inputs[13:], inputs[:13]]), torch.cat([labels[13:], labels[:13]]), 7, np.r_[13:20, 0:13]),
    ]
    parts = measure_portraits(network, padded, inputs=3)[1]
    assert parts["input"].to_list() == whole["input"].to_list()


def test_the_earlier_of_equal_images_and_their_places_in_the_set(network, images):
    image, labels = images[0][:1].expand(12, -1, -1, -1), torch.arange(12) % 3
    indices = np.arange(12)[::-1] * 10
    rows = measure_portraits(network, tiles_of(image.contiguous(), labels, indices=indices), inputs=3)[1]
    for _, own in rows.group_by("layer", "neuron"):
        assert own.sort("rank")["input"].to_list() == [0, 10, 20]


def test_a_dead_neuron_has_no_top_inputs(images):
    model = build(ModelConfig(name="resnet8", width=4), classes=hooked.CLASSES, channels=1, size=8, seed=0).eval()
    with torch.no_grad():
        model.get_parameter("layer2.0.bn2.bias")[0] = -100
        model.get_parameter("layer2.0.downsample.1.bias")[0] = -100
    rows = measure_portraits(Network.prepare(model, images[0][:2]), tiles_of(*images), inputs=2)[1]
    assert rows.filter(layer="layer2.0", neuron=0).is_empty()
    assert rows.filter(layer="layer2.0", neuron=1).height == 2


def test_no_images_and_a_diverged_network_are_said(network, images):
    with pytest.raises(DataError, match="there are no images"):
        measure_portraits(network, [])
    with pytest.raises(ModelError, match="diverged"):
        measure_portraits(network, tiles_of(images[0] * torch.nan, images[1]))
