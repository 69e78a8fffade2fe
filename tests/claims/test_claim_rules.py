"""The registered rules as tables of cases, and what is said of further seeds against simulated studies."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.integrate import quad
from scipy.stats import chi, nct, norm
from statsmodels.stats.power import TTestPower
from synthetic import Effects, make_study

from vestige.claims.evidence import Sample, collect, name_seeds
from vestige.claims.planning import chance_decided, chance_supported, detectable, seeds_to_decide
from vestige.claims.rules import claim_verdict, clause_verdict, judge_clause, worst_p
from vestige.claims.terms import Clause, Direction, Unit, Verdict
from vestige.claims.verdicts import judge_study
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
    (math.nan, math.nan, math.nan, 0, F),
    (0.10, 0.10, 0.10, 3, S),  # ties at d, by its very bits
    (math.nextafter(0.10, 0), 0.05, 0.15, 5, I),  # the last bit below d
    (-0.10, -0.10, -0.10, 3, C),
    (-0.10, -0.19, 0.00, 5, N),  # an interval that touches 0 is not below it
    (0.20, -math.inf, math.inf, 5, I),  # an interval without ends excludes nothing
    (math.nan, math.nan, math.nan, 5, I),  # what is no number decides nothing
    (0.20, math.nan, math.nan, 5, I),
]


@pytest.mark.parametrize(("estimate", "low", "high", "n", "verdict"), AT_LEAST)
def test_at_least(estimate, low, high, n, verdict):
    assert clause_verdict(clause(), Interval(estimate, low, high, n), math.nan) is verdict


# estimate, low, high, seeds -> verdict, for d = 0: what is only to be above 0
ABOVE_ZERO = [
    (0.20, 0.05, 0.35, 5, S),
    (1e-9, 1e-12, 2e-9, 5, S),
    (0.20, 0.00, 0.40, 5, I),
    (0.00, 0.00, 0.00, 5, I),  # ties at 0: neither above it, nor excluded
    (0.05, -0.10, 0.20, 5, I),
    (-0.20, -0.40, 0.00, 5, I),
    (-0.20, -0.35, -0.05, 5, C),
    (0.20, 0.05, 0.35, 2, F),
]


@pytest.mark.parametrize(("estimate", "low", "high", "n", "verdict"), ABOVE_ZERO)
def test_above_zero(estimate, low, high, n, verdict):
    assert clause_verdict(clause(smallest_effect=0.0), Interval(estimate, low, high, n), math.nan) is verdict


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
    (math.nan, math.nan, math.nan, math.nan, 0, F),
    (0.10, 0.10, 0.10, 0.10, 3, C),  # ties at d
    (0.09, 0.09, 0.09, 0.09, 3, S),
    (0.00, 0.00, 0.00, 0.00, 3, S),
    (0.10, 0.00, 0.20, 0.18, 5, I),  # an interval that touches 0 is not above it
    (0.05, -math.inf, math.inf, math.inf, 5, I),
    (math.nan, math.nan, math.nan, math.nan, 5, I),
    (0.02, math.nan, math.nan, math.nan, 5, I),
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
    (0.80, 0.80, 0.80, 3, S),  # ties at d
    (0.79, 0.79, 0.79, 3, N),
    (0.40, 0.00, 0.80, 5, I),  # an upper end of exactly d does not exclude d
    (-0.90, -0.95, -0.85, 5, C),
    (-0.40, -0.50, -0.30, 5, N),  # below 0, but not by d
    (math.nan, math.nan, math.nan, 5, I),
    (math.nan, math.nan, math.nan, 0, F),
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


# what the seeds gave -> values by seed, verdict; d = 0.1, "at least"
SEEDS = [
    ({0: 0.20, 1: 0.21, 2: 0.22}, {0: 0.20, 1: 0.21, 2: 0.22}, S),
    ({0: 0.20, 1: math.nan, 2: 0.22}, {0: 0.20, 2: 0.22}, F),  # 3 seeds of which one has no number are 2
    ({0: 0.20, 1: math.inf, 2: 0.22}, {0: 0.20, 2: 0.22}, F),
    ({0: 0.20, 1: "no run", 2: 0.22}, {0: 0.20, 2: 0.22}, F),
    ({0: 0.20, 1: math.nan, 2: 0.22, 3: 0.21}, {0: 0.20, 2: 0.22, 3: 0.21}, S),
    ({0: 0.20, 1: "no run"}, {0: 0.20}, F),
    ({0: math.nan, 1: "no run", 2: -math.inf}, {}, M),
    ({}, {}, M),
]


@pytest.mark.parametrize(("given", "values", "verdict"), SEEDS)
@pytest.mark.parametrize("direction", [Direction.AT_LEAST, Direction.SURELY_AT_LEAST])
def test_seeds_without_a_number_do_not_count(given, values, verdict, direction):
    judged = judge_clause(clause(direction), collect(given, given.__getitem__))
    assert judged.sample.values == values
    assert judged.interval.n == len(values)
    assert judged.verdict is verdict


def random_study(number, seeds):
    """A study whose effects, of any size and sign, hardly differ between seeds: more of them would decide it all."""
    rng = np.random.default_rng(number)
    sizes = rng.normal(0.05, 0.1, 9)
    effects = Effects(
        csi={0: 0.1, 4: 0.1 + abs(sizes[0]), 24: 0.13, 100: 0.12},
        spread=dict.fromkeys(("csi", "advantage", "midpoint", "kalimeris", "harm"), 10 ** rng.uniform(-6, -2)),
        advantage={"zero": (sizes[1], sizes[2] / 4), "mean": (sizes[1], sizes[2] / 4)},
        midpoint=(0.4, 0.4 + abs(sizes[3])),
        kalimeris=(0.9, 0.9 - abs(sizes[4])),
        harm=dict(zip(("early", "mid", "late", "eta2-early", "permuted-eta2-early"), sizes[4:], strict=True)),
    )
    return make_study(effects, seeds=seeds)


def all_verdicts(study, tables):
    record = judge_study(study, tables)["claims"]
    parts = [part for claim in record for part in (*claim["clauses"], *claim["beside"])]
    assert len(record) == 4
    return {part["id"]: part["verdict"] for part in (*record, *parts)}


def test_with_fewer_than_3_seeds_nothing_is_ever_supported():
    supported = {"few": set(), "lost": set(), "enough": set()}
    for number in range(8):
        rng = np.random.default_rng(number)
        few = random_study(number, range(1 + number % 2))
        study, tables = random_study(number, range(5))
        left = {kind: rng.choice(5, size=rng.integers(1, 3), replace=False).tolist() for kind in tables}
        lost = study, {kind: table.filter(pl.col("seed").is_in(left[kind])) for kind, table in tables.items()}
        for name, case in (("few", few), ("lost", lost), ("enough", (study, tables))):
            supported[name] |= {part for part, verdict in all_verdicts(*case).items() if verdict == "supported"}
    assert supported["few"] == supported["lost"] == set()
    assert len(supported["enough"]) > 10  # the same studies, with all their seeds


@pytest.mark.parametrize("direction", list(Direction))
def test_no_rule_supports_anything_with_fewer_than_3_seeds(direction):
    rng = np.random.default_rng(0)
    seen = set()
    for n in (0, 1, 2, 3):
        for _ in range(100):
            values = rng.normal(rng.normal(), 10 ** rng.uniform(-9, 1), n)
            judged = judge_clause(clause(direction, abs(rng.normal())), Sample(dict(enumerate(values.tolist()))))
            seen |= {(n, judged.verdict)}
            assert n == 3 or not chance_supported(judged.clause, 100.0 * rng.normal(), 1e-9, n)
    assert {verdict for n, verdict in seen if n < 3} == {F, M}
    assert (3, S) in seen


CHANCES = [  # direction, true effect in SD; d = 1 SD
    (Direction.AT_LEAST, 0.0),
    (Direction.AT_LEAST, 1.0),
    (Direction.AT_LEAST, 2.5),
    (Direction.AT_LEAST, -2.0),
    (Direction.BELOW, 0.0),
    (Direction.BELOW, 1.0),
    (Direction.BELOW, 2.0),
    (Direction.SURELY_AT_LEAST, 0.2),
    (Direction.SURELY_AT_LEAST, 3.0),
]


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("direction", "effect"), CHANCES)
def test_chances_are_the_shares_of_simulated_studies(direction, effect, n):
    judged_by, studies = clause(direction, 0.1), 1500
    values = np.random.default_rng(n).normal(0.1 * effect, 0.1, (studies, n))
    seen = [judge_clause(judged_by, Sample(dict(enumerate(row.tolist())))).verdict for row in values]
    for chance, share in (
        (chance_supported(judged_by, 0.1 * effect, 0.1, n), seen.count(S) / studies),
        (chance_decided(judged_by, 0.1 * effect, 0.1, n), 1 - seen.count(I) / studies),
    ):
        assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / studies) + 1 / studies)


def decided_by_integral(direction, effect, n):
    """The chance of a verdict for SD 1 and d = 1, by the noncentral t and adaptive quadrature of scipy."""
    shift, two_sided, one_sided = math.sqrt(n), *(nct.ppf(p, n - 1, 0) for p in (0.975, 0.95))

    def both(r):  # mean above 0 by the interval, and at least 1
        return (
            chi.pdf(r * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1) * norm.sf(max(shift, two_sided * r), effect * shift)
        )

    supported = quad(both, 0, shift / two_sided)[0] + quad(both, shift / two_sided, math.inf)[0]
    end = one_sided if direction is Direction.BELOW else two_sided
    return supported + nct.sf(end, n - 1, (1 - effect) * shift)


# values, direction -> seeds that would decide, for d = 0.1
TO_DECIDE = [
    ([0.1, 0.3, 0.2], Direction.AT_LEAST, 5),
    ([-0.05, 0.05, 0.15], Direction.AT_LEAST, 34),
    ([-0.05, 0.05, 0.15], Direction.BELOW, 26),
    ([0.0, 0.1, 0.2], Direction.AT_LEAST, None),  # of means of exactly d, half are at least d however many seeds
    ([-0.0001, 0.0999, 0.1999], Direction.BELOW, None),  # neither below d nor d
    ([0.2, 0.3, 0.25], Direction.AT_LEAST, None),  # decided
    ([0.0, 0.1], Direction.AT_LEAST, None),  # too few to say
]


@pytest.mark.parametrize(("values", "direction", "seeds"), TO_DECIDE)
def test_seeds_that_would_decide(values, direction, seeds):
    judged = judge_clause(clause(direction), Sample(dict(enumerate(values))))
    assert seeds_to_decide(judged) == seeds
    if seeds is not None:
        effect = 10 * np.mean(values)
        assert decided_by_integral(direction, effect, seeds) >= 0.8 > decided_by_integral(direction, effect, seeds - 1)


def judged_of(values, direction, d=0.1):
    return judge_clause(clause(direction, d), Sample(dict(enumerate(values))))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_what_could_be_seen_is_what_statsmodels_says(n):
    values = (0.02 * (np.arange(n) - (n - 1) / 2)).tolist()
    spread = np.std(values, ddof=1)
    two = spread * TTestPower().solve_power(nobs=n, alpha=0.025, power=0.8, alternative="larger")
    one = spread * TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="larger")
    assert detectable(judged_of(values, Direction.AT_LEAST, 0.0)) == pytest.approx(two, rel=1e-4)
    assert detectable(judged_of(values, Direction.SURELY_AT_LEAST)) == pytest.approx(0.1 + two, rel=1e-4)
    assert detectable(judged_of(values, Direction.BELOW)) == pytest.approx(0.1 - one, rel=1e-4)


def test_what_could_be_seen_reaches_the_smallest_effect_with_80_percent():
    values = [0.299, 0.3, 0.301]  # the spread is small: only that the estimate is at least d matters
    assert detectable(judged_of(values, Direction.AT_LEAST)) == pytest.approx(0.1 + 0.841621 * 0.001 / math.sqrt(3))
    assert detectable(judged_of([0.3] * 3, Direction.AT_LEAST)) == 0.1
    assert math.isnan(detectable(judged_of(values[:2], Direction.AT_LEAST)))
    assert math.isnan(detectable(judged_of([], Direction.BELOW)))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("scale", [1e300, 1e-160, 0.0])
def test_plans_of_values_at_the_ends_of_floating_point_come_to_an_end(scale):
    for direction in Direction:
        judged = judged_of([0.1 - scale, 0.1 + scale, 0.1], direction)
        assert seeds_to_decide(judged) is None
        known = 1 < abs(detectable(judged)) / scale < 5 if scale > 1 else detectable(judged) == pytest.approx(0.1)
        assert known


def test_claims_say_what_could_be_seen():
    study, tables = make_study()
    clauses = {part["id"]: part for claim in judge_study(study, tables)["claims"] for part in claim["clauses"]}
    below = clauses.pop("C4.b")
    assert below["detectable"] < below["smallest_effect"]
    assert all(part["detectable"] >= part["smallest_effect"] for part in clauses.values())
    assert clauses["C4.a"]["detectable"] > clauses["C4.a"]["smallest_effect"]
    few, tables = make_study(seeds=(0, 1))
    assert {part["detectable"] for claim in judge_study(few, tables)["claims"] for part in claim["clauses"]} == {None}
