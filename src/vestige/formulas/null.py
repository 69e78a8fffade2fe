"""The class selectivity index under permutations of the labels, for many neurons at once.

Shapes: N images, U neurons (units), C classes, P permutations of the labels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from vestige.formulas.chunks import over_neurons
from vestige.formulas.selectivity import EPSILON, require_two

_WIDTH = 32  # neurons at a time: their activations for 10,000 images stay in a core's cache
_BLOCK = 16_000  # class sums of a neuron at a time


@dataclass(frozen=True)
class Labellings:
    """Several labellings of the same images, made ready once for all layers; see `labellings`."""

    members: tuple[sparse.csr_array, ...]
    divisor_C: np.ndarray
    number: int

    def csi(self, activations_NU: Tensor) -> Tensor:
        """The class selectivity index of every neuron under every labelling.

        The images of a class are added in their order and in float64, so a neuron's values have the same bits
        whatever neurons stand beside it, and those of two labellings that differ in nothing that matters to it
        are equal. Pass the true labels as one row: its values compare exactly with the permuted ones.

        Args:
          activations_NU: floating point.

        Returns:
          csi_PU, float64.
        """

        def indices(a_Nu: np.ndarray, _: slice) -> np.ndarray:
            # Padded to one width: the order of numpy's additions can depend on the shape.
            padded_Nu = np.zeros((len(a_Nu), _WIDTH))
            padded_Nu[:, : a_Nu.shape[1]] = a_Nu
            csi_Pu = np.concatenate([_index(block @ padded_Nu, self.divisor_C) for block in self.members])
            return csi_Pu[:, : a_Nu.shape[1]]

        if not self.number:
            return torch.empty(0, activations_NU.shape[1], dtype=torch.float64)
        return torch.from_numpy(np.concatenate(over_neurons(indices, activations_NU, _WIDTH), axis=1))


def labellings(labels_PN: Tensor, classes: int, *, from_sums: bool = False) -> Labellings:
    """Make several labellings of the same images ready.

    Args:
      labels_PN: int64, 0..classes-1; every row a permutation of the first.
      classes: C.
      from_sums: the index of class sums, `selectivity.csi_from_sums`, in which a class without an image
        counts as a sum of 0, and not of class means, `selectivity.csi`, in which it is left out.

    Raises:
      DataError: fewer than two classes have images.
    """
    if not len(labels_PN):
        return Labellings((), np.ones(classes), 0)
    counts_C = np.bincount(labels_PN[0].numpy(), minlength=classes)
    assert all(np.array_equal(np.bincount(row_N, minlength=classes), counts_C) for row_N in labels_PN.numpy())
    require_two(torch.from_numpy(counts_C > 0))
    if not from_sums:
        _, labels_PN = torch.unique(labels_PN, return_inverse=True)
        counts_C = counts_C[counts_C > 0]
    divisor_C = np.ones(len(counts_C)) if from_sums else counts_C.astype(np.float64)
    return Labellings(tuple(_members(labels_PN.numpy(), counts_C)), divisor_C, len(labels_PN))


def _members(labels_PN: np.ndarray, counts_C: np.ndarray) -> list[sparse.csr_array]:
    """Which images belong to each class: one row a labelling and class, a matrix for every few labellings."""
    images = labels_PN.shape[1]
    step = max(1, _BLOCK // len(counts_C))
    blocks = []
    for start in range(0, len(labels_PN), step):
        rows_pN = labels_PN[start : start + step]
        columns = rows_pN.argsort(axis=1, kind="stable").astype(np.int32).ravel()
        bounds = np.concatenate([[0], np.tile(counts_C, len(rows_pN)).cumsum()]).astype(np.int32)
        shape = (len(rows_pN) * len(counts_C), images)
        blocks.append(sparse.csr_array((np.ones(len(columns)), columns, bounds), shape=shape))
    return blocks


def _index(sums_rowsU: np.ndarray, divisor_C: np.ndarray) -> np.ndarray:
    means_PCU = sums_rowsU.reshape(-1, len(divisor_C), sums_rowsU.shape[1])
    means_PCU /= divisor_C[:, None]
    highest_PU = means_PCU.max(1)
    rest_PU = (means_PCU.sum(1) - highest_PU) / (len(divisor_C) - 1)
    return (highest_PU - rest_PU) / (highest_PU + rest_PU + EPSILON)
