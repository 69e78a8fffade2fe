"""A small network and images that linearity is measured on, and what it computes, by hooks."""

import numpy as np
import polars as pl
import torch
from hooked import hooked_maps

from vestige.config import ModelConfig
from vestige.data.loader import Tile
from vestige.measurement.linearity import measure_linearity
from vestige.measurement.network import Network
from vestige.models.zoo import build

N, C = 60, 3
LAYERS = ("layer1.0", "layer2.0", "layer3.0")
LABELS = torch.arange(N) % C


def fresh():
    """A network in float64, so that the anchor is affine to 1e-12 and the references agree to 1e-9."""
    model = build(ModelConfig(name="resnet8", width=4), classes=C, channels=1, size=8, seed=0)
    return model.double().eval()


def tiles_of(inputs, labels, size):
    """Tiles padded with a strange image, which must not count."""
    for start in range(0, len(inputs), size):
        x, y = inputs[start : start + size], labels[start : start + size]
        short = size - len(x)
        x_T = torch.cat([x, torch.full((short, *x.shape[1:]), 9.0, dtype=x.dtype)])
        yield Tile(x_T, torch.cat([y, y.new_zeros(short)]), len(x), np.arange(size))


def measured(model, inputs, labels=LABELS, size=32, **settings):
    network = Network.prepare(model, torch.zeros(2, 1, 8, 8, dtype=inputs.dtype))
    return measure_linearity(network, tiles_of(inputs, labels, size), **settings)


def values(table, measure):
    rows = table.filter(pl.col("measure") == measure)
    return {(row["layer"], row["other"]): row["value"] for row in rows.iter_rows(named=True)}


def maps_by_hooks(model, inputs):
    """Whole maps of each layer, by forward hooks on the model itself, and its logits."""
    found, logits = hooked_maps(model, inputs, LAYERS)
    return found | {"logits": logits}
