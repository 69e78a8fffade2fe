"""Corrections for many tests against values computed by hand, statsmodels and scipy.stats."""

import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control
from statsmodels.stats.multitest import multipletests

from vestige.errors import VestigeError
from vestige.stats.corrections import benjamini_hochberg, holm

HOLM = [
    ([], []),
    ([0.04], [0.04]),
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm: 4*.005, 3*.01, 2*.03, max(.06, .04)
    ([0.5, 0.6], [1.0, 1.0]),
    ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ([0.001, 1.0, 1.0, 1.0], [0.004, 1.0, 1.0, 1.0]),
]
BH = [
    ([], []),
    ([0.04], [0.04]),
    ([0.01, 0.04, 0.03, 0.005], [0.02, 0.04, 0.04, 0.02]),  # 4*.005, min(4*.01/2), min(4*.03/3, .04), .04
    ([0.5, 0.6], [0.6, 0.6]),
    ([0.02, 0.02, 0.02], [0.02, 0.02, 0.02]),
    ([0.001, 1.0, 1.0, 1.0], [0.004, 1.0, 1.0, 1.0]),
]


@pytest.mark.parametrize(("p", "adjusted"), HOLM)
def test_holm_is_the_one_computed_by_hand(p, adjusted):
    assert holm(p) == pytest.approx(adjusted)


@pytest.mark.parametrize(("p", "adjusted"), BH)
def test_benjamini_hochberg_is_the_one_computed_by_hand(p, adjusted):
    assert benjamini_hochberg(p) == pytest.approx(adjusted)


@pytest.mark.parametrize(("of", "name"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_corrections_agree_with_statsmodels(of, name):
    p = (np.random.default_rng(0).random(40) ** 3).round(3)  # with ties
    assert of(p.tolist()) == pytest.approx(multipletests(p, method=name)[1].tolist(), rel=1e-12)


def test_benjamini_hochberg_agrees_with_scipy_which_flags_neurons():
    p = np.random.default_rng(1).random(500) ** 4
    assert benjamini_hochberg(p.tolist()) == pytest.approx(false_discovery_control(p).tolist(), rel=1e-12)


@pytest.mark.parametrize("of", [holm, benjamini_hochberg])
@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_what_is_no_p_value_is_refused(of, bad):
    with pytest.raises(VestigeError, match="Give 1 for a test that could not be made"):
        of([0.1, bad])
