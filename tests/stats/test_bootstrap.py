"""Bootstrap intervals against all samples enumerated one by one, and scipy.stats' BCa."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from vestige.errors import VestigeError
from vestige.stats.bootstrap import DRAWS, bca, samples, studentised

VALUES = [0.31, 0.94, 0.27, 0.52, 1.63]


def slow_studentised(values, level):
    """Every one of the n^n samples, equally likely."""
    n, mean = len(values), sum(values) / len(values)
    t = []
    for drawn in itertools.product(values, repeat=n):
        difference, spread = sum(drawn) / n - mean, np.std(drawn, ddof=1)
        t.append(difference / spread * math.sqrt(n) if len(set(drawn)) > 1 else math.copysign(math.inf, difference))
    t.sort()
    below, above = (t[math.ceil(p * len(t) - 1e-9) - 1] for p in ((1 - level) / 2, (1 + level) / 2))
    error = np.std(values, ddof=1) / math.sqrt(n)
    return mean - above * error, mean - below * error


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("level", [0.6, 0.9, 0.95])
def test_studentised_is_that_of_all_samples(n, level):
    interval = studentised(VALUES[:n], level)
    assert (interval.low, interval.high) == pytest.approx(slow_studentised(VALUES[:n], level), rel=1e-9)


def test_studentised_has_no_ends_with_3_seeds():
    assert (studentised(VALUES[:3]).low, studentised(VALUES[:3]).high) == (-math.inf, math.inf)
    assert math.isfinite(studentised(VALUES[:4]).high)


@pytest.mark.parametrize("n", [5, 8, 12])
def test_bca_agrees_with_scipy_which_draws_samples(n):
    values = np.random.default_rng(n).exponential(size=n)
    drawn = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(0))
    interval = bca(values.tolist())
    assert interval.low == pytest.approx(drawn.confidence_interval.low, abs=0.02)
    assert interval.high == pytest.approx(drawn.confidence_interval.high, abs=0.05)


def test_bca_of_what_is_symmetric_is_the_percentile_interval():
    values = [-2.0, -1.0, 0.0, 1.0, 2.0]
    means = sorted(sum(drawn) / 5 for drawn in itertools.product(values, repeat=5))
    interval = bca(values, 0.9)
    assert interval.low == pytest.approx(means[math.ceil(0.05 * 5**5) - 1])
    assert interval.high == pytest.approx(means[math.ceil(0.95 * 5**5) - 1])


@pytest.mark.parametrize("n", [2, 5, 8, 9])
def test_samples_are_of_n_and_their_chances_sum_to_1(n):
    counts, chances = samples(n)
    assert (counts.sum(1) == n).all()
    assert chances.sum() == pytest.approx(1)
    assert len(counts) == (math.comb(2 * n - 1, n) if n <= 8 else DRAWS)
    assert chances @ counts == pytest.approx(np.ones(n), abs=0.05 if n > 8 else 1e-9)


@pytest.mark.parametrize("of", [studentised, bca])
def test_intervals_move_and_scale_with_the_values_and_repeat_themselves(of):
    values = np.random.default_rng(0).normal(size=10)
    interval, moved = of(values.tolist()), of((1000 + 0.01 * values).tolist())
    assert of(values.tolist()) == interval
    assert (moved.low, moved.high) == pytest.approx((1000 + 0.01 * interval.low, 1000 + 0.01 * interval.high))


@pytest.mark.parametrize("of", [studentised, bca])
def test_where_there_is_no_spread(of):
    assert (of([0.1] * 3).low, of([0.1] * 3).high) == (0.1, 0.1)
    assert math.isnan(of([0.1]).low)
    assert math.isnan(of([]).estimate)
    with pytest.raises(VestigeError, match="1 of 2 values are NaN or infinite"):
        of([1.0, math.nan])
