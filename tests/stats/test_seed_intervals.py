"""Intervals against hand-computed constants and scipy.stats."""

import math

import numpy as np
import pytest
from scipy import stats

from vestige.errors import VestigeError
from vestige.stats.intervals import lower_end, p_above, p_below, paired_t, upper_end

# Tables of t: t(0.975; 2) = 4.302653, t(0.95; 2) = 2.919986, t(0.975; 4) = 2.776445.
HAND = [
    ([1.0, 2.0, 3.0], 2.0, 4.302653 / math.sqrt(3)),  # SD 1
    ([-2.0, -1.0, 0.0, 1.0, 2.0], 0.0, 2.776445 * math.sqrt(2.5 / 5)),  # SD sqrt(2.5)
    ([0.0, 0.2], 0.1, 12.706205 * 0.1),  # SD 0.2 / sqrt(2)
]


@pytest.mark.parametrize(("values", "mean", "half"), HAND)
def test_interval_is_the_one_computed_by_hand(values, mean, half):
    interval = paired_t(values)
    assert interval.n == len(values)
    assert interval.estimate == pytest.approx(mean, abs=1e-12)
    assert (interval.low, interval.high) == pytest.approx((mean - half, mean + half), abs=2e-6)


def test_upper_end_is_the_one_computed_by_hand():
    assert upper_end([1.0, 2.0, 3.0]) == pytest.approx(2 + 2.919986 / math.sqrt(3), abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 40])
def test_agrees_with_scipy_stats(n):
    values = np.random.default_rng(n).gamma(2, size=n) - 1
    mean, error = values.mean(), stats.sem(values)
    interval = paired_t(values.tolist())
    assert (interval.low, interval.high) == pytest.approx(stats.t.interval(0.95, n - 1, mean, error), rel=1e-9)
    assert upper_end(values.tolist()) == pytest.approx(mean + stats.t.ppf(0.95, n - 1) * error, rel=1e-9)
    assert lower_end(values.tolist(), 0.9) == pytest.approx(mean - stats.t.ppf(0.9, n - 1) * error, rel=1e-9)
    for margin in (0.0, 0.3):
        greater = stats.ttest_1samp(values, margin, alternative="greater").pvalue
        less = stats.ttest_1samp(values, margin, alternative="less").pvalue
        assert p_above(values.tolist(), margin) == pytest.approx(greater, rel=1e-9)
        assert p_below(values.tolist(), margin) == pytest.approx(less, rel=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_interval_and_p_value_agree_on_what_is_above_zero(level):
    values = [0.4, 1.0, 2.2, 1.1]
    low = paired_t(values, level).low
    assert p_above(values, low) == pytest.approx((1 - level) / 2, rel=1e-9)
    assert p_below(values, upper_end(values, level)) == pytest.approx(1 - level, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-310, 1e150, 1e300])
def test_a_scale_that_squares_to_nothing_or_to_infinity_changes_no_p_value(scale):
    values = np.array([-1.0, 3.0, 1.0])
    interval, scaled = paired_t(values.tolist()), paired_t((values * scale).tolist())
    assert (scaled.low / scale, scaled.high / scale) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert p_above((values * scale).tolist()) == pytest.approx(p_above(values.tolist()), rel=1e-6)


def test_ties_give_an_interval_of_no_width():
    interval = paired_t([0.1] * 3)  # 0.1 * 3 / 3 is not 0.1 in floating point
    assert (interval.estimate, interval.low, interval.high) == (0.1, 0.1, 0.1)
    assert (p_above([0.1] * 3), p_above([0.1] * 3, 0.1), p_below([0.1] * 3)) == (0.0, 1.0, 1.0)


def test_one_seed_has_an_estimate_and_no_interval():
    interval = paired_t([0.3])
    assert interval.estimate == 0.3
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(upper_end([0.3]))
    assert math.isnan(p_above([0.3]))


def test_no_seed_has_no_estimate():
    interval = paired_t([])
    assert interval.n == 0
    assert math.isnan(interval.estimate)


def test_nan_is_refused_by_name():
    with pytest.raises(VestigeError, match="1 of 2 values are NaN or infinite"):
        paired_t([1.0, math.nan])
