"""Paired t intervals, one-sided ends and p values: mean +- t(n - 1) SD / sqrt(n), one value a seed.

How far they can be trusted with 3 to 10 seeds stands in docs/explanation/seed-statistics.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from vestige.errors import VestigeError


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its two-sided interval; the ends are NaN for fewer than two seeds.

    Attributes:
      estimate: the mean, in the unit of the values; NaN for no values.
      low: lower end.
      high: upper end.
      n: number of seeds.
    """

    estimate: float
    low: float
    high: float
    n: int


def paired_t(differences: Sequence[float], level: float = 0.95) -> Interval:
    """Two-sided t interval of a mean of paired differences.

    Args:
      differences: one number a seed; equal numbers give an interval of no width.
      level: coverage.

    Raises:
      VestigeError: a difference is NaN or infinite (a missing pair has to be left out by name, not silently).

    References:
      Student (1908). The probable error of a mean. Biometrika 6.
    """
    mean, error, n = moments(differences)
    half = stdtrit(n - 1, (1 + level) / 2) * error if n > 1 else math.nan
    return Interval(mean, float(mean - half), float(mean + half), n)


def upper_end(differences: Sequence[float], level: float = 0.95) -> float:
    """One-sided upper confidence end of the mean: mean + t(level; n - 1) * SD / sqrt(n); NaN for n < 2."""
    mean, error, n = moments(differences)
    return float(mean + stdtrit(n - 1, level) * error) if n > 1 else math.nan


def lower_end(differences: Sequence[float], level: float = 0.95) -> float:
    """One-sided lower confidence end of the mean: mean - t(level; n - 1) * SD / sqrt(n); NaN for n < 2."""
    return -upper_end([-x for x in differences], level)


def p_above(differences: Sequence[float], margin: float = 0.0) -> float:
    """One-sided p value of "the mean is not above `margin`"; NaN for fewer than two seeds."""
    mean, error, n = moments(differences)
    if n < 2:
        return math.nan
    if error == 0:
        return 0.0 if mean > margin else 1.0
    return float(stdtr(n - 1, (margin - mean) / error))


def p_below(differences: Sequence[float], margin: float = 0.0) -> float:
    """One-sided p value of "the mean is not below `margin`"; NaN for fewer than two seeds."""
    return p_above([-x for x in differences], -margin)


def moments(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean, standard error of the mean (NaN for n < 2) and n.

    Raises:
      VestigeError: a value is NaN or infinite.
    """
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise VestigeError(
            "computing an interval over seeds",
            found=f"{int((~np.isfinite(x)).sum())} of {len(x)} values are NaN or infinite",
            remedy="Leave those seeds out, by name",
        )
    n = len(x)
    if n == 0:
        return math.nan, math.nan, 0
    if (x == x[0]).all():  # rounding in the mean must not invent a spread
        return float(x[0]), 0.0 if n > 1 else math.nan, n
    reach = float(np.abs(x - x[0]).max())  # squares of very small differences would be 0
    if not math.isfinite(reach):
        return float(x.mean()), math.inf, n
    return float(x.mean()), float(((x - x[0]) / reach).std(ddof=1) * (reach / math.sqrt(n))), n
