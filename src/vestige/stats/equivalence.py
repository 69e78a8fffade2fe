"""No difference that matters, by one-sided t tests against the smallest: upper end < margin, lower end > -margin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vestige.errors import VestigeError
from vestige.stats.intervals import Interval, lower_end, moments, p_above, p_below, upper_end


@dataclass(frozen=True)
class Bounded:
    """A mean over seeds with one-sided ends, against a margin.

    Attributes:
      interval: the mean and its one-sided ends; the lower is -infinity where it is not asked for. NaN for n < 2.
      margin: the smallest effect that matters, in the unit of the values.
      p_value: below 1 - level exactly where the ends are within the margin; NaN for n < 2.
    """

    interval: Interval
    margin: float
    p_value: float

    @property
    def holds(self) -> bool:
        """Whether the ends are within the margin; an end of exactly the margin is not, nor is NaN."""
        low = self.interval.low
        return self.interval.high < self.margin and (low > -self.margin or low == -math.inf)


def non_inferiority(harms: Sequence[float], margin: float, level: float = 0.95) -> Bounded:
    """Whether a harm is surely smaller than the smallest that matters; a gain is no harm.

    Args:
      harms: one number a seed, larger being worse.
      margin: the smallest harm that matters, above 0.
      level: of the one-sided upper end.

    Returns:
      `holds` is the registered rule "hardly harms", without its demand of 3 seeds.

    Raises:
      VestigeError: the margin is not a number above 0; a harm is NaN or infinite.

    References:
      Piaggio, Elbourne, Pocock, Evans & Altman (2012). Reporting of noninferiority and equivalence randomized
      trials. JAMA 308.
    """
    _check(margin, "testing non-inferiority")
    mean, _, n = moments(harms)
    low = -math.inf if n > 1 else math.nan
    return Bounded(Interval(mean, low, upper_end(harms, level), n), margin, p_below(harms, margin))


def equivalence(differences: Sequence[float], margin: float, level: float = 0.95) -> Bounded:
    """Whether a difference is surely smaller than the smallest that matters, either way: two one-sided tests (TOST).

    Args:
      differences: one number a seed.
      margin: the smallest difference that matters, above 0.
      level: of each one-sided end; the two ends together are a two-sided interval of 2 * level - 1.

    Returns:
      Its p value is the larger of the two tests'.

    Raises:
      VestigeError: the margin is not a number above 0; a difference is NaN or infinite.

    References:
      Schuirmann (1987). A comparison of the two one-sided tests procedure and the power approach for assessing the
      equivalence of average bioavailability. J. Pharmacokin. Biopharm. 15.
    """
    _check(margin, "testing equivalence")
    mean, _, n = moments(differences)
    ends = Interval(mean, lower_end(differences, level), upper_end(differences, level), n)
    p = max(p_below(differences, margin), p_above(differences, -margin)) if n > 1 else math.nan
    return Bounded(ends, margin, p)


def _check(margin: float, doing: str) -> None:
    if not (margin > 0 and math.isfinite(margin)):
        raise VestigeError(
            doing,
            found=f"a margin of {margin}",
            remedy="Give the smallest difference that matters, a number above 0",
        )
