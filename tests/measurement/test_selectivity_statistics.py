"""What selectivity's statistics promise, on simulated layers: no bias, uniform p-values, few false discoveries."""

import re

import numpy as np
import pytest
import torch

from scripts import docs_script

torch.set_num_threads(1)

simulation = docs_script("explanation/selectivity_statistics.py")
QUICK = simulation.Setting(10, 40, datasets=40)
SLOW = simulation.SETTINGS
RATES, LAYERS = simulation.RATES, simulation.NULL_LAYERS


@pytest.fixture(
    scope="module",
    params=[QUICK, *(pytest.param(setting, marks=pytest.mark.slow) for setting in SLOW)],
    ids=str,
    name="outcome",
)
def _outcome(request):
    return simulation.simulate(request.param)


def standard_errors(values_D, number):
    return number * np.std(values_D, ddof=1) / len(values_D) ** 0.5


def test_only_raw_measures_are_biased(outcome):
    tolerance = 0.03 if outcome.setting is QUICK else 0.01
    for rate in RATES:
        at = simulation.rates_of("mixed") == rate
        means_D = {name: values_DU[:, at].mean(1) for name, values_DU in outcome.measures.items()}
        assert means_D["csi"].mean() > 0.1
        assert means_D["eta2"].mean() > 0.8 * (outcome.setting.classes - 1) / (
            outcome.setting.classes * outcome.setting.images - 1
        )
        means_D["auroc"] = means_D["auroc"] - 0.5
        for name in ("csi_excess", "csi_cv", "eta2_adj", "auroc", "informedness", "mutual_information"):
            assert abs(means_D[name].mean()) < tolerance, (name, rate)
            assert abs(means_D[name].mean()) < standard_errors(means_D[name], 4), (name, rate)


@pytest.mark.parametrize("layer", LAYERS)
def test_p_values_without_signal_are_uniform(layer, outcome):
    """Also where firing rates mix, where neurons are correlated, and beside selective neurons."""
    for rate in np.unique(simulation.rates_of(layer)):
        assert simulation.uniformity(outcome, layer, rate, outcome.setting.permutations) > 0.001
        at = np.flatnonzero(simulation.rates_of(layer)[: simulation.without_signal(layer)] == rate)
        p_DU = outcome.p[outcome.setting.permutations, layer][:, at]
        for level in (0.5, 0.05):
            below_D = (p_DU <= level).mean(1)
            assert abs(below_D.mean() - level) < 0.1 * level + standard_errors(below_D, 4)


@pytest.mark.parametrize("permutations", [100, 20])
@pytest.mark.parametrize("layer", LAYERS[:-1])
def test_any_flag_without_signal_is_rare(layer, permutations, outcome):
    any_D = outcome.flags(layer, permutations).any(1)
    assert any_D.mean() <= 0.05 + 2 * (0.05 * 0.95 / len(any_D)) ** 0.5


@pytest.mark.parametrize("permutations", [100, 20])
@pytest.mark.parametrize("layer", [f"effect {effect}" for effect in simulation.EFFECTS])
def test_few_discoveries_are_false(layer, permutations, outcome):
    false_D = simulation.false_discovery_rate(outcome, layer, permutations)
    assert false_D.mean() <= 0.05 + standard_errors(false_D, 2)


def test_strong_effects_are_found_and_their_class_is_right(outcome):
    layer = f"effect {simulation.EFFECTS[-1]}"
    found_DU = outcome.flags(layer, outcome.setting.permutations)[:, simulation.NULL :]
    often = simulation.rates_of(layer)[simulation.NULL :] == RATES[-1]
    assert found_DU[:, often].mean() > 0.9
    assert outcome.preferred_right[layer][found_DU].mean() > 0.95


@pytest.mark.slow
def test_the_docs_state_these_numbers(outcome):
    """To the sampling error of another machine's arithmetic."""
    page = simulation.PAGE.read_text()
    for table in (simulation.bias_table, simulation.power_table, simulation.pooling_table):
        for line in table([outcome])[2:] if outcome.setting in SLOW else ():
            label, numbers = _parsed(line)
            stated = [_parsed(other) for other in page.splitlines() if other.startswith("| ")]
            assert any(other == label and np.allclose(values, numbers, atol=0.02) for other, values in stated), line


def _parsed(line):
    """The cells that name a row, and the numbers of the others."""
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    return [c for c in cells if not re.fullmatch(r"-?\d+\.\d+", c)], [
        float(c) for c in cells if re.fullmatch(r"-?\d+\.\d+", c)
    ]


def test_pooled_whole_a_layer_of_selective_neurons_misleads():
    """Why the observed values stay out of the SD of the permuted ones: p <= 0.01 too often, but for that."""
    outcome = simulation.simulate(simulation.Setting(10, 100, datasets=40), seed=1)
    null_DU = np.s_[:, : simulation.without_signal("beside selective")]
    p_DU, pooled_DU = (outcome.p[100, "beside selective" + how][null_DU] for how in ("", simulation.POOLED))
    assert (pooled_DU <= 0.01).mean() > 0.02
    assert (p_DU <= 0.01).mean() < 0.01 + standard_errors((p_DU <= 0.01).mean(1), 3)
