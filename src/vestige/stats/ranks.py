"""Partial rank correlation, and averages of correlations.

partial r(x, y | z) = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2)), of ranks, ties sharing their mean rank;
averages of correlations are tanh(mean(artanh r)) (Fisher 1921).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def partial_spearman(x: Sequence[float | None], y: Sequence[float | None], given: Sequence[float | None]) -> float:
    """Spearman correlation of x and y, given a third variable's ranks.

    Args:
      x, y, given: (N,) each; entries in which one is NaN or None are left out.

    Returns:
      In [-1, 1]; NaN with fewer than 4 entries, or where one of them is constant or a function of the third.
    """
    values = np.asarray([x, y, given], dtype=np.float64)
    values = values[:, np.isfinite(values).all(0)]
    if values.shape[1] < 4 or (np.ptp(values, axis=1) == 0).any():
        return math.nan
    r: NDArray[np.float64] = np.asarray(np.corrcoef([ranks(row) for row in values]))
    left = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    if left < 1e-12:
        return math.nan
    return float(np.clip((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt(left), -1, 1))


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) ranks from 1, equal values sharing their mean rank (scipy.stats.rankdata without its import)."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def fisher_mean(correlations: Sequence[float]) -> float:
    """The average of correlations, by Fisher's z; NaN are left out, and exactly 1 or -1 is taken as 0.999999."""
    r = np.asarray(correlations, dtype=np.float64)
    r = r[np.isfinite(r)]
    return float(np.tanh(np.arctanh(np.clip(r, -0.999999, 0.999999)).mean())) if len(r) else math.nan
