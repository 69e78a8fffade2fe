"""Bootstrap intervals of a mean over seeds: studentised, and BCa. Not the default: with few seeds they do not hold.

mean* is the mean of n values drawn from the n seeds with replacement; t* = (mean* - mean) / (SD* / sqrt(n)).
studentised: mean - t*(1 - a/2) SD / sqrt(n) to mean - t*(a/2) SD / sqrt(n).
BCa: quantiles of mean* at levels corrected for bias and skewness.

Seen by simulation (docs/explanation/seed-statistics.md): BCa covers too little with 10 seeds and fewer. The
studentised interval has no ends with 3 seeds, where all values are the same in too many samples; from 5 seeds on
it stands skewed effects better than t, and is a third wider. Shapes: N seeds, B bootstrap samples.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr, ndtri

from vestige.stats.intervals import Interval, moments

Array = NDArray[np.float64]
MOST_WHOLE = 8
"""Up to so many seeds every sample that can be drawn is taken, with its chance: no luck, no random numbers."""
DRAWS = 9999


def studentised(differences: Sequence[float], level: float = 0.95) -> Interval:
    """Studentised ("bootstrap-t") interval of the mean.

    Args:
      differences: one number a seed; equal numbers give an interval of no width.
      level: coverage.

    Returns:
      Its ends are infinite where so few seeds cannot give any: two or three at 95%.

    Raises:
      VestigeError: a difference is NaN or infinite.

    References:
      Efron (1981). Nonparametric standard errors and confidence intervals. Canad. J. Statist. 9.
      Hall (1988). Theoretical comparison of bootstrap confidence intervals. Ann. Statist. 16.
    """
    mean, error, n = moments(differences)
    if n < 2 or error == 0:
        return _without_spread(mean, n)
    counts_BN, chance_B = samples(n)
    z_N = (np.asarray(differences, dtype=np.float64) - mean) / (error * math.sqrt(n))
    mean_B = counts_BN @ z_N / n
    variance_B = (counts_BN @ z_N**2 / n - mean_B**2) * n / (n - 1)
    varies_B = variance_B > 1e-12
    apart_B = np.where(mean_B > 0, np.inf, -np.inf)  # of samples in which all values are the same
    t_B = np.where(np.abs(mean_B) > 1e-12, apart_B, 0.0)
    t_B[varies_B] = mean_B[varies_B] / np.sqrt(variance_B[varies_B] / n)
    below, above = (_quantile(t_B, chance_B, p) for p in ((1 - level) / 2, (1 + level) / 2))
    return Interval(mean, mean - above * error, mean - below * error, n)


def bca(differences: Sequence[float], level: float = 0.95) -> Interval:
    """Bias-corrected and accelerated percentile interval of the mean.

    Args:
      differences: one number a seed; equal numbers give an interval of no width.
      level: coverage, which it does not reach with 10 seeds and fewer.

    Raises:
      VestigeError: a difference is NaN or infinite.

    References:
      Efron (1987). Better bootstrap confidence intervals. J. Am. Statist. Assoc. 82.
    """
    mean, error, n = moments(differences)
    if n < 2 or error == 0:
        return _without_spread(mean, n)
    counts_BN, chance_B = samples(n)
    z_N = (np.asarray(differences, dtype=np.float64) - mean) / (error * math.sqrt(n))
    mean_B = counts_BN @ z_N / n
    less, same = (chance_B @ part for part in (mean_B < -1e-12, np.abs(mean_B) <= 1e-12))
    bias = ndtri(less + same / 2)
    acceleration = np.sum(z_N**3) / (6 * np.sum(z_N**2) ** 1.5)

    def corrected(p: float) -> float:
        z = bias + ndtri(p)
        return float(ndtr(bias + z / (1 - acceleration * z)))

    low, high = (_quantile(mean_B, chance_B, corrected(p)) for p in ((1 - level) / 2, (1 + level) / 2))
    return Interval(mean, mean + low * error * math.sqrt(n), mean + high * error * math.sqrt(n), n)


@lru_cache(maxsize=16)
def samples(n: int) -> tuple[Array, Array]:
    """How often each of n seeds is drawn, (B, N), and the chance of each sample, (B,), which sum to 1.

    Up to `MOST_WHOLE` seeds all distinct samples; above, `DRAWS` of them from a fixed random generator, so that the
    same numbers always give the same interval.
    """
    if n > MOST_WHOLE:
        drawn_BN = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)
        return drawn_BN.astype(np.float64), np.full(DRAWS, 1 / DRAWS)
    chosen_BN = np.array(list(itertools.combinations_with_replacement(range(n), n)))
    counts_BN = (chosen_BN[:, :, None] == np.arange(n)).sum(1).astype(np.float64)
    ways_B = gammaln(n + 1) - gammaln(counts_BN + 1).sum(1)
    return counts_BN, np.exp(ways_B - n * math.log(n))


def _quantile(values_B: Array, chance_B: Array, p: float) -> float:
    """The least value that a share of at least p does not exceed."""
    order = np.argsort(values_B, kind="stable")
    reached = int(np.searchsorted(np.cumsum(chance_B[order]), p - 1e-12))
    return float(values_B[order[min(reached, len(order) - 1)]])


def _without_spread(mean: float, n: int) -> Interval:
    end = mean if n > 1 else math.nan
    return Interval(mean, end, end, n)
