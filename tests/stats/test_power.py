"""Power against scipy's noncentral t, statsmodels and simulated studies."""

import math

import numpy as np
import pytest
from scipy.special import nctdtr
from scipy.stats import t as student
from statsmodels.stats.power import TTestPower

from vestige.errors import VestigeError
from vestige.stats.power import chance_above, chance_below, detectable, seeds_needed


@pytest.mark.parametrize("n", [2, 3, 5, 10, 100, 1000])
@pytest.mark.parametrize("effect", [-0.5, 0.0, 0.1, 0.8, 3.0])
def test_without_a_smallest_estimate_it_is_the_noncentral_t(n, effect):
    for level in (0.95, 0.975):
        t = student.ppf(level, n - 1)
        expected = 1 - nctdtr(n - 1, effect * math.sqrt(n), t)
        assert chance_above(effect, 1, n, level=level) == pytest.approx(expected, abs=1e-8)
        assert chance_above(2 + 7 * effect, 7, n, margin=2, level=level) == pytest.approx(expected, abs=1e-8)
        assert chance_below(2 - 7 * effect, 7, n, margin=2, level=level) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("effect", "least"), [(1.0, 0.8), (0.5, 0.5), (3.0, 1.0), (0.0, 0.2), (1.5, 2.5)])
def test_with_a_smallest_estimate_it_is_the_share_of_simulated_studies(n, effect, least):
    studies = 100_000
    values = np.random.default_rng(n).normal(effect, 1, (studies, n))
    means, errors = values.mean(1), values.std(1, ddof=1) / math.sqrt(n)
    share = np.mean((means - student.ppf(0.975, n - 1) * errors > 0) & (means >= least))
    chance = float(chance_above(effect, 1, n, least=least))
    assert share == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / studies))


def test_no_effect_is_found_as_often_as_the_level_says():
    assert chance_above(0, 1, [2, 3, 5, 50]) == pytest.approx([0.025] * 4, abs=1e-8)
    assert chance_above(0, 0.1, 5, level=0.95) == pytest.approx(0.05, abs=1e-8)


def test_one_seed_shows_nothing_and_equal_seeds_show_what_they_are():
    assert chance_above(5, 1, [0, 1, 3]).tolist()[:2] == [0, 0]
    assert chance_above(5, 0, [1, 2, 3], margin=4).tolist() == [0, 1, 1]
    assert chance_above(5, 0, 3, margin=5) == 0
    assert chance_above(5, 0, 3, least=5) == 1
    assert chance_above(5, 0, 3, least=5.1) == 0


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_detectable_agrees_with_statsmodels(n):
    for level in (0.95, 0.975):
        effect = TTestPower().solve_power(nobs=n, alpha=1 - level, power=0.9, alternative="larger")
        assert detectable(1, n, level=level, power=0.9) == pytest.approx(effect, rel=1e-5)
        assert detectable(0.1, n, margin=3, level=level, power=0.9) == pytest.approx(3 + 0.1 * effect, rel=1e-5)


def test_detectable_is_where_the_chance_reaches_the_power():
    for least in (0.1, 1.0, 10.0):
        effect = detectable(1, 4, least=least)
        assert chance_above(effect, 1, 4, least=least) == pytest.approx(0.8, abs=1e-9)
    assert effect == pytest.approx(10 + 0.841621 / 2, abs=1e-6)  # far from 0 only `least` matters


def test_detectable_without_spread_or_seeds():
    assert detectable(0, 3, margin=1, least=2) == 2
    assert math.isnan(detectable(1, 1))


@pytest.mark.parametrize("effect", [0.4, 0.8, 2.0])
def test_seeds_needed_agrees_with_statsmodels(effect):
    n = TTestPower().solve_power(effect_size=effect, alpha=0.025, power=0.8, alternative="larger")
    assert seeds_needed(lambda seeds: chance_above(effect, 1, seeds), fewest=2, most=99) == math.ceil(n)


def test_seeds_needed_begins_and_ends_where_it_is_told():
    assert seeds_needed(lambda seeds: chance_above(2, 1, seeds), fewest=20, most=99) == 20
    assert seeds_needed(lambda seeds: chance_above(0.1, 1, seeds), fewest=2, most=99) is None
    assert seeds_needed(lambda seeds: chance_above(0.1, 1, seeds), fewest=100, most=99) is None


@pytest.mark.parametrize(("effect", "spread"), [(math.nan, 1), (1, math.nan), (1, -0.1), (1, math.inf)])
def test_what_is_no_spread_is_refused(effect, spread):
    with pytest.raises(VestigeError, match="Give finite numbers, and a standard deviation that is not negative"):
        chance_above(effect, spread, 3)


@pytest.mark.parametrize("power", [0.5, 1.0, math.nan])
def test_what_is_no_power_is_refused(power):
    with pytest.raises(VestigeError, match=r"Give a chance above 0\.5 and below 1"):
        detectable(1, 3, power=power)
