"""The registered rules as tables of cases."""

import math

import pytest

from vestige.claims.evidence import Sample, collect, name_seeds
from vestige.claims.rules import claim_verdict, clause_verdict, judge_clause, seeds_to_decide, worst_p
from vestige.claims.terms import Clause, Direction, Unit, Verdict
from vestige.stats.intervals import Interval

S, C, N, I, F, M = (
    Verdict.SUPPORTED,
    Verdict.CONTRADICTED,
    Verdict.NOT_SUPPORTED,
    Verdict.INCONCLUSIVE,
    Verdict.FEW_SEEDS,
    Verdict.NOT_MEASURED,
)


def clause(direction=Direction.AT_LEAST, smallest_effect=0.1) -> Clause:
    return Clause(
        id="C0.x",
        statistic="x",
        unit=Unit.SHARE,
        smallest_effect=smallest_effect,
        sentence="x is {}",
        direction=direction,
    )


# estimate, low, high, seeds -> verdict, for d = 0.1
AT_LEAST = [
    (0.20, 0.05, 0.35, 5, S),
    (0.10, 0.01, 0.19, 5, S),  # an estimate of exactly d is enough
    (0.20, 0.00, 0.40, 5, I),  # an interval that touches 0 is not above it
    (0.09, 0.01, 0.17, 5, I),  # above 0, but too small an estimate, and d not excluded
    (0.05, 0.02, 0.08, 5, N),  # surely above 0, surely below d
    (0.05, -0.02, 0.12, 5, I),
    (0.00, -0.05, 0.05, 5, N),
    (-0.05, -0.09, -0.01, 5, N),  # below 0, but not by d
    (-0.10, -0.19, -0.01, 5, C),
    (-0.20, -0.35, -0.05, 5, C),
    (-0.20, -0.50, 0.09, 5, N),  # not surely below 0, surely below d
    (-0.20, -0.50, 0.10, 5, I),  # an upper end of exactly d does not exclude d
    (0.20, 0.20, 0.20, 3, S),  # equal values in every seed
    (0.00, 0.00, 0.00, 3, N),
    (0.20, 0.05, 0.35, 3, S),
    (0.20, 0.05, 0.35, 2, F),
    (-0.20, -0.35, -0.05, 2, F),
    (0.20, math.nan, math.nan, 1, F),
]


@pytest.mark.parametrize(("estimate", "low", "high", "n", "verdict"), AT_LEAST)
def test_at_least(estimate, low, high, n, verdict):
    assert clause_verdict(clause(), Interval(estimate, low, high, n), math.nan) is verdict


# estimate, low, high, one-sided upper end, seeds -> verdict, for d = 0.1
BELOW = [
    (0.02, -0.08, 0.12, 0.09, 5, S),  # the one-sided end decides, not the interval's
    (-0.20, -0.30, -0.10, -0.12, 5, S),  # a gain is no harm
    (0.05, 0.01, 0.09, 0.08, 5, S),  # surely harmed, surely by less than d
    (0.02, -0.08, 0.12, 0.10, 5, I),  # an upper end of exactly d does not exclude d
    (0.10, 0.02, 0.18, 0.16, 5, C),
    (0.20, 0.10, 0.30, 0.28, 5, C),
    (0.09, 0.02, 0.16, 0.14, 5, I),  # above 0, the estimate below d
    (0.20, -0.10, 0.50, 0.45, 5, I),
    (0.02, -0.08, 0.12, 0.09, 2, F),
    (0.30, math.nan, math.nan, math.nan, 1, F),
]


@pytest.mark.parametrize(("estimate", "low", "high", "upper", "n", "verdict"), BELOW)
def test_hardly_harms(estimate, low, high, upper, n, verdict):
    assert clause_verdict(clause(Direction.BELOW), Interval(estimate, low, high, n), upper) is verdict


# estimate, low, high, seeds -> verdict, for d = 0.8
SURELY = [
    (0.90, 0.85, 0.95, 5, S),
    (0.90, 0.80, 1.00, 5, S),  # a lower end of exactly d is enough
    (0.90, 0.79, 1.01, 5, I),  # the estimate alone is not
    (0.70, 0.61, 0.79, 5, N),
    (0.70, 0.55, 0.85, 5, I),
    (0.90, 0.85, 0.95, 2, F),
]


@pytest.mark.parametrize(("estimate", "low", "high", "n", "verdict"), SURELY)
def test_surely_at_least(estimate, low, high, n, verdict):
    judged = clause_verdict(clause(Direction.SURELY_AT_LEAST, 0.8), Interval(estimate, low, high, n), math.nan)
    assert judged is verdict


# clause verdicts, Holm's p -> claim verdict
CLAIMS = [
    ([S, S], 0.01, S),
    ([S, S], 0.05, S),
    ([S, S], 0.051, I),  # every clause holds, but not after Holm
    ([S, I], 0.01, I),
    ([S, M], 1.0, I),
    ([S, N], 0.01, N),
    ([I, N], 0.01, N),
    ([M, N], 1.0, N),
    ([S, C], 0.01, C),
    ([N, C], 0.01, C),
    ([F, C], 0.01, C),
    ([F, F], 0.001, F),
    ([F, S], 0.001, F),
    ([F, M], 1.0, F),
    ([M, M], 1.0, M),
]


@pytest.mark.parametrize(("clauses", "p", "verdict"), CLAIMS)
def test_claim_holds_only_if_all_its_clauses_do(clauses, p, verdict):
    assert claim_verdict(clauses, p) is verdict


def test_p_value_of_a_clause_meets_005_where_its_verdict_turns():
    values = [0.1, 0.2, 0.3]  # mean 0.2, se 0.1/sqrt(3); two-sided half-width 4.302653 se = 0.248416
    shift = 4.302653 * 0.1 / math.sqrt(3) - 0.2
    just = Sample(dict(enumerate(v + shift for v in values)))
    assert judge_clause(clause(), just).p_value == pytest.approx(0.05, abs=1e-6)
    surely = clause(Direction.SURELY_AT_LEAST, -shift)
    assert judge_clause(surely, Sample(dict(enumerate(values)))).p_value == pytest.approx(0.05, abs=1e-6)
    below = clause(Direction.BELOW, 0.2 + 2.919986 * 0.1 / math.sqrt(3))
    assert judge_clause(below, Sample(dict(enumerate(values)))).p_value == pytest.approx(0.05, abs=1e-6)


def test_a_clause_on_the_wrong_side_has_p_1():
    assert judge_clause(clause(), Sample({0: -0.3, 1: -0.2, 2: -0.1})).p_value == 1.0


def test_p_value_of_a_claim_is_its_worst_clauses():
    good = judge_clause(clause(), Sample({0: 1.0, 1: 1.1, 2: 1.2}))
    bad = judge_clause(clause(), Sample({0: -1.0, 1: 1.1, 2: 1.2}))
    assert worst_p([good, bad]) == bad.p_value > good.p_value
    assert math.isnan(worst_p([good, judge_clause(clause(), Sample(missing="not there"))]))


def test_seeds_without_a_number_are_named_with_the_reason():
    sample = collect([3, 5, 7, 9], lambda seed: {3: 1.0, 5: math.nan, 7: "no run", 9: "no run"}[seed])
    assert sample.values == {3: 1.0}
    assert sample.missing == ""
    assert name_seeds(sample.left_out) == "seed 5: its value is nan; seeds 7, 9: no run"
    assert collect([1], lambda seed: "no run").missing == "no seed has a value: seed 1: no run"


# values, direction -> seeds that would decide, for d = 0.1; by hand: t(0.975; n - 1) < gap / SD * sqrt(n)
TO_DECIDE = [
    ([0.0, 0.1, 0.2], Direction.AT_LEAST, 7),  # above 0: 2.447 < sqrt(7), 2.571 > sqrt(6)
    ([-0.05, 0.05, 0.15], Direction.AT_LEAST, 18),  # below d: 2.110 < sqrt(18) / 2, 2.120 > sqrt(17) / 2
    ([-0.05, 0.05, 0.15], Direction.BELOW, 13),  # one-sided: 1.782 < sqrt(13) / 2, 1.796 > sqrt(12) / 2
    ([-0.0001, 0.0999, 0.1999], Direction.BELOW, None),  # neither below d nor d
    ([0.2, 0.3, 0.25], Direction.AT_LEAST, None),  # decided
    ([0.0, 0.1], Direction.AT_LEAST, None),  # too few to say
]


@pytest.mark.parametrize(("values", "direction", "seeds"), TO_DECIDE)
def test_seeds_that_would_decide(values, direction, seeds):
    judged = judge_clause(clause(direction), Sample(dict(enumerate(values))))
    assert seeds_to_decide(judged) == seeds
