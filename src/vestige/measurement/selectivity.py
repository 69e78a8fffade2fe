"""Class selectivity of every neuron of a network: one pass over the images, then formulas on (N, U).

Shapes: N images, U neurons (units) of a layer, C classes, P permutations of the labels.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vestige.config import Protocol
from vestige.data.loader import Tile
from vestige.errors import ConfigError, nearest
from vestige.formulas import selectivity as formulas
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.models.layers import Layer, pooled

_DOING = "measuring selectivity"


@dataclass(frozen=True)
class SelectivityResult:
    """Class selectivity of every neuron.

    Attributes:
      table: one row a neuron, the columns of the schema "selectivity" but for the identity of the run.
      class_means: class_means_CU by layer name, float64; NaN where a class has no image.
      mean_activation: mean over images and positions by layer name, float64, (U,).
      loss: mean cross-entropy of the images, in nats.
      top1: share of the images whose class has the highest logit.
      n: images measured.
    """

    table: pl.DataFrame
    class_means: dict[str, Tensor]
    mean_activation: dict[str, Tensor]
    loss: float
    top1: float
    n: int

    @property
    def preferred(self) -> dict[str, Tensor]:
        """The class with the highest mean of each neuron by layer name, int64, (U,)."""
        return {name: _ranked_classes(means_CU)[0] for name, means_CU in self.class_means.items()}


def measure_selectivity(
    network: Network, tiles: Iterable[Tile], *, protocol: Protocol = "corrected", permutations: int = 100
) -> SelectivityResult:
    """Measure the class selectivity of every neuron.

    A neuron's activation for an image is its spatial mean, taken in float64, as all that follows. The
    columns, and what they hold at the edges (a *dead* neuron gives exactly 0 for every image and position):

    - csi: formulas.csi; dead: 0. csi_null_mean, csi_null_q95: over the permutations; NaN without. csi_excess.
    - csi_cv, reliability: halves A and B are alternate images of each class, in the order given; classes
      with fewer than 2 images are left out; NaN where fewer than 2 classes remain. Dead: 0; NaN.
    - eta2, eta2_adj: 0 for a neuron that does not vary; eta2_adj is NaN where every class has one image.
    - sparsity: NaN for dead. closed: share of (image, position) exactly 0. mean: over images and positions.
    - p_value: of csi, pooled within the layer; 1 for a neuron whose csi no permutation changes; NaN without.
    - preferred_class, second_class: the highest and second highest class mean; the lowest index among equals.
      mu_max: the highest class mean; mu_rest: mean of the others.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images, in evaluation order.
      protocol: "faithful" takes class sums in place of class means, as the released code does, in csi and
        its null (so csi_null_*, csi_excess and p_value too); the columns it does not know stay as they are.
      permutations: P, of the whole label vector, the same for all neurons and checkpoints; 0 for none.

    Raises:
      ConfigError: there is no such protocol.
      DataError: no images, labels outside the model's classes, or images of fewer than two classes.
      ModelError: the network has diverged.
    """
    if protocol not in get_args(Protocol):
        raise ConfigError(
            _DOING, found=f"there is no protocol {protocol!r}", remedy=nearest(protocol, get_args(Protocol))
        )
    sweep = _sweep(network, tiles)
    labels_N, logits_NC = torch.cat(sweep.labels), torch.cat(sweep.logits)
    check_finite(logits_NC, "its output", doing=_DOING)
    permuted_PN = permuted_labels(labels_N, permutations)
    frames, class_means, mean_activation = [], {}, {}
    for layer in network.layers:
        activations_NU = torch.cat(sweep.pooled.pop(layer.name))
        check_finite(activations_NU, f"layer {layer.name}", doing=_DOING)
        columns, means_CU = _neurons(activations_NU, labels_N, network.classes, permuted_PN, protocol)
        columns["closed"] = sweep.closed[layer.name].double() / (len(labels_N) * sweep.positions[layer.name])
        frames.append(_frame(layer, columns))
        class_means[layer.name], mean_activation[layer.name] = means_CU, columns["mean"]
    return SelectivityResult(
        pl.concat(frames),
        class_means,
        mean_activation,
        loss=cross_entropy(logits_NC, labels_N).item(),
        top1=(logits_NC.argmax(1) == labels_N).double().mean().item(),
        n=len(labels_N),
    )


def permuted_labels(labels_N: Tensor, permutations: int) -> Tensor:
    """Permutations of a label vector that depend on it and on their number alone, (P, N)."""
    labels = labels_N.numpy().astype("<i8")
    seed = hashlib.sha256(labels.tobytes() + permutations.to_bytes(8, "little")).digest()
    generator = np.random.default_rng(int.from_bytes(seed, "little"))
    permuted = [generator.permutation(labels) for _ in range(permutations)]
    return torch.from_numpy(np.array(permuted, dtype=np.int64).reshape(permutations, len(labels_N)))


def alternate_halves(labels_N: Tensor) -> Tensor:
    """Half 0 or 1 of each image: alternate images within each class, in the order given."""
    order_N = labels_N.argsort(stable=True)
    sorted_N = labels_N[order_N]
    place_N = torch.arange(len(labels_N)) - torch.searchsorted(sorted_N, sorted_N)
    return torch.empty_like(labels_N).scatter_(0, order_N, place_N % 2)


@dataclass
class _Sweep:
    """What one pass over the images leaves, by layer name where it is a dict."""

    labels: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    pooled: dict[str, list[Tensor]] = field(default_factory=dict)
    closed: dict[str, Tensor] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)


def _sweep(network: Network, tiles: Iterable[Tile]) -> _Sweep:
    sweep = _Sweep(pooled={layer.name: [] for layer in network.layers})
    for tile in tiles:
        labels_N = tile.labels[: tile.valid].cpu()
        check_labels(labels_N, network.classes, doing=_DOING)
        logits_NC, activations = network.forward(tile.inputs)
        sweep.labels.append(labels_N)
        sweep.logits.append(logits_NC[: tile.valid].double().cpu())
        for layer in network.layers:
            maps = activations[layer.name][: tile.valid]
            around = [d for d in range(maps.ndim) if d != layer.axis]
            sweep.pooled[layer.name].append(pooled(maps, layer.axis, dtype=torch.float64).cpu())
            sweep.closed[layer.name] = sweep.closed.get(layer.name, 0) + (maps == 0).sum(around).cpu()
            sweep.positions[layer.name] = maps[0].numel() // layer.units
    if not sweep.labels:
        check_labels(torch.empty(0), network.classes, doing=_DOING)
    return sweep


def _neurons(
    activations_NU: Tensor, labels_N: Tensor, classes: int, permuted_PN: Tensor, protocol: Protocol
) -> tuple[dict[str, Tensor], Tensor]:
    """The columns of a layer's neurons (but closed), and their class means."""
    sums_CU, counts_C = formulas.class_sums(activations_NU, labels_N, classes)
    means_CU = formulas.means_from_sums(sums_CU, counts_C)
    csi_U = _index(sums_CU, counts_C, protocol)
    eta2_U = formulas.eta2(activations_NU, labels_N, classes)
    adjusted_U = formulas.adjusted_eta2(eta2_U, len(labels_N), int((counts_C > 0).sum()))
    constant_U = activations_NU.amin(0) == activations_NU.amax(0)
    mean_U = activations_NU.mean(0)
    preferred_U, second_U = _ranked_classes(means_CU)
    mu_max_U, mu_rest_U = formulas.highest_and_rest(means_CU)
    null_PU = _null(activations_NU, permuted_PN, counts_C, protocol)
    return {
        "csi": csi_U,
        **_against_null(csi_U, null_PU),
        **_split_half(activations_NU, labels_N, classes),
        "eta2": eta2_U,
        "eta2_adj": torch.where(constant_U & adjusted_U.isfinite(), 0.0, adjusted_U),
        "sparsity": formulas.sparsity(mean_U, activations_NU.square().mean(0)),
        "preferred_class": preferred_U,
        "second_class": second_U,
        "mu_max": mu_max_U,
        "mu_rest": mu_rest_U,
        "mean": mean_U,
        "dead": (activations_NU == 0).all(0),
    }, means_CU


def _index(sums_CU: Tensor, counts_C: Tensor, protocol: Protocol) -> Tensor:
    if protocol == "faithful":
        return formulas.csi_from_sums(sums_CU)
    return formulas.csi(formulas.means_from_sums(sums_CU, counts_C))


def _null(activations_NU: Tensor, permuted_PN: Tensor, counts_C: Tensor, protocol: Protocol) -> Tensor:
    """The index under each permutation of the labels, (P, U)."""
    null_PU = activations_NU.new_empty(len(permuted_PN), activations_NU.shape[1])
    for csi_U, labels_N in zip(null_PU, permuted_PN, strict=True):
        # Adding rows takes N x U operations, the product with one-hot labels N x U x C.
        sums_CU = activations_NU.new_zeros(len(counts_C), activations_NU.shape[1])
        csi_U.copy_(_index(sums_CU.index_add_(0, labels_N, activations_NU), counts_C, protocol))
    return null_PU


def _against_null(csi_U: Tensor, null_PU: Tensor) -> dict[str, Tensor]:
    if not len(null_PU):
        names = ("csi_null_mean", "csi_null_q95", "csi_excess", "p_value")
        return dict.fromkeys(names, torch.full_like(csi_U, torch.nan))
    return {
        "csi_null_mean": null_PU.mean(0),
        "csi_null_q95": null_PU.quantile(0.95, dim=0),
        "csi_excess": csi_U - null_PU.mean(0),
        "p_value": formulas.layer_p_values(csi_U, null_PU),
    }


def _split_half(activations_NU: Tensor, labels_N: Tensor, classes: int) -> dict[str, Tensor]:
    half_N = alternate_halves(labels_N)
    a_CU, b_CU = (
        formulas.class_means(activations_NU[half_N == half], labels_N[half_N == half], classes) for half in (0, 1)
    )
    if (labels_N.bincount() >= 2).sum() < 2:
        nan_U = activations_NU.new_full(activations_NU.shape[1:], torch.nan)
        return {"csi_cv": nan_U, "reliability": nan_U}
    return {
        "csi_cv": formulas.cross_validated_csi(a_CU, b_CU),
        "reliability": formulas.split_half_reliability(a_CU, b_CU),
    }


def _ranked_classes(class_means_CU: Tensor) -> tuple[Tensor, Tensor]:
    """The classes with the highest and with the second highest mean of each neuron."""
    means_CU = class_means_CU.nan_to_num(-torch.inf)
    first_U = means_CU.argmax(0)
    return first_U, means_CU.scatter(0, first_U[None], -torch.inf).argmax(0)


def _frame(layer: Layer, columns: dict[str, Tensor]) -> pl.DataFrame:
    neurons = pl.DataFrame({name: column.numpy() for name, column in columns.items()})
    return neurons.select(
        pl.lit(layer.stage).alias("stage"),
        pl.lit(layer.name).alias("layer"),
        pl.int_range(pl.len(), dtype=pl.Int32).alias("neuron"),
        pl.all(),
    )
