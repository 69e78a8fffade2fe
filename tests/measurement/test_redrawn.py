"""The released code's control, its sets drawn anew for every layer and batch, against hooks."""

from zlib import crc32

import hooked
import numpy as np
import pytest
import torch
from hooked import TILE

from vestige.config import CumulativeConfig
from vestige.measurement.ablation.blocks import blocks
from vestige.measurement.ablation.redrawn import ablate_redrawn
from vestige.measurement.inputs import batches
from vestige.runs.tables import IDENTITY, SCHEMAS

CONFIG = CumulativeConfig(fractions=3, draws=2, values=("zero", "mean"), scopes=("stages", "all"))


@pytest.fixture(scope="module", name="table")
def _table(network, images, ranking):
    return ablate_redrawn(network, blocks(batches(images, batch_size=TILE), tile=TILE), ranking=ranking, config=CONFIG)


def test_it_has_the_columns_of_a_cumulative_table(table):
    assert dict(table.schema) == {k: v for k, v in SCHEMAS["cumulative"].items() if k not in IDENTITY} | {
        "top1": table["top1"].dtype,
        "loss": table["loss"].dtype,
    }
    assert set(table["order"]) == {"random"}
    assert table.height == 4 * 2 * 2 * 3  # scopes, values, draws, fractions
    assert set(table["scope"]) == {"layer1", "layer2", "layer3", "all"}


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_every_tile_has_sets_of_its_own(model, images, network, ranking, table, value):
    """Half of the neurons of a stage: the loss is that of hooks with other neurons for each tile."""
    inputs, labels = images
    layer = next(layer for layer in network.layers if layer.stage == "layer2")
    assert sum(other.stage == "layer2" for other in network.layers) == 1
    total, sets = 0.0, []
    for number, start in enumerate(range(0, len(labels), TILE)):
        generator = np.random.default_rng([1, number, crc32(layer.name.encode())])
        for size in (0, layer.units // 2):  # the generator goes on from point to point
            chosen = generator.permutation(layer.units)[:size].tolist()
        sets.append(sorted(chosen))
        written = ranking.mean[layer.name][chosen].float() if value == "mean" else torch.zeros(len(chosen))
        part = slice(start, start + TILE)
        logits = hooked.hooked_forward(model, inputs[part], {layer.name: (chosen, written)}).double()
        total += torch.nn.functional.cross_entropy(logits, labels[part], reduction="sum").item()
    found = table.filter(scope="layer2", value=value, draw=1, fraction=0.5)["loss"].item()
    assert found == pytest.approx(total / len(labels), abs=1e-5)
    assert len({tuple(chosen) for chosen in sets}) == len(sets) > 1


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_draws_agree_where_there_is_nothing_to_draw(table, fraction):
    for scope in ("layer1", "all"):
        assert table.filter(fraction=fraction, scope=scope, value="zero")["loss"].n_unique() == 1
    assert table.filter(fraction=0.5, scope="all", value="zero")["loss"].n_unique() == 2
