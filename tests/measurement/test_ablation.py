import dataclasses

import hooked
import polars as pl
import pytest
import torch
import torchvision
from hooked import TILE, N
from polars.testing import assert_frame_equal
from torch import nn

from vestige.errors import DataError, ModelError
from vestige.measurement.ablation import neuron_replay, replacing
from vestige.measurement.ablation.blocks import blocks
from vestige.measurement.ablation.effect_tables import Task
from vestige.measurement.ablation.neuron_replay import NeuronReplay
from vestige.measurement.ablation.pieces import MemoryPieces
from vestige.measurement.ablation.replacing import Constant
from vestige.measurement.ablation.single_ablation import ablate_singly
from vestige.measurement.inputs import batches
from vestige.measurement.network import Network
from vestige.measurement.ranking import Ranking, rank
from vestige.models import replaying
from vestige.models.layers import Layer
from vestige.runs.tables import SCHEMAS


def ablate_neurons(network, images, *, values=("zero", "mean"), ranking, tile=TILE):
    """Every neuron of every layer; the tables."""
    tasks = [Task(layer, value, None) for layer in network.layers for value in values]
    held = blocks(batches(images, batch_size=tile), tile=tile)
    table, by_class, _ = ablate_singly(network, held, tasks, ranking=ranking, pieces=MemoryPieces())
    return table, by_class


@pytest.fixture(scope="module", name="tables")
def _tables(network, images, ranking):
    return ablate_neurons(network, images, ranking=ranking)


def replayed_logits(network: Network, layer: Layer, inputs, labels, units, fills):
    """Logits with each of some neurons replaced, (U, N, C), through the engine."""
    played = NeuronReplay(network, layer)
    (tile,) = hooked.tiles(inputs, labels, len(inputs))
    held, n = played.hold(tile), len(inputs)
    fills_U = torch.zeros(layer.units)
    fills_U[units] = fills
    images_R, units_R = torch.arange(n).repeat(len(units)), units.repeat_interleave(n)
    logits_RC = torch.cat(list(played.logits(held.values, images_R, units_R, Constant(fills_U, held.maps.ndim - 2))))
    return logits_RC.view(len(units), n, -1)


@pytest.mark.parametrize(("name", "value"), [("resnet8", 0.0), ("resnet8", 0.37), ("resnet18", 0.0)])
def test_replay_equals_full_forwards_with_hooks(name, value):
    """Every neuron of ResNet-8, every 32nd of torchvision's ResNet-18 at 32 px."""
    if name == "resnet8":
        model, (inputs, labels), every = hooked.resnet8(width=16), hooked.images(24, 1, 8), 1
    else:
        model = hooked.randomised(torchvision.models.resnet18(num_classes=hooked.CLASSES))
        (inputs, labels), every = hooked.images(6, 3, 32), 32
    network = Network.prepare(model, inputs[:2])
    decided = undecided = 0
    for layer in network.layers:
        units = torch.arange(0, layer.units, every)
        fills = torch.full((len(units),), value)
        found_UNC = replayed_logits(network, layer, inputs, labels, units, fills)
        for u, found_NC in zip(units.tolist(), found_UNC, strict=True):
            expected_NC = hooked.hooked_forward(model, inputs, {layer.name: ([u], torch.tensor([value]))})
            off = (found_NC - expected_NC).abs().max()
            assert off <= 1e-5 * expected_NC.abs().max()
            first, second = expected_NC.topk(2).values.T
            wide = first - second > 2 * off
            assert (found_NC.argmax(1) == expected_NC.argmax(1))[wide].all()
            decided, undecided = decided + int(wide.sum()), undecided + int((~wide).sum())
    assert undecided < 0.001 * decided


def test_tables_equal_slow_loops_over_hooked_forwards(model, images, network, ranking, tables):
    inputs, labels = images
    rows = {(r["layer"], r["neuron"], r["value"]): r for r in tables[0].to_dicts()}
    by_class = tables[1].partition_by(["layer", "neuron", "value"], as_dict=True)
    assert len(rows) == len(tables[0]) == 2 * sum(layer.units for layer in network.layers)
    for layer in network.layers:
        for u in range(layer.units):
            for value, fill in (("zero", 0.0), ("mean", ranking.mean[layer.name][u].item())):
                row = rows[layer.name, u, value]
                ablated = hooked.hooked_forward(model, inputs, {layer.name: ([u], torch.tensor([fill]))})
                expected, classes = slow_effects(
                    hooked.hooked_forward(model, inputs, {}).double().numpy(),
                    ablated.double().numpy(),
                    labels.numpy(),
                    int(ranking.preferred[layer.name][u]),
                )
                assert {name: row[name] for name in expected} == pytest.approx(expected, abs=2e-6, nan_ok=True)
                found = by_class[layer.name, u, value].sort("class").select(pl.col("^class.*$")).rows()
                assert [list(row) for row in found] == [pytest.approx(c, abs=2e-6) for c in classes]


def slow_effects(intact, ablated, labels, preferred):
    """Effects of one neuron in float64 numpy, image by image."""
    import numpy as np

    def loss(logits, c):
        return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[c]

    change = np.array([loss(b, c) - loss(a, c) for a, b, c in zip(intact, ablated, labels, strict=True)])
    before, after = (intact.argmax(1) == labels), (ablated.argmax(1) == labels)
    gain = after.astype(float) - before
    mine = labels == preferred
    effects = {
        "loss_delta": change.mean(),
        "loss_delta_se": change.std(ddof=1) / np.sqrt(len(change)),
        "top1_delta": gain.mean(),
        "right_to_wrong": (before & ~after).mean(),
        "wrong_to_right": (~before & after).mean(),
        "preferred_class": preferred,
        "preferred_delta": gain[mine].mean() if mine.any() else np.nan,
        "others_delta": gain[~mine].mean(),
    }
    classes = [
        [c, (labels == c).sum(), change[labels == c].mean(), gain[labels == c].mean()] for c in np.unique(labels)
    ]
    return effects, classes


def test_tables_have_the_columns_of_their_schemas(tables):
    identity = ["condition", "seed", "step", "epoch", "protocol", "dataset", "split", "n"]
    for frame, kind in zip(tables, ("ablation", "ablation-by-class"), strict=True):
        assert set(frame.columns) == set(SCHEMAS[kind]) - set(identity)
    assert set(tables[0]["mode"]) == {"exact"}
    assert set(tables[0]["approximation_se"]) == {0.0}


def test_a_dead_neuron_changes_nothing_at_all(images):
    model, dead = hooked.resnet8(), 3
    block = model.get_submodule("layer2.0")
    with torch.no_grad():
        for path, offset in (("bn2", 0.0), ("downsample.1", -1.0)):
            norm = block.get_submodule(path)
            norm.weight[dead], norm.bias[dead] = 0.0, offset
    network = Network.prepare(model, images[0][:2])
    neurons, by_class = ablate_neurons(network, images, ranking=rank(network, hooked.tiles(*images, TILE)))
    its = (pl.col("layer") == "layer2.0") & (pl.col("neuron") == dead)
    columns = ["loss_delta", "loss_delta_se", "top1_delta", "right_to_wrong", "wrong_to_right"]
    assert neurons.filter(its).select(columns).rows() == [(0.0,) * 5] * 2
    assert set(by_class.filter(its).select("class_loss_delta", "class_top1_delta").rows()) == {(0.0, 0.0)}
    assert (neurons.filter(~its)["loss_delta_se"] > 0).sum() > 80  # some others happen to be dead


def test_what_is_not_run_again_would_have_come_out_the_same(network, images, ranking, tables, monkeypatch):
    skipped = []

    def everything(of, maps_TU):
        changed_TU = changed(of, maps_TU)
        skipped.append(int((~changed_TU).sum()))
        return torch.ones_like(changed_TU)

    changed = replacing.Constant.changed
    monkeypatch.setattr(replacing.Constant, "changed", everything)
    again = ablate_neurons(network, images, ranking=ranking)
    assert sum(skipped) > 0
    for mine, theirs in zip(tables, again, strict=True):
        assert_frame_equal(mine, theirs, abs_tol=1e-6, rel_tol=1e-5)


class OnePerClass(nn.Module):
    """Channel c of the input shows class c, and neuron c alone speaks for it."""

    def forward(self, inputs):
        return 4.0 * torch.relu(inputs).mean((2, 3))


def test_a_neuron_that_matters_to_one_class_only():
    labels = torch.tensor([0] * 30 + [1] * 30 + [2] * 2)
    inputs = torch.eye(3)[labels][:, :, None, None].expand(-1, -1, 2, 2).clone()
    network = Network.prepare(OnePerClass(), inputs[:2])
    (layer,) = network.layers
    preferred = torch.arange(3)
    ranking = Ranking({layer.name: torch.ones(3)}, {layer.name: torch.zeros(3)}, {layer.name: preferred})
    neurons, by_class = ablate_neurons(network, (inputs, labels), values=("zero",), ranking=ranking, tile=16)
    row = neurons.row(2, named=True)
    assert row["top1_delta"] == pytest.approx(-2 / 62)
    assert (row["preferred_delta"], row["others_delta"]) == (-1.0, 0.0)
    lost = by_class.filter(pl.col("neuron") == 2)
    assert lost["class_top1_delta"].to_list() == [0.0, 0.0, -1.0]
    # log 3 with all logits 0, less log(1 + 2 exp(-4)) with its own at 4.
    assert lost["class_loss_delta"].to_list() == pytest.approx([0.0, 0.0, 1.0986122887 - 0.0359765203], abs=1e-6)


def test_numbers_do_not_depend_on_what_else_is_ablated(network, images, ranking, tables):
    backwards = dataclasses.replace(network, layers=network.layers[::-1])
    found = ablate_neurons(backwards, images, values=("mean",), ranking=ranking)
    key = ["layer", "neuron", "class"]
    for mine, theirs in zip(found, tables, strict=True):
        by = [name for name in key if name in mine.columns]
        only = theirs.filter(pl.col("value") == "mean")
        assert_frame_equal(mine.sort(by), only.sort(by), check_exact=True)


def test_a_replay_does_not_depend_on_its_place(network, images, monkeypatch):
    """But for rounding, among more replays than one forward takes, of one image each or mixed."""
    monkeypatch.setattr(neuron_replay, "MOST", 256)
    layer = network.layers[0]
    played = NeuronReplay(network, layer)
    (tile,) = hooked.tiles(*images, N)
    held = played.hold(tile)
    units_R = torch.arange(layer.units).repeat(15 * N)
    images_R = torch.arange(N).repeat_interleave(layer.units * 15)
    shuffled_R = torch.randperm(len(units_R), generator=torch.Generator().manual_seed(0))
    zero = Constant(torch.zeros(layer.units), held.maps.ndim - 2)

    def run(order_R):
        return torch.cat(list(played.logits(held.values, images_R[order_R], units_R[order_R], zero)))

    straight = run(torch.arange(len(units_R)))
    assert len(straight) > 2 * played.rows
    torch.testing.assert_close(run(shuffled_R), straight[shuffled_R], rtol=0, atol=1e-6 * float(straight.abs().max()))
    assert torch.equal(run(torch.arange(len(units_R))), straight)


@pytest.mark.parametrize(("size", "most"), [(N, 4096), (5, 16)])
def test_tile_sizes_change_no_more_than_rounding(network, images, ranking, tables, monkeypatch, size, most):
    monkeypatch.setattr(neuron_replay, "MOST", most)
    found = ablate_neurons(network, images, ranking=ranking, tile=size)
    for mine, theirs in zip(found, tables, strict=True):
        assert_frame_equal(mine, theirs, abs_tol=1e-6, rel_tol=1e-5)


def test_the_model_is_left_alone(images, ranking):
    model = hooked.resnet8()
    before = hooked.hooked_forward(model, images[0], {})
    network = Network.prepare(model, images[0][:2])
    ablate_neurons(network, images, values=("zero",), ranking=ranking)
    assert torch.equal(hooked.hooked_forward(model, images[0], {}), before)


def test_labels_that_are_no_classes(network, images, ranking):
    with pytest.raises(DataError, match=r"labels from .* to 1., but the model's classes are 0 to 9"):
        ablate_neurons(network, (images[0], images[1] + 5), ranking=ranking)


class MixesImages(nn.Module):
    """What it makes of an image depends on the others in the batch."""

    def forward(self, inputs):
        hidden = torch.relu(inputs).mean((2, 3))
        return hidden - hidden.mean(0)


def test_a_network_that_mixes_images_is_refused():
    inputs, labels = torch.rand(6, 3, 2, 2), torch.arange(6) % 3
    network = Network.prepare(MixesImages(), inputs)
    with pytest.raises(ModelError, match=r"does not give.*treats each input of a batch alone"):
        ablate_neurons(network, (inputs, labels), ranking=rank(network, hooked.tiles(inputs, labels, 6)), tile=6)


def fails(*_):
    raise RuntimeError("no such kernel")


def forgets_the_neuron(intact, _slice, _weight, pairs):
    return intact[pairs.images]


@pytest.mark.parametrize(
    ("shortcut", "said"),
    [
        (fails, r"takes longer, without shortcuts: it fails with RuntimeError \(no such kernel\)"),
        (forgets_the_neuron, "takes longer, without shortcuts: a replayed neuron does not give what a full forward"),
    ],
)
def test_a_wrong_shortcut_is_not_taken_and_told_of(network, images, tables, ranking, monkeypatch, shortcut, said):
    monkeypatch.setattr(replaying, "updated_linear", shortcut)
    with pytest.warns(UserWarning, match=said):
        found = ablate_neurons(network, images, ranking=ranking)
    for mine, theirs in zip(found, tables, strict=True):
        assert_frame_equal(mine, theirs, abs_tol=1e-6, rel_tol=1e-5)


class Refusing(nn.Module):
    """Takes no more than six images."""

    def forward(self, inputs):
        return torch.relu(inputs).mean((2, 3)) + torch.narrow(torch.zeros(6, 3), 0, 0, inputs.shape[0])


def test_a_network_that_cannot_be_replayed_is_refused_with_its_own_error():
    inputs, labels = torch.rand(6, 3, 2, 2), torch.arange(6) % 3
    network = Network.prepare(Refusing(), inputs)
    with pytest.raises(ModelError, match=r"replaying .*: it fails with RuntimeError \(start \(0\) \+ length"):
        ablate_neurons(network, (inputs, labels), ranking=rank(network, hooked.tiles(inputs, labels, 6)), tile=6)


class Masked(nn.Module):
    """One class is ruled out by a large negative logit, which is no scale to measure the others by."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -1e9]))

    def forward(self, inputs):
        return self.model(inputs) + self.mask


def test_a_masked_class_hides_no_network_that_mixes_images():
    inputs, labels = torch.rand(6, 3, 2, 2), torch.arange(6) % 2
    network = Network.prepare(Masked(MixesImages()), inputs)
    with pytest.raises(ModelError, match="treats each input of a batch alone"):
        ablate_neurons(network, (inputs, labels), ranking=rank(network, hooked.tiles(inputs, labels, 6)), tile=6)


def test_images_of_another_size_are_replayed_as_if_there_were_no_others():
    layers = [nn.Conv2d(channels, 32, 3, padding=1) for channels in (3, 32, 32)]
    model = nn.Sequential(
        layers[0], nn.ReLU(), *layers[1:], nn.Conv2d(32, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    network = Network.prepare(model, torch.rand(2, 3, 8, 8))
    layer = network.layers[0]

    def run(played, size):
        (tile,) = hooked.tiles(torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0)), torch.arange(3), 3)
        held = played.hold(tile)
        units_R = torch.arange(layer.units).repeat(3)
        images_R = torch.arange(3).repeat_interleave(layer.units)
        return torch.cat(list(played.logits(held.values, images_R, units_R, Constant(torch.zeros(layer.units), 2))))

    played = NeuronReplay(network, layer)
    for size in ((8, 8), (12, 12), (20, 20), (5, 8), (8, 8)):
        assert torch.equal(run(played, size), run(NeuronReplay(network, layer), size))
