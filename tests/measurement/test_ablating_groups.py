"""Groups of neurons that `vestige.ablate` replaces together, against full forwards with hooks."""

import hooked
import polars as pl
import pytest
import torch
import torchvision
from hooked import N, hooked_forward
from polars.testing import assert_frame_equal
from torch import nn

import vestige
from vestige.errors import ConfigError
from vestige.measurement.ablation import quickening

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@torch.no_grad()
def test_groups_are_ablated_together(model, images):
    rows = [
        ("layer1.0", 1, "b"),
        ("layer3.0", 5, "b"),
        ("layer1.0", 2, "a"),
        ("layer2.0", 3, "b"),
        ("layer2.0", 4, "c"),
    ]
    groups = pl.DataFrame(rows, schema=["layer", "neuron", "group"], orient="row")
    found = vestige.ablate(model, images, groups=groups, value=("mean", "resample"), batch_norm="stored", batch_size=8)
    assert found.groups is not None
    assert found.groups.columns == [
        "group",
        "neurons",
        "value",
        "loss_delta",
        "loss_delta_se",
        "top1_delta",
        "right_to_wrong",
        "wrong_to_right",
    ]
    assert found.groups.select("group", "neurons", "value").rows() == [
        (group, n, value) for value in ("mean", "resample") for group, n in (("b", 3), ("a", 1), ("c", 1))
    ]
    inputs, labels = images
    mean = {(r["layer"], r["neuron"]): r["mean"] for r in found.ranking.to_dicts()}
    before = model(inputs)
    replaced = {layer: ([u], torch.tensor([mean[layer, u]])) for layer, u, group in rows if group == "b"}
    after = hooked_forward(model, inputs, replaced)
    losses = [nn.functional.cross_entropy(x.double(), labels, reduction="none") for x in (before, after)]
    right = [x.argmax(1) == labels for x in (before, after)]
    row = found.groups.row(0, named=True)
    assert row["loss_delta"] == pytest.approx((losses[1] - losses[0]).mean().item(), abs=3e-6)
    assert row["loss_delta_se"] == pytest.approx((losses[1] - losses[0]).std().item() / N**0.5, abs=3e-6)
    assert row["right_to_wrong"] == pytest.approx((right[0] & ~right[1]).double().mean().item())
    assert row["wrong_to_right"] == pytest.approx((~right[0] & right[1]).double().mean().item())
    # a group of one is the neuron alone, which is in the table too
    singles = {(r["layer"], r["neuron"], r["value"]): r["loss_delta"] for r in found.table.to_dicts()}
    assert len(singles) == 2 * len(rows)
    for row in found.groups.filter(pl.col("group") == "a").to_dicts():
        assert row["loss_delta"] == pytest.approx(singles["layer1.0", 2, row["value"]], abs=3e-6)


def test_without_the_last_layer_only_the_bias_of_the_head_is_left(model, images):
    inputs, labels = images
    groups = {"layer": ["layer3.0"] * 32, "neuron": list(range(32)), "group": ["all"] * 32}
    found = vestige.ablate(model, images, groups=groups, neurons={}, value="zero", batch_norm="stored").groups
    with torch.no_grad():
        logits = model(inputs).double()
        (head,) = (module for module in model.modules() if isinstance(module, nn.Linear))
        bias = head.bias.double().expand(N, -1)
        losses = [nn.functional.cross_entropy(rows, labels) for rows in (bias, logits)]
        right = [(rows.argmax(1) == labels).double().mean() for rows in (bias, logits)]
    row = found.row(0, named=True)
    assert row["loss_delta"] == pytest.approx(float(losses[0] - losses[1]), abs=1e-6)
    assert row["top1_delta"] == pytest.approx(float(right[0] - right[1]), abs=1e-6)


def test_groups_in_bfloat16_of_a_network_that_is_deep(monkeypatch):
    """Replays round otherwise than the whole network, by more than float32 would ever."""
    monkeypatch.setattr(quickening, "multiplies_bfloat16", lambda device: True)
    model, images = hooked.randomised(torchvision.models.resnet18(num_classes=10)), hooked.images(12, 3, 32)
    groups = {"layer": ["layer1.0", "layer2.0"], "neuron": [1, 2], "group": ["a", "a"]}
    deltas = []
    for dtype in ("float32", "bfloat16"):
        found = vestige.ablate(model, images, groups=groups, batch_norm="stored", dtype=dtype)
        assert found.groups is not None
        deltas.append(found.groups["loss_delta"].item())
    assert 0 < abs(deltas[0] - deltas[1]) < 0.05


ROWS = {"layer": ["layer1.0"] * 3, "neuron": [0, 1, 2]}
NO_GROUPS = {
    "nan": ({**ROWS, "group": ["a", float("nan"), "a"]}, "a group is named nan. Name every group by text or a number."),
    "none": ({**ROWS, "group": ["a", None, "a"]}, "a group is named None. Name every group by text or a number."),
    "list": ({**ROWS, "group": [[1], [1], [2]]}, "a group is named [1], a list. Name every group by text or a number."),
    "alike": (
        {**ROWS, "group": ["1", 1, 1]},
        "2 groups are named 1, as text and otherwise. Give each a name of its own, of one type.",
    ),
    "unequal": (
        {**ROWS, "group": ["a", "b"]},
        "the columns layer, neuron and group have 3, 3 and 2 rows. Give columns of equal length.",
    ),
}


@pytest.mark.parametrize("name", NO_GROUPS)
@pytest.mark.parametrize("layers", [None, ["layer1.0"]])
def test_groups_that_cannot_be_read_are_said_before_any_work(name, layers, model):
    groups, message = NO_GROUPS[name]
    with pytest.raises(ConfigError) as caught:  # the images would be refused when they are read
        vestige.ablate(model, None, layers, groups=groups)
    assert str(caught.value) == f"reading the groups of neurons: {message}"


def test_groups_are_named_as_text(model, images):
    found = vestige.ablate(model, images, groups={**ROWS, "group": ["a", 1, 1]}, batch_norm="stored", batch_size=8)
    assert found.groups is not None
    assert found.groups.select("group", "neurons").rows() == [("a", 1), ("1", 2)]


def test_a_value_that_is_given_twice_is_ablated_once(model, images):
    options = {"neurons": {"layer1.0": [0, 1]}, "batch_norm": "stored", "batch_size": 8}
    twice = vestige.ablate(model, images, value=["zero", "zero"], groups={**ROWS, "group": ["a"] * 3}, **options)
    assert twice.groups is not None
    assert twice.table.height == 2
    assert twice.groups.height == 1
    assert_frame_equal(twice.table, vestige.ablate(model, images, value="zero", **options).table)
