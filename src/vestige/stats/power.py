"""What so many seeds can show: chance = P(mean >= max(least, margin + t(level; n - 1) SD / sqrt(n))).

For normal effects r = SD / sigma is independent of the mean, and (n - 1) r^2 is chi-square with n - 1 degrees of
freedom, so the chance is the mean over r of Phi((effect - max(least, margin + t r sigma / sqrt(n))) sqrt(n) / sigma),
here by Gauss-Legendre quadrature. Without `least` it is that of the noncentral t distribution. Shapes: M numbers of
seeds, Q nodes of the quadrature.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, gammainc, gammaln, ndtr, stdtrit

from vestige.errors import VestigeError

Array = NDArray[np.float64]
POWER = 0.8
"""The chance that planning asks for: four studies of five."""
_NODES_Q, _WEIGHTS_Q = np.polynomial.legendre.leggauss(128)


def chance_above(
    effect: float,
    spread: float,
    seeds: ArrayLike,
    *,
    margin: float = 0.0,
    least: float = -math.inf,
    level: float = 0.975,
) -> Array:
    """How often a mean over seeds is shown to be above a margin, the estimate being at least `least`.

    Args:
      effect: the true mean.
      spread: the true standard deviation over seeds; 0: all seeds equal the effect.
      seeds: (M,) numbers of seeds, or one; fewer than 2 show nothing.
      margin: what the lower end has to exceed.
      least: what the estimate has to reach.
      level: one-sided, of the lower end; 0.975 is that of a two-sided 95% interval.

    Returns:
      (M,) chances, or one without axes.

    Raises:
      VestigeError: effect or spread is no finite number, or the spread is negative.

    References:
      Owen (1965). A special case of a bivariate non-central t-distribution. Biometrika 52.
    """
    if not (math.isfinite(effect) and math.isfinite(spread) and spread >= 0):
        raise VestigeError(
            "computing what so many seeds can show",
            found=f"an effect of {effect} and a spread of {spread}",
            remedy="Give finite numbers, and a standard deviation that is not negative",
        )
    n_M = np.asarray(seeds, dtype=np.float64)
    if spread == 0:
        return np.where(n_M < 2, 0.0, float(effect > margin and effect >= least))
    scale_M = np.sqrt(np.maximum(n_M, 2)) / spread
    chance_M = _chance((effect - margin) * scale_M, (least - margin) * scale_M, np.maximum(n_M, 2) - 1, level)
    return np.where(n_M < 2, 0.0, chance_M)


def chance_below(effect: float, spread: float, seeds: ArrayLike, *, margin: float = 0.0, level: float = 0.975) -> Array:
    """How often a mean over seeds is shown to be below a margin; level 0.95: the one-sided "hardly harms"."""
    return chance_above(-effect, spread, seeds, margin=-margin, level=level)


def detectable(
    spread: float,
    seeds: int,
    *,
    margin: float = 0.0,
    least: float = -math.inf,
    level: float = 0.975,
    power: float = POWER,
) -> float:
    """The smallest true effect that `chance_above` shows with a given power.

    It depends on the spread, not on the effect that was seen, and so is no "observed power" (Hoenig & Heisey 2001).

    Returns:
      In the unit of the spread; NaN for fewer than 2 seeds.

    Raises:
      VestigeError: the power is not above 0.5 and below 1; or as `chance_above`.

    References:
      Hoenig & Heisey (2001). The abuse of power. Am. Statist. 55.
    """
    if not 0.5 < power < 1:
        raise VestigeError(
            "finding the smallest effect that can be shown",
            found=f"a power of {power}",
            remedy="Give a chance above 0.5 and below 1",
        )
    start = max(margin, least)  # at most half the means of such an effect reach it

    def shown(effect: float) -> bool:
        return bool(chance_above(effect, spread, seeds, margin=margin, least=least, level=level) >= power)

    if seeds < 2 or spread == 0:
        chance_above(start, spread, seeds)  # refuses what is no spread
        return start if seeds > 1 else math.nan
    step = spread
    while not shown(start + step):
        step *= 2
    return _bisect(shown, start, start + step)


def seeds_needed(chance: Callable[[Array], Array], *, fewest: int, most: int, power: float = POWER) -> int | None:
    """The least number of seeds, from `fewest` to `most`, that has a given chance; None where none has.

    Args:
      chance: of (M,) numbers of seeds, (M,).
      fewest: number of seeds to begin with.
      most: number of seeds to end with.
      power: the chance asked for.
    """
    start, size = fewest, 32
    while start <= most:  # most answers are small numbers, so the first ones are tried first
        seeds_M = np.arange(start, min(start + size, most + 1), dtype=np.float64)
        enough_M = chance(seeds_M) >= power
        if enough_M.any():
            return int(seeds_M[np.argmax(enough_M)])
        start, size = start + size, 2 * size
    return None


def _chance(shift_M: Array, least_M: Array, df_M: Array, level: float) -> Array:
    """P(Z + shift >= max(least, t r)), Z normal, r the SD in units of sigma."""
    t_M = stdtrit(df_M, level)
    lowest_M, highest_M = (np.sqrt(chdtri(df_M, p) / df_M) for p in (1 - 1e-14, 1e-14))
    kink_M = np.clip(least_M / t_M, lowest_M, highest_M)
    half_M = (highest_M - kink_M) / 2
    r_MQ = kink_M[..., None] + half_M[..., None] * (1 + _NODES_Q)
    above_MQ = ndtr(shift_M[..., None] - t_M[..., None] * r_MQ)
    beyond_M = half_M * ((above_MQ * _density(r_MQ, df_M[..., None])) @ _WEIGHTS_Q)
    small_M = ndtr(shift_M - least_M) * gammainc(df_M / 2, df_M * kink_M**2 / 2)
    return np.clip(np.where(least_M > 0, small_M, 0.0) + beyond_M, 0.0, 1.0)


def _density(r: Array, df: Array) -> Array:
    """Of r, df r^2 being chi-square with df degrees of freedom."""
    log = math.log(2) + df / 2 * np.log(df / 2) - gammaln(df / 2) + (df - 1) * np.log(r) - df * r**2 / 2
    return np.exp(log)


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where `holds` begins to, between a number where it does not and one where it does."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
