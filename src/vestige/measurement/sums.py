"""Sums over images from which csi, csi_cv, eta2 and their like follow: memory does not grow with the images.

Shapes: T images of a tile, U neurons (units) of a layer, C classes, H = 2 halves.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.config import Protocol
from vestige.formulas import selectivity as formulas


def halves(labels_T: Tensor, seen_C: Tensor) -> Tensor:
    """Half 0 or 1 of each image: alternate images within each class, in evaluation order.

    Args:
      labels_T: int64, 0..C-1.
      seen_C: how many images of each class came before.
    """
    order_T = labels_T.argsort(stable=True)
    sorted_T = labels_T[order_T]
    place_T = torch.arange(len(labels_T), device=labels_T.device) - torch.searchsorted(sorted_T, sorted_T)
    return torch.empty_like(labels_T).scatter_(0, order_T, (place_T + seen_C[sorted_T].long()) % 2)


def alternate_halves(labels_N: Tensor) -> Tensor:
    """Half 0 or 1 of each of all images: alternate images within each class, in the order given."""
    return halves(labels_N, torch.zeros(int(labels_N.max()) + 1))


@dataclass
class ClassCounts:
    """How many images of each class fell into each half.

    Attributes:
      counts_HC: int64; the halves A and B.
    """

    counts_HC: Tensor

    @classmethod
    def none(cls, classes: int) -> "ClassCounts":
        """No images yet."""
        return cls(torch.zeros(2, classes, dtype=torch.int64))

    @property
    def counts_C(self) -> Tensor:
        """Images of each class."""
        return self.counts_HC.sum(0)

    def take(self, labels_T: Tensor) -> Tensor:
        """Count some more images, int64 labels 0..C-1; the half that each of them falls into."""
        half_T, classes = halves(labels_T, self.counts_C), self.counts_HC.shape[1]
        self.counts_HC += (half_T * classes + labels_T).bincount(minlength=2 * classes).view(2, classes)
        return half_T


@dataclass
class Sums:
    """What is kept of some neurons, float64 (int64 where things are counted).

    Attributes:
      sums_HCU: activations, by half and class.
      squares_U: squared activations.
      raw_U: activations before their absolute value was taken.
      zeros_U: (image, position) that are exactly 0.
      positions_U: (image, position) that were looked at for it.
    """

    sums_HCU: Tensor
    squares_U: Tensor
    raw_U: Tensor
    zeros_U: Tensor
    positions_U: Tensor

    @classmethod
    def none(cls, classes: int, units: int) -> "Sums":
        """No images yet."""
        exact, whole = (torch.zeros(units, dtype=dtype) for dtype in (torch.float64, torch.int64))
        sums_HCU = torch.zeros(2, classes, units, dtype=torch.float64)
        return cls(sums_HCU, exact, exact.clone(), whole, whole.clone())

    def add(self, a_TU: Tensor, raw_TU: Tensor, labels_T: Tensor, half_T: Tensor) -> None:
        """Add the activations of some images, and what they were before their absolute value was taken."""
        wide_TU = a_TU.double()
        classes, units = self.sums_HCU.shape[1:]
        self.sums_HCU.view(-1, units).index_add_(0, half_T * classes + labels_T, wide_TU)
        self.squares_U += wide_TU.square().sum(0)
        self.raw_U += (wide_TU if raw_TU is a_TU else raw_TU.double()).sum(0)

    def of(self, neurons: slice) -> "Sums":
        """Those of some of the neurons."""
        parts = (self.squares_U, self.raw_U, self.zeros_U, self.positions_U)
        return Sums(self.sums_HCU[:, :, neurons], *(part[neurons] for part in parts))


def columns(sums: Sums, counts: ClassCounts, protocol: Protocol) -> dict[str, Tensor]:
    """The columns that sums over images suffice for; see `measurement.selectivity.measure_selectivity`."""
    counts_C, n = counts.counts_C, int(counts.counts_HC.sum())
    sums_CU = sums.sums_HCU.sum(0)
    means_CU = formulas.means_from_sums(sums_CU, counts_C)
    eta2_U = formulas.eta2_from_moments(sums_CU, counts_C.double(), sums.squares_U)
    adjusted_U = formulas.adjusted_eta2(eta2_U, n, int((counts_C > 0).sum()))
    mean_U = sums_CU.sum(0) / n
    preferred_U, second_U = ranked_classes(means_CU)
    mu_max_U, mu_rest_U = formulas.highest_and_rest(means_CU)
    return {
        "csi": index(sums_CU, counts_C, protocol),
        **_split_half(sums, counts),
        "eta2": eta2_U,
        # A neuron that does not vary has nothing to explain, and no bias to take off.
        "eta2_adj": torch.where(_varies(sums, n) | adjusted_U.isnan(), adjusted_U, 0.0),
        "sparsity": formulas.sparsity(mean_U, sums.squares_U / n),
        "closed": sums.zeros_U / sums.positions_U,
        "preferred_class": preferred_U,
        "second_class": second_U,
        "mu_max": mu_max_U,
        "mu_rest": mu_rest_U,
        "mean": sums.raw_U / n,
        "dead": sums.squares_U == 0,
    }


def index(sums_CU: Tensor, counts_C: Tensor, protocol: Protocol) -> Tensor:
    """The class selectivity index as a protocol has it."""
    if protocol == "faithful":
        return formulas.csi_from_sums(sums_CU)
    return formulas.csi(formulas.means_from_sums(sums_CU, counts_C))


def ranked_classes(class_means_CU: Tensor) -> tuple[Tensor, Tensor]:
    """The classes with the highest and with the second highest mean of each neuron; the lower index among equals."""
    means_CU = class_means_CU.nan_to_num(-torch.inf)
    first_U = means_CU.argmax(0)
    return first_U, means_CU.scatter(0, first_U[None], -torch.inf).argmax(0)


def half_means(sums: Sums, counts: ClassCounts) -> tuple[Tensor, Tensor]:
    """class_means_CU over the halves A and B."""
    a_CU, b_CU = map(formulas.means_from_sums, sums.sums_HCU, counts.counts_HC)
    return a_CU, b_CU


def _split_half(sums: Sums, counts: ClassCounts) -> dict[str, Tensor]:
    if (counts.counts_C >= 2).sum() < 2:
        nan_U = torch.full_like(sums.squares_U, torch.nan)
        return {"csi_cv": nan_U, "reliability": nan_U}
    a_CU, b_CU = half_means(sums, counts)
    return {
        "csi_cv": formulas.cross_validated_csi(a_CU, b_CU),
        "reliability": formulas.split_half_reliability(a_CU, b_CU),
    }


def _varies(sums: Sums, n: int) -> Tensor:
    spread_U = sums.squares_U - sums.sums_HCU.sum((0, 1)).square() / n
    return spread_U > 64 * torch.finfo(torch.float64).eps * sums.squares_U
