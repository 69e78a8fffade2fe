"""What more seeds would show of a clause: chances of the registered verdicts, were effects normal over seeds."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vestige.claims.rules import FEWEST_SEEDS, LEVEL, Judged
from vestige.claims.terms import Clause, Direction, Verdict
from vestige.stats import power
from vestige.stats.intervals import moments

MOST_SEEDS = 1000
_TWO_SIDED, _ONE_SIDED = 1 - LEVEL / 2, 1 - LEVEL


def chance_supported(clause: Clause, effect: float, spread: float, seeds: ArrayLike) -> NDArray[np.float64]:
    """How often so many seeds support a clause.

    Args:
      clause: gives direction and smallest effect.
      effect: the true mean of its statistic.
      spread: its true standard deviation over seeds.
      seeds: (M,) numbers of seeds, or one; fewer than 3 support nothing.

    Returns:
      (M,) chances, or one without axes.
    """
    if clause.direction == Direction.BELOW:
        chance = power.chance_below(effect, spread, seeds, margin=clause.smallest_effect, level=_ONE_SIDED)
    else:
        chance = power.chance_above(effect, spread, seeds, **_above(clause))
    return np.where(np.asarray(seeds) < FEWEST_SEEDS, 0.0, chance)


def chance_decided(clause: Clause, effect: float, spread: float, seeds: ArrayLike) -> NDArray[np.float64]:
    """How often so many seeds leave a clause not inconclusive, whatever the verdict; as `chance_supported`."""
    d = clause.smallest_effect
    if clause.direction == Direction.BELOW:
        against = power.chance_above(effect, spread, seeds, least=d, level=_TWO_SIDED)
    else:
        against = power.chance_below(effect, spread, seeds, margin=max(d, 0.0), level=_TWO_SIDED)
    decided = chance_supported(clause, effect, spread, seeds) + against
    return np.where(np.asarray(seeds) < FEWEST_SEEDS, 0.0, np.minimum(decided, 1.0))


def seeds_to_decide(judged: Judged) -> int | None:
    """How many seeds would decide an inconclusive clause with 80% power, if mean and spread were those of these.

    Returns:
      The least number, above those there are; None where the clause is not inconclusive, or not even `MOST_SEEDS`
      have that power. A spread of few seeds is itself uncertain, and with it this number.
    """
    mean, spread, n = _seen(judged)
    if judged.verdict is not Verdict.INCONCLUSIVE or not math.isfinite(spread):
        return None
    return power.seeds_needed(
        lambda seeds: chance_decided(judged.clause, mean, spread, seeds), fewest=n + 1, most=MOST_SEEDS
    )


def detectable(judged: Judged) -> float:
    """The true value that these seeds, with their spread, would support with 80% power.

    Returns:
      The smallest such value; for "below" the largest. NaN for fewer than 3 seeds.
    """
    _, spread, n = _seen(judged)
    if n < FEWEST_SEEDS or not math.isfinite(spread):
        return math.nan
    if judged.clause.direction == Direction.BELOW:
        return -power.detectable(spread, n, margin=-judged.clause.smallest_effect, level=_ONE_SIDED)
    return power.detectable(spread, n, **_above(judged.clause))


def _above(clause: Clause) -> dict[str, float]:
    d = clause.smallest_effect
    if clause.direction == Direction.SURELY_AT_LEAST:
        return {"margin": max(d, 0.0), "level": _TWO_SIDED}
    return {"least": d, "level": _TWO_SIDED}


def _seen(judged: Judged) -> tuple[float, float, int]:
    """Mean, standard deviation over seeds (infinite where it overflows) and number of seeds."""
    mean, error, n = moments(list(judged.sample.values.values()))
    return mean, error * math.sqrt(n), n
