"""Which neurons to replace first and what by, from one half of the images; the other half is for ablating."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from vestige.config import Protocol
from vestige.data.loader import Tile
from vestige.errors import DataError, check_known
from vestige.measurement.keeping import Place
from vestige.measurement.network import Network
from vestige.measurement.selectivity import measure_selectivity
from vestige.measurement.sums import alternate_halves

ORDERS = ("csi-desc", "csi-asc", "activity-matched", "random")
DRAWN = ("activity-matched", "random")
"""Orders of which there are many: each seeded draw is another."""
DECILES = 10


@dataclass(frozen=True)
class Ranking:
    """What the ranking half says of every neuron, by layer name.

    Attributes:
      csi: class selectivity index, float64, (U,).
      mean: mean activation over images and positions, float64, (U,): what the value `mean` writes.
      preferred: class with the highest mean activation, int64, (U,).
    """

    csi: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]
    preferred: Mapping[str, Tensor]


def split_halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share out images: within each class alternately to ranking and to ablation, in the order given.

    Args:
      labels: (N,) int64.

    Returns:
      places in `labels` of the ranking half and of the ablation half, ascending.

    Raises:
      DataError: no class has two images.
    """
    half_N = alternate_halves(torch.from_numpy(np.asarray(labels, dtype=np.int64))).numpy()
    if not half_N.any():
        raise DataError(
            "halving the images, to rank neurons on one half and ablate on the other",
            found=f"none of {len(labels)} images shares its class with another",
            remedy="Give at least two images of each class",
        )
    return np.flatnonzero(half_N == 0), np.flatnonzero(half_N == 1)


def rank(network: Network, tiles: Iterable[Tile], *, protocol: Protocol = "corrected") -> Ranking:
    """Rank every neuron on the images of the ranking half.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images.
      protocol: see `measure_selectivity`.

    Raises:
      DataError: images of fewer than two classes, or labels outside the model's classes.
      ModelError: the network has diverged.
    """
    result = measure_selectivity(network, tiles, protocol=protocol, permutations=0, place=Place(0.0))
    csi = {
        str(name): torch.from_numpy(rows["csi"].to_numpy().copy())
        for (name,), rows in result.table.group_by("layer", maintain_order=True)
    }
    return Ranking(csi, result.mean_activation, result.preferred)


def replaced_first(order: str, csi_U: np.ndarray, mean_U: np.ndarray, *, layer: str, draw: int) -> np.ndarray:
    """The order in which a layer's neurons are replaced.

    Args:
      order: `csi-desc`, `csi-asc`: by the index, the lower neuron first among equals; `random`: a seeded
        order; `activity-matched`: `csi-desc` with the neurons of each decile of mean activation shuffled
        among the places that they hold in it, so that at every place it has a neuron of the same decile.
      csi_U, mean_U: index and mean activation of the layer's neurons.
      layer: its name: another layer is shuffled otherwise.
      draw: which of the seeded orders.

    Returns:
      indices of the U neurons.

    Raises:
      ConfigError: there is no such order.
    """
    check_known("ordering neurons to ablate", "order", order, ORDERS)
    if order == "csi-asc":
        return np.argsort(csi_U, kind="stable")
    chances_U = np.random.default_rng([draw, crc32(f"{order} {layer}".encode())]).random(len(csi_U))
    if order == "random":
        return np.argsort(chances_U, kind="stable")
    descending_U = np.argsort(-csi_U, kind="stable")
    return descending_U if order == "csi-desc" else _matched(descending_U, mean_U, chances_U)


def _matched(descending_U: np.ndarray, mean_U: np.ndarray, chances_U: np.ndarray) -> np.ndarray:
    decile_U = np.empty(len(mean_U), dtype=np.int64)
    decile_U[np.argsort(mean_U, kind="stable")] = np.arange(len(mean_U)) * DECILES // len(mean_U)
    matched_U = descending_U.copy()
    for decile in range(DECILES):
        places = np.flatnonzero(decile_U[descending_U] == decile)
        matched_U[places] = descending_U[places[np.argsort(chances_U[places], kind="stable")]]
    return matched_U
