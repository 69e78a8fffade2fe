"""The registered rules: a sample over seeds -> a clause's verdict; clause verdicts -> a claim's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vestige.claims.evidence import Sample
from vestige.claims.terms import Clause, Direction, Verdict
from vestige.stats.intervals import Interval, p_above, p_below, paired_t, upper_end

LEVEL = 0.05
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Judged:
    """A clause with its numbers and verdict; `p_value` and `upper` are NaN where there is none."""

    clause: Clause
    sample: Sample
    interval: Interval
    upper: float
    p_value: float
    verdict: Verdict


def judge_clause(clause: Clause, sample: Sample) -> Judged:
    """Interval, p value and verdict of a clause."""
    values = list(sample.values.values())
    interval, upper = paired_t(values), upper_end(values)
    verdict = Verdict.NOT_MEASURED if not values else clause_verdict(clause, interval, upper)
    if values and sample.trained is not None and sample.trained < FEWEST_SEEDS:
        verdict = Verdict.FEW_SEEDS
    return Judged(clause, sample, interval, upper, _p_value(clause, values), verdict)


def clause_verdict(clause: Clause, interval: Interval, upper: float) -> Verdict:
    """The registered rule.

    Args:
      clause: gives direction and smallest effect d.
      interval: two-sided 95% interval over seeds.
      upper: one-sided 95% upper end.
    """
    d, estimate, low, high = clause.smallest_effect, interval.estimate, interval.low, interval.high
    if interval.n < FEWEST_SEEDS:
        return Verdict.FEW_SEEDS
    if clause.direction == Direction.BELOW:
        if upper < d:
            return Verdict.SUPPORTED
        return Verdict.CONTRADICTED if low > 0 and estimate >= d else Verdict.INCONCLUSIVE
    if low > 0 and (low if clause.direction == Direction.SURELY_AT_LEAST else estimate) >= d:
        return Verdict.SUPPORTED
    if high < 0 and estimate <= -d:
        return Verdict.CONTRADICTED
    return Verdict.NOT_SUPPORTED if high < d else Verdict.INCONCLUSIVE


def claim_verdict(clauses: Sequence[Verdict], p_holm: float) -> Verdict:
    """A conjunction: refuted by any clause; supported only by all of them, and if Holm's p <= 0.05."""
    if set(clauses) == {Verdict.NOT_MEASURED}:
        return Verdict.NOT_MEASURED
    for decisive in (Verdict.CONTRADICTED, Verdict.NOT_SUPPORTED, Verdict.FEW_SEEDS):
        if decisive in clauses:
            return decisive
    held = all(verdict is Verdict.SUPPORTED for verdict in clauses)
    return Verdict.SUPPORTED if held and p_holm <= LEVEL else Verdict.INCONCLUSIVE


def worst_p(judged: Sequence[Judged]) -> float:
    """The p value of a conjunction: the largest of its clauses' (intersection-union); NaN where one has none.

    References:
      Berger (1982). Multiparameter hypothesis testing and acceptance sampling. Technometrics 24.
    """
    p_values = [clause.p_value for clause in judged]
    return math.nan if any(map(math.isnan, p_values)) else max(p_values)


def _p_value(clause: Clause, values: Sequence[float]) -> float:
    """The level at which the clause's interval would just meet its bound: two-sided ends count double."""
    if clause.direction == Direction.BELOW:
        return p_below(values, clause.smallest_effect)
    margin = clause.smallest_effect if clause.direction == Direction.SURELY_AT_LEAST else 0.0
    return min(1.0, 2 * p_above(values, margin)) if len(values) > 1 else math.nan
