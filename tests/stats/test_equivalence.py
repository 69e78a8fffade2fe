"""Equivalence and non-inferiority against statsmodels, values computed by hand, and the registered rule."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from vestige.errors import VestigeError
from vestige.stats.equivalence import equivalence, non_inferiority

SE = 1 / math.sqrt(3)  # of 1, 2, 3
T90 = 2.919986  # t(0.95; 2)


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("margin", [0.2, 1.0, 4.0])
def test_equivalence_agrees_with_statsmodels(n, margin):
    values = np.random.default_rng(n).normal(0.2, 0.5, n)
    shown = equivalence(values.tolist(), margin)
    assert shown.p_value == pytest.approx(DescrStatsW(values).ttost_mean(-margin, margin)[0], rel=1e-9)
    assert (shown.interval.low, shown.interval.high) == pytest.approx(DescrStatsW(values).tconfint_mean(alpha=0.1))
    assert shown.holds is (shown.p_value < 0.05)


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("margin", [0.3, 1.0, 2.0])
def test_non_inferiority_agrees_with_scipy(margin, level):
    harms = np.random.default_rng(4).normal(0.1, 0.5, 5)
    shown = non_inferiority(harms.tolist(), margin, level)
    assert shown.p_value == pytest.approx(stats.ttest_1samp(harms, margin, alternative="less").pvalue, rel=1e-9)
    assert shown.holds is (shown.p_value < 1 - level)


HAND = [  # values, margin -> equivalent, not inferior
    ([1.0, 2.0, 3.0], 2 + T90 * SE + 1e-3, True, True),
    ([1.0, 2.0, 3.0], 2 + T90 * SE - 1e-3, False, False),
    ([-1.0, -2.0, -3.0], 1.0, False, True),  # a gain is no harm, but it is a difference
    ([-1.0, 0.0, 1.0], T90 * SE + 1e-3, True, True),
    ([-1.0, 0.0, 1.0], T90 * SE - 1e-3, False, False),
    ([0.1, 0.1, 0.1], 0.1, False, False),  # ties of exactly the margin
    ([0.1, 0.1, 0.1], 0.11, True, True),
    ([0.0], 1.0, False, False),
    ([], 1.0, False, False),
]


@pytest.mark.parametrize(("values", "margin", "equivalent", "not_inferior"), HAND)
def test_what_holds_is_what_was_computed_by_hand(values, margin, equivalent, not_inferior):
    assert equivalence(values, margin).holds is equivalent
    assert non_inferiority(values, margin).holds is not_inferior


def test_one_seed_has_no_p_value_and_no_ends():
    for shown in (equivalence([0.1], 1.0), non_inferiority([0.1], 1.0)):
        assert shown.interval.estimate == 0.1
        assert math.isnan(shown.p_value)
        assert math.isnan(shown.interval.high)
        assert math.isnan(shown.interval.low)


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan, math.inf])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(VestigeError, match="Give the smallest difference that matters, a number above 0"):
        equivalence([0.1, 0.2], margin)
    with pytest.raises(VestigeError, match="testing non-inferiority"):
        non_inferiority([0.1, 0.2], margin)
