import math
import subprocess
import sys

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import rankdata, spearmanr

from vestige.stats.ranks import fisher_mean, partial_spearman, ranks


@pytest.mark.parametrize("seed", range(5))
def test_partial_spearman_is_the_correlation_of_what_ranks_do_not_explain(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=60).round(1)  # with ties
    x, y = z + rng.normal(size=60), -0.5 * z + rng.normal(size=60)
    design = sm.add_constant(rankdata(z))
    left = [sm.OLS(rankdata(values), design).fit().resid for values in (x, y)]
    assert partial_spearman(x, y, z) == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-12)


def test_a_variable_that_explains_nothing_changes_little_and_one_that_explains_all_leaves_nothing():
    rng = np.random.default_rng(0)
    z = rng.normal(size=4000)
    x, y = rng.normal(size=(2, 4000)) + z
    assert spearmanr(x, y).statistic > 0.4
    assert abs(partial_spearman(x, y, z)) < 0.05
    assert partial_spearman(x, y, rng.normal(size=4000)) == pytest.approx(spearmanr(x, y).statistic, abs=0.02)


def test_where_there_is_no_correlation_to_speak_of():
    assert math.isnan(partial_spearman([1, 2, 3], [1, 3, 2], [2, 1, 3]))
    assert math.isnan(partial_spearman([1, 1, 1, 1, 1], [1, 3, 2, 5, 4], [2, 1, 3, 4, 5]))
    assert math.isnan(partial_spearman([1, 2, 3, 4, 5], [1, 3, 2, 5, 4], [2, 4, 6, 8, 10]))
    whole = partial_spearman([1, 5, 3, 4, 2], [1, 3, 2, 5, 4], [2, 1, 3, 4, 5])
    assert partial_spearman([1, 5, 3, 4, 2, math.nan], [1, 3, 2, 5, 4, 0], [2, 1, 3, 4, 5, 9]) == whole


def test_fisher_mean():
    assert fisher_mean([0.3, math.nan, 0.3]) == pytest.approx(0.3)
    assert fisher_mean([0.0, 0.8]) == pytest.approx(math.tanh(math.atanh(0.8) / 2))
    assert 0.9 < fisher_mean([1.0, 0.5]) < 1
    assert math.isnan(fisher_mean([math.nan]))


def test_ranks_are_those_of_scipy():
    values = np.random.default_rng(0).integers(0, 20, 50).astype(float)
    assert ranks(values).tolist() == rankdata(values).tolist()
    assert ranks(np.array([3.0, -1.0, 3.0, 7.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_stats_import_no_scipy_stats():
    rooms = ("bootstrap", "corrections", "effects", "equivalence", "intervals", "power", "ranks")
    imports = ", ".join(f"vestige.stats.{room}" for room in rooms)
    code = f"import sys, {imports}; print('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
