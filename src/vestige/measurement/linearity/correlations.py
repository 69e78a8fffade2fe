"""The paper's linearity: mean |Pearson r| between layers of a number an image, of the k largest or of k fixed channels.

Shapes: N images, U neurons (units) of a layer, L layers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vestige.formulas import linearity as formulas
from vestige.formulas.selectivity import class_means, csi
from vestige.measurement.linearity.pooling import Pooled
from vestige.measurement.linearity.rows import ALL, LOGITS, Row
from vestige.measurement.linearity.sampling import SEED
from vestige.measurement.network import Network

Channels = dict[str, dict[str, Tensor]]


def choose_channels(network: Network, pooled: Pooled, labels_N: Tensor, k: int) -> Channels:
    """The k fixed channels of each layer, best first: "fixed", drawn once; "csi", those of highest CSI."""
    generator = np.random.default_rng(SEED)
    chosen: Channels = {"fixed": {}, "csi": {}}
    for name in pooled.names:
        values_NU = pooled.of(name)
        chosen["fixed"][name] = torch.from_numpy(generator.permutation(values_NU.shape[1])[:k])
        if name != LOGITS:
            means_CU = class_means(values_NU, labels_N, network.classes)
            chosen["csi"][name] = csi(means_CU).argsort(descending=True, stable=True)[:k]
    return chosen


def correlation_rows(
    network: Network, pooled: Pooled, labels_N: Tensor, channels: Channels, top_k: Sequence[int]
) -> dict[Row, float]:
    """`correlation-topK`, `correlation-fixedK` and `correlation-csiK` for each K, of the whole network."""
    stages = [*(layer.stage for layer in network.layers), LOGITS]
    scores: dict[tuple[str, int], list[Tensor]] = {(kind, k): [] for kind in ("top", "fixed", "csi") for k in top_k}
    for name in pooled.names:
        values_NU = pooled.of(name)
        for (kind, k), of_layers in scores.items():
            chosen = channels.get(kind, {}).get(name)
            of_layers.append(
                formulas.largest_mean(values_NU, k) if chosen is None else values_NU[:, chosen[:k]].mean(1)
            )
    rows = {}
    for (kind, k), of_layers in scores.items():
        correlation = formulas.cross_layer_correlation(
            torch.stack(of_layers, 1), labels_N, stages, rounding=network.rounding
        )
        rows[f"correlation-{kind}{k}", ALL, ""] = correlation.item()
    return rows
