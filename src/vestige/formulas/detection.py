"""How well one neuron detects its class: AUROC, informedness, precision among its top images.

Shapes: N images, U neurons (units), C classes, K images of the largest class, k top images.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vestige.formulas.chunks import over_neurons
from vestige.formulas.selectivity import in_both_halves

_WIDTH = 64  # neurons at a time
_FEWEST = 5  # images that a precision is worth reporting from


def cross_validated_detection(
    activations_NU: Tensor, labels_N: Tensor, half_N: Tensor, means_a_CU: Tensor, means_b_CU: Tensor
) -> tuple[Tensor, Tensor]:
    """AUROC and informedness of a neuron as a detector of its class, chosen on images it is not judged on.

    The class is c* = argmax mu_A, as in `selectivity.cross_validated_csi`; an image is taken for c* where the
    activation is at least the threshold that maximises TPR - FPR on half A, the highest of several. Both are
    judged on half B; halves swapped; averaged. A tie counts half in the AUROC. Without signal they average
    0.5 and 0.

    Args:
      activations_NU: floating point, finite.
      labels_N: int64, 0..C-1.
      half_N: 0 or 1, the half (A or B) of each image.
      means_a_CU: class means over half A. The images of a class with a row of NaN in either half, so of one
        with a single image, are left out.
      means_b_CU: class means over half B.

    Returns:
      auroc_U in [0, 1] and informedness_U in [-1, 1], float64. A half in which the neuron never fires names no
      class and contributes 0.5 and 0, which is also what one that does not vary has.

    Raises:
      DataError: fewer than two classes have images in both halves.

    References:
      Hanley & McNeil (1982), The meaning and use of the area under a ROC curve; Gale et al. (2020), Are there
      any 'object detectors' in the hidden layers of CNNs trained to identify objects or scenes?
    """
    present_C = in_both_halves(means_a_CU, means_b_CU)
    means = [means_CU.where(present_C[:, None], -torch.inf) for means_CU in (means_a_CU, means_b_CU)]
    chosen = [means_CU.argmax(0).numpy() for means_CU in means]
    named = [(means_CU[present_C] != 0).any(0).numpy() for means_CU in means]
    kept_N = present_C[labels_N]
    halves = [_Half(labels_N, kept_N & (half_N == half), len(present_C)) for half in (0, 1)]

    def detect(a_Nu: np.ndarray, neurons: slice) -> np.ndarray:
        values = [half.values(a_Nu) for half in halves]
        scores_2u = np.zeros((2, a_Nu.shape[1]))
        for a, b in ((0, 1), (1, 0)):
            class_u = chosen[a][neurons]
            on_a, on_b = halves[a].samples(values[a], class_u), halves[b].samples(values[b], class_u)
            found_2u = np.stack([_auroc(on_b), _informedness(on_b, _threshold(on_a))])
            scores_2u += np.where(named[a][neurons], found_2u, [[0.5], [0]]) / 2
        return scores_2u

    scores_2U = np.concatenate(over_neurons(detect, activations_NU, _WIDTH), axis=1)
    return torch.from_numpy(scores_2U[0].copy()), torch.from_numpy(scores_2U[1].copy())


class _Samples(NamedTuple):
    """Activations of u neurons, ascending: of all n images of a half, and of those of each neuron's class."""

    all_un: np.ndarray
    class_uK: np.ndarray  # after the class's images: infinity
    count_u: np.ndarray  # images of the class


class _Half:
    """The images of one half."""

    def __init__(self, labels_N: Tensor, inside_N: Tensor, classes: int):
        self._images_n = inside_N.nonzero()[:, 0].numpy()
        labels_n = labels_N.numpy()[self._images_n]
        self._counts_C = np.bincount(labels_n, minlength=classes)
        order_n = labels_n.argsort(kind="stable")
        first_C = self._counts_C.cumsum() - self._counts_C
        place_K = np.arange(self._counts_C.max())
        self._outside_CK = place_K >= self._counts_C[:, None]
        self._images_CK = order_n[np.where(self._outside_CK, 0, first_C[:, None] + place_K)]

    def values(self, a_Nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Activations of this half's images, as they come and ascending, (u, n)."""
        values_un = np.ascontiguousarray(a_Nu[self._images_n].T)
        return values_un, np.sort(values_un, axis=1)

    def samples(self, values: tuple[np.ndarray, np.ndarray], class_u: np.ndarray) -> _Samples:
        """With `values` of this half, and the class of each neuron."""
        values_un, all_un = values
        class_uK = np.take_along_axis(values_un, self._images_CK[class_u], axis=1)
        class_uK[self._outside_CK[class_u]] = np.inf
        return _Samples(all_un, np.sort(class_uK, axis=1), self._counts_C[class_u])


def _auroc(on_b: _Samples) -> np.ndarray:
    below_uK = _below(on_b.all_un, on_b.class_uK) + _below(on_b.all_un, on_b.class_uK, or_equal=True)
    others_u = on_b.all_un.shape[1] - on_b.count_u
    # Among themselves the images of the class win as often as they lose: count^2 / 2, ties included.
    wins_u = np.where(_inside(on_b), below_uK, 0).sum(1) / 2 - on_b.count_u**2 / 2
    return wins_u / (on_b.count_u * others_u)


def _threshold(on_a: _Samples) -> np.ndarray:
    """The highest activation at which TPR - FPR is greatest; only an image of the class can raise it."""
    others_u1 = (on_a.all_un.shape[1] - on_a.count_u)[:, None]
    hits_uK = on_a.count_u[:, None] - _below(on_a.class_uK, on_a.class_uK)
    false_uK = on_a.all_un.shape[1] - _below(on_a.all_un, on_a.class_uK) - hits_uK
    # (TPR - FPR) in whole numbers: equals are equal.
    lead_uK = hits_uK * others_u1 - false_uK * on_a.count_u[:, None]
    lead_uK = np.where(_inside(on_a), lead_uK, np.iinfo(np.int64).min)
    last_u = lead_uK.shape[1] - 1 - lead_uK[:, ::-1].argmax(1)
    return on_a.class_uK[np.arange(len(last_u)), last_u]


def _informedness(on_b: _Samples, threshold_u: np.ndarray) -> np.ndarray:
    images = on_b.all_un.shape[1]
    hits_u = ((on_b.class_uK >= threshold_u[:, None]) & _inside(on_b)).sum(1)
    fires_u = images - _below(on_b.all_un, threshold_u[:, None])[:, 0]
    return hits_u / on_b.count_u - (fires_u - hits_u) / (images - on_b.count_u)


def _inside(samples: _Samples) -> np.ndarray:
    return np.arange(samples.class_uK.shape[1]) < samples.count_u[:, None]


def _below(sorted_un: np.ndarray, values_uK: np.ndarray, *, or_equal: bool = False) -> np.ndarray:
    """How many of a row are below (or equal to) each value."""
    found = torch.searchsorted(torch.from_numpy(sorted_un), torch.from_numpy(values_uK), right=or_equal)
    return found.numpy()


def precision_at_k(activations_NU: Tensor, labels_N: Tensor, classes: int, most: int = 60) -> tuple[Tensor, Tensor]:
    """Share of the commonest class among the images that a neuron fires most for.

    k = min(most, images of the smallest class that has any, images for which the neuron's activation is
    positive); of images that tie for the k-th place the first are taken.

    Args:
      activations_NU: floating point, finite.
      labels_N: int64, 0..classes-1.
      classes: C.
      most: the largest k.

    Returns:
      precision_U, float64, NaN where k < 5 (so for a dead neuron); k_U, int64.

    References:
      Zhou et al. (2015), Object detectors emerge in deep scene CNNs, take the 60 top images of a neuron.
    """
    labels = labels_N.numpy()
    counts_C = np.bincount(labels, minlength=classes)
    most = min(most, int(counts_C[counts_C > 0].min(initial=most)))

    def precision(a_Nu: np.ndarray, _: slice) -> tuple[np.ndarray, np.ndarray]:
        values_uN = np.ascontiguousarray(a_Nu.T)
        k_u = np.minimum((values_uN > 0).sum(1), most)
        label_uk = labels[_top(values_uN, k_u, most)]
        label_uk = np.where(np.arange(most) < k_u[:, None], label_uk, -1 - np.arange(most))  # padding: no two alike
        modal_u = (label_uk[:, :, None] == label_uk[:, None, :]).sum(2).max(1, initial=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(k_u >= _FEWEST, modal_u / k_u, np.nan), k_u

    found = over_neurons(precision, activations_NU, _WIDTH)
    precision_U, k_U = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return torch.from_numpy(precision_U), torch.from_numpy(k_U)


def _top(values_uN: np.ndarray, k_u: np.ndarray, most: int) -> np.ndarray:
    """The `most` images with the highest activations; the first k are the first of those that tie."""
    wanted = min(most + 1, values_uN.shape[1])
    top_uk, images_uk = (t.numpy() for t in torch.from_numpy(values_uN).topk(wanted, dim=1))
    images_uk = images_uk[:, :most].copy()
    rows_u = np.arange(len(k_u))
    beyond_u = np.minimum(k_u, wanted - 1)
    tied_u = (k_u > 0) & (beyond_u == k_u) & (top_uk[rows_u, beyond_u] == top_uk[rows_u, beyond_u - 1])
    images_uk[tied_u] = np.argsort(-values_uN[tied_u], axis=1, kind="stable")[:, :most]
    return images_uk
