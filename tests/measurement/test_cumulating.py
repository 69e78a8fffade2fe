"""`vestige.ablate_cumulatively` on a small network."""

from dataclasses import replace

import hooked
import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

import vestige
from vestige.config import CumulativeConfig
from vestige.errors import ConfigError
from vestige.measurement.ablation.cumulative import ablate_cumulatively, rank, split_halves
from vestige.measurement.network import Network
from vestige.runs.tables import IDENTITY, SCHEMAS
from vestige.stats.released import released_sizes

N = 60
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module", name="taught")
def _taught():
    """Images that the network is right about."""
    return right_about(hooked.resnet8())


@torch.no_grad()
def right_about(model: nn.Module):
    inputs, _ = hooked.images(N, 1, 8)
    model.fc.bias -= model(inputs).mean(0)  # every class is somewhere
    return model, (inputs, model(inputs).argmax(1))


def test_halves_fractions_and_areas(taught):
    model, (inputs, labels) = taught
    options = {"orders": ("csi-desc", "random"), "fractions": 5, "draws": 2, "scopes": ("stages", "all")}
    found = vestige.ablate_cumulatively(model, (inputs, labels), batch_norm="stored", batch_size=16, **options)
    assert dict(found.table.schema) == {k: v for k, v in SCHEMAS["cumulative"].items() if k not in IDENTITY}
    ranked_on, ablated_on = split_halves(labels.numpy())
    network = Network.prepare(model, inputs[:2])
    ranking = rank(network, hooked.tiles(inputs[ranked_on], labels[ranked_on], 16))
    expected = ablate_cumulatively(
        network,
        hooked.tiles(inputs[ablated_on], labels[ablated_on], 16),
        ranking=ranking,
        config=CumulativeConfig.model_validate({**options, "values": ("zero",)}),
    )
    assert_frame_equal(found.table, expected.select(pl.col(c).cast(t) for c, t in found.table.schema.items()))
    assert found.intact == {"top1": 1.0, "loss": found.intact["loss"], "n": len(ablated_on)}
    assert found.areas.height == found.table.height / 5
    rows = found.table.filter(scope="layer3", order="csi-desc")
    heights = (rows["top1"].to_numpy().astype(float) - 0.1) / 0.9
    area = np.trapezoid(heights, [0, 0.25, 0.5, 0.75, 1])
    assert found.areas.filter(scope="layer3", order="csi-desc")["area"].item() == pytest.approx(area, abs=1e-6)
    assert "Neurons were ranked on the other half of the images." in found.notes


def test_a_network_near_chance_has_no_area(model, images):
    found = vestige.ablate_cumulatively(model, images, batch_norm="stored", fractions=3, draws=1, scopes=["all"])
    assert found.areas["area"].is_nan().all()


@torch.no_grad()
def test_resampled_sets(taught):
    """Everything of the last stage resampled: the network sees the donor from there on."""
    model, (inputs, labels) = taught
    found = vestige.ablate_cumulatively(
        model,
        (inputs, labels),
        values="resample",
        ranking_data=(inputs, labels),
        orders=["csi-desc"],
        scopes=["stages"],
        fractions=3,
        batch_norm="stored",
        batch_size=16,
    )
    row = found.table.filter(scope="layer3", fraction=1.0).row(0, named=True)
    logits = model(inputs[(torch.arange(N) + N // 2) % N])
    assert row["top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert row["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_pieces_of_a_folder_give_the_same(taught, tmp_path):
    model, images = taught
    options = {"fractions": 3, "draws": 2, "batch_norm": "stored", "batch_size": 16}
    first = vestige.ablate_cumulatively(model, images, **options)
    for _ in range(2):
        again = vestige.ablate_cumulatively(model, images, folder=tmp_path, memory=1, **options)
        assert_frame_equal(again.table, first.table, check_exact=True)


def test_released_sizes_the_released_code():
    assert released_sizes(64) == [0, 15, 30, 32]
    assert released_sizes(256) == [0, 15, 30, 45, 60, 75, 90, 105, 120, 128, 168, 208, 248]


@torch.no_grad()
def test_the_faithful_protocol():
    model, (inputs, labels) = right_about(hooked.resnet8(width=32))  # layers of 32, 64 and 128
    found = vestige.ablate_cumulatively(model, (inputs, labels), protocol="faithful", draws=2, batch_size=16)
    sums = vestige.measure(model, (inputs, labels), protocol="faithful", permutations=0)
    assert found.settings["batch_norm"] == "stored"
    assert found.settings["ranked_on"] == "the same images"
    assert found.intact["n"] == N
    csi = sums.table.filter(layer="layer3.0")["csi"].to_numpy()
    first = np.argsort(-csi, kind="stable")
    rows = found.table.filter(scope="layer3", order="csi-desc")
    sizes = [0, 15, 30, 45, 60, 64, 104]
    assert rows["fraction"].to_list() == [size / 128 for size in sizes]
    for size, row in zip(sizes, rows.to_dicts(), strict=True):
        zeroed = {"layer3.0": (first[:size].tolist(), torch.zeros(size))}
        logits = hooked.hooked_forward(model, inputs, zeroed)
        assert row["top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    area = (rows["top1"] / rows["top1"].max()).sum() * 100
    areas = found.areas.filter(scope="layer3")
    assert areas["order"].to_list() == ["csi-desc", "random", "random"]
    assert areas["area"][0] == pytest.approx(area, rel=1e-6)
    drawn = found.table.filter(scope="layer3", order="random")
    assert drawn.filter(fraction=0.0)["top1"].to_list() == [1.0, 1.0]
    first_draw, second_draw = (drawn.filter(draw=draw)["loss"].to_list() for draw in (0, 1))
    assert first_draw[1:] != second_draw[1:]


def test_faithful_pieces_are_those_of_their_layers(tmp_path):
    model, images = right_about(hooked.resnet8(width=32))
    second, third = vestige.layers(model, images[0][:2])[1:]
    options = {"protocol": "faithful", "draws": 1, "batch_size": 16}
    for some in ([second], [second, replace(third, stage="layer2")]):
        expected = vestige.ablate_cumulatively(model, images, some, **options)
        found = vestige.ablate_cumulatively(model, images, some, folder=tmp_path, **options)
        assert_frame_equal(found.table, expected.table, check_exact=True)


BAD = {
    "protocol": ({"protocol": "true"}, "there is no protocol 'true'. Choose one of 'corrected', 'faithful'."),
    "order": (
        {"orders": ["csi"]},
        "orders has 'csi'. It should be 'csi-desc', 'csi-asc', 'activity-matched' or 'random'.",
    ),
    "fractions": ({"fractions": 2}, "fractions has 2. It should be greater than or equal to 3."),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_said(model, images, name):
    options, message = BAD[name]
    with pytest.raises(ConfigError) as caught:
        vestige.ablate_cumulatively(model, images, **options)
    assert str(caught.value) == f"ablating growing sets of neurons: {message}"
