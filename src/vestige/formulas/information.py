"""Mutual information of an image's class and a neuron's binned activation, in bits, without its bias.

Shapes: N images, U neurons (units), C classes, B bins of the activation.
"""

import numpy as np
import torch
from scipy.special import gammaln, xlogy
from torch import Tensor

from vestige.formulas.chunks import over_neurons

_BINS = 8  # of positive activations, beside one for zeros
_WIDTH = 16  # neurons at a time
_TERMS = 1_000_000  # of the hypergeometric sums at a time


def mutual_information(activations_NU: Tensor, labels_N: Tensor, classes: int, *, signed: bool = False) -> Tensor:
    """I(class; binned activation) in bits, less its mean over all permutations of the labels.

    With n_bc the images of class c in bin b, I = sum n_bc / N log2(N n_bc / (n_b n_c)) is biased upward by
    chance; its exact expectation over the permutations of the labels, in which every n_bc is hypergeometric,
    is subtracted. The difference is not clipped: it averages 0 without signal.

    Args:
      activations_NU: floating point, finite.
      labels_N: int64, 0..classes-1.
      classes: C.
      signed: activations can be negative. Then there are 9 bins of equal counts; else one for activations
        that are not positive and 8 of equal counts for those that are. Equal activations share a bin, that of
        the first of them in ascending order, so bins can be uneven or empty.

    Returns:
      information_U, float64; 0 for a neuron that does not vary.

    References:
      Vinh, Epps & Bailey (2010), Information theoretic measures for clusterings comparison (theorem 3.2).
    """
    labels = labels_N.numpy()
    counts_C = np.bincount(labels, minlength=classes)
    bins = _BINS + 1

    def count(a_Nu: np.ndarray, _: slice) -> tuple[np.ndarray, np.ndarray]:
        values_uN = np.ascontiguousarray(a_Nu.T)
        bin_uN = _bins(values_uN, bins if signed else _BINS, signed=signed)
        cell_uN = bin_uN + bins * (labels + classes * np.arange(len(values_uN))[:, None])
        n_uCB = np.bincount(cell_uN.ravel(), minlength=len(values_uN) * classes * bins)
        n_uCB = n_uCB.reshape(-1, classes, bins)
        return _plogp(n_uCB).sum((1, 2)), n_uCB.sum(1)

    found = over_neurons(count, activations_NU, _WIDTH)
    joint_U, n_UB = (np.concatenate(parts) for parts in zip(*found, strict=True))
    sizes, place_UB = np.unique(n_UB, return_inverse=True)
    expected_UB = expected_joint(sizes, counts_C)[place_UB.reshape(n_UB.shape)]
    # The entropies of the bins and of the classes are the same under every permutation, and cancel.
    information_U = (joint_U - expected_UB.sum(1)) / len(labels)
    return torch.from_numpy(np.where((n_UB == len(labels)).any(1), 0.0, information_U))


def expected_joint(bin_sizes: np.ndarray, class_sizes: np.ndarray) -> np.ndarray:
    """sum_c E[n_bc log2 n_bc] of bins of the given sizes over the permutations of the labels.

    n_bc is hypergeometric: the images of class c among the n_b of bin b, drawn from all N.

    Args:
      bin_sizes: distinct bins, int64, each 0..N.
      class_sizes: images by class, int64; N is their sum.

    Returns:
      One number a bin, float64.
    """
    images = int(class_sizes.sum())
    log_factorial = gammaln(np.arange(images + 1) + 1.0)
    total = np.zeros(len(bin_sizes))
    for size, times in zip(*np.unique(class_sizes[class_sizes > 0], return_counts=True), strict=True):
        total += times * _expected_plogp(bin_sizes, int(size), images, log_factorial)
    return total


def _expected_plogp(a_B: np.ndarray, b: int, images: int, log_factorial: np.ndarray) -> np.ndarray:
    """E[n log2 n] for n hypergeometric: the members of a group of b among a, drawn from all images."""
    mean_B = a_B * (b / images)
    variance_B = mean_B * (1 - b / images) * (images - a_B) / max(images - 1, 1)
    # Beyond this the probability is below 1e-25 (Bernstein's inequality).
    reach_B = 12 * np.sqrt(variance_B) + 40
    low_B = np.maximum(np.maximum(1, a_B + b - images), np.floor(mean_B - reach_B)).astype(np.int64)
    high_B = np.minimum(np.minimum(a_B, b), np.ceil(mean_B + reach_B)).astype(np.int64)
    expected_B = np.empty(len(a_B))
    step = max(1, _TERMS // int((high_B - low_B + 1).max(initial=1)))
    for start in range(0, len(a_B), step):
        part = slice(start, start + step)
        a, low, high = a_B[part, None], low_B[part, None], high_B[part, None]
        n = low + np.arange(int((high - low).max()) + 1 if (high >= low).any() else 0)
        inside = n <= high
        n = np.where(inside, n, low)
        inside &= n <= np.minimum(a, b)
        n = np.where(inside, n, np.minimum(a, b))
        log_chance = (log_factorial[a] + log_factorial[b] + log_factorial[images - a] + log_factorial[images - b]) - (
            log_factorial[images]
            + log_factorial[n]
            + log_factorial[a - n]
            + log_factorial[b - n]
            + log_factorial[images - a - b + n]
        )
        expected_B[part] = np.where(inside, np.exp(log_chance) * _plogp(n), 0).sum(1)
    return expected_B


def _plogp(n: np.ndarray) -> np.ndarray:
    return xlogy(n, n) / np.log(2)


def _bins(values_uN: np.ndarray, bins: int, *, signed: bool) -> np.ndarray:
    """The bin of each activation: bin 0 those not positive (not if signed), then `bins` of equal counts.

    An activation that m of the M binned ones are below goes to the floor(bins m / M)-th.
    """
    ascending_uN = np.sort(values_uN, axis=1)
    images = values_uN.shape[1]
    unbinned_u = np.zeros(len(values_uN), np.int64) if signed else (values_uN <= 0).sum(1)
    binned_u = images - unbinned_u
    bin_uN = np.zeros(values_uN.shape, np.uint8) if signed else (values_uN > 0).astype(np.uint8)
    for number in range(1, bins):
        # m >= number M / bins: the activation exceeds the one in that place.
        place_u = unbinned_u + -(-number * binned_u // bins) - 1
        edge_u = np.where(binned_u > 0, ascending_uN[np.arange(len(place_u)), np.maximum(place_u, 0)], np.inf)
        bin_uN += values_uN > edge_u[:, None]
    return bin_uN
