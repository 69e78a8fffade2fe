"""How much of what a network knows of the classes a linear model explains: 1 - I(F;Y|L) / I(F;Y), without bias.

F is what the network predicts for an image, Y the image's class, L what a linear model of its pixels predicts.
Shapes: N images, C classes.
"""

from dataclasses import dataclass
from math import nan

import numpy as np
import torch
from scipy.special import xlogy
from torch import Tensor

from vestige.formulas.information import expected_joint

LEAST_INFORMATION = 0.1
"""Bits of I(F;Y); a share of less says nothing."""
_IMAGES_A_CELL = 5


@dataclass(frozen=True)
class Explained:
    """What a linear model explains of a network's predictions.

    Attributes:
      information: I(F;Y) in bits.
      unexplained: I(F;Y|L) in bits: what the network knows of the classes beyond the linear model.
      groups: so many groups of classes F, Y and L tell apart; where there are as many as classes, the classes.
    """

    information: float
    unexplained: float
    groups: int

    @property
    def share(self) -> float:
        """1 - I(F;Y|L) / I(F;Y): 1 where F is a function of L; NaN where I(F;Y) is below 0.1 bit."""
        return 1 - self.unexplained / self.information if self.information >= LEAST_INFORMATION else nan


def explained_by_linear(predicted_N: Tensor, labels_N: Tensor, linear_N: Tensor) -> Explained:
    """Kalimeris et al.'s comparison of a network with a linear model, without the bias of small samples.

    I(F;Y|L) has C^3 cells, C being the classes that have images, and even its corrected estimate is loose where they
    are nearly empty: with fewer than 5 C^3 images, classes are put into groups beforehand (see `grouped`), and F, Y and
    L are what group. Predictions of classes without images count as one more group.

    Args:
      predicted_N: F, int64.
      labels_N: Y.
      linear_N: L.

    Returns:
      Both terms are NaN where there are too few images for two groups (40).

    References:
      Kalimeris et al. (2019), SGD on neural networks learns functions of increasing complexity; they take
      I(F;Y) - I(F;Y|L) itself.
    """
    present_C = labels_N.unique()
    groups = group_count(len(labels_N), len(present_C))
    if groups < 2:
        return Explained(nan, nan, groups)
    f, y, given = (grouped(of_N, present_C, groups) for of_N in (predicted_N, labels_N, linear_N))
    return Explained(information(f, y), conditional_information(f, y, given), groups)


def group_count(images: int, classes: int) -> int:
    """The most groups G <= C of which G^3 cells have five images each on average, N >= 5 G^3."""
    groups = 0
    while groups < classes and _IMAGES_A_CELL * (groups + 1) ** 3 <= images:
        groups += 1
    return groups


def grouped(classes_N: Tensor, present_C: Tensor, groups: int) -> Tensor:
    """The group of each class: floor(r G / C) of the r-th that has images, runs of neighbours of nearly equal sizes.

    By class index alone. Groups of those that the linear model confuses would leave out just the distinctions that it
    cannot make, and so raise the share.

    Args:
      classes_N: int64.
      present_C: the classes that have images, ascending.
      groups: G.

    Returns:
      0..G-1; G for a class without images.
    """
    rank_N = torch.searchsorted(present_C, classes_N).clamp(max=len(present_C) - 1)
    return torch.where(present_C[rank_N] == classes_N, rank_N * groups // len(present_C), groups)


def information(first_N: Tensor, second_N: Tensor) -> float:
    """I(first; second) in bits, less its mean over all permutations of one of them.

    It averages 0 for independent variables, so it can be slightly negative.

    Args:
      first_N: int64.
      second_N: int64.
    """
    return _excess(first_N.numpy(), second_N.numpy()) / len(first_N)


def conditional_information(first_N: Tensor, second_N: Tensor, given_N: Tensor) -> float:
    """I(first; second | given) in bits, less its mean over all permutations of `first` within strata of `given`.

    Strata are permuted independently, so the expectation is the sum of theirs. It averages 0 where first and second are
    independent given the third; it is 0 where one is a function of it.

    Args:
      first_N: int64.
      second_N: int64.
      given_N: int64.
    """
    first, second, given = first_N.numpy(), second_N.numpy(), given_N.numpy()
    strata = (given == value for value in np.unique(given))
    return sum(_excess(first[stratum], second[stratum]) for stratum in strata) / len(first)


def _excess(first: np.ndarray, second: np.ndarray) -> float:
    """N times the information of two variables in bits, less its mean over permutations.

    The entropies of the two are the same under every permutation: sum n_xy log2 n_xy is what differs.
    """
    joint = _table(first, second)
    if 1 in joint.shape:
        return 0.0
    sizes, times = np.unique(joint.sum(1), return_counts=True)
    expected = times @ expected_joint(sizes, joint.sum(0))
    return float(xlogy(joint, joint).sum() / np.log(2) - expected)


def _table(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How often each value of one meets each value of the other."""
    (xs, x), (ys, y) = (np.unique(values, return_inverse=True) for values in (first, second))
    return np.bincount(x * len(ys) + y, minlength=len(xs) * len(ys)).reshape(len(xs), len(ys))
