from itertools import product

import pytest
import torch

from vestige.formulas import control
from vestige.formulas.control import ALWAYS, Design, Pilot
from vestige.formulas.effects import Totals, neuron_effects

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture(name="guides")
def _guides():
    """Of very unlike sizes, some 0."""
    guides_UN = (random(5, 40) * 8 - 4).exp()
    guides_UN[:, ::7] = 0
    return guides_UN


@pytest.mark.parametrize("number", [0.5, 5, 20, 33.9])
def test_chances_add_up_to_the_number(guides, number):
    chances_UN = control.chances(guides, control.factor_for_number(guides, number))
    torch.testing.assert_close(chances_UN.sum(1), torch.full((5,), number, dtype=F64))
    assert (chances_UN.amax(1) <= 1).all()
    assert (chances_UN[:, ::7] == 0).all()


def test_more_than_there_are_takes_all(guides):
    factor_U = control.factor_for_number(guides, 34)  # 40 less 6 that are 0
    smallest_U = torch.where(guides > 0, guides, torch.inf).amin(1)
    torch.testing.assert_close(factor_U, 1 / smallest_U)
    assert (control.factor_for_number(guides, 35) == ALWAYS).all()
    assert (control.factor_for_number(torch.zeros(2, 3, dtype=F64), 1) == ALWAYS).all()


@pytest.mark.parametrize("variance", [0.01, 1.0, 100.0])
def test_the_variance_is_what_was_asked_for(guides, variance):
    scale_U, variance_U = random(5, seed=1) + 0.1, torch.full((5,), variance, dtype=F64)
    chances_UN = control.chances(guides, control.factor_for_variance(guides, scale_U, variance_U))
    slow_U = [
        sum(float(s * g**2 * (1 - c) / c) for g, c in zip(guides_N, chances_N, strict=True) if c > 0)
        for s, guides_N, chances_N in zip(scale_U, guides, chances_UN, strict=True)
    ]
    torch.testing.assert_close(torch.tensor(slow_U, dtype=F64), variance_U)
    torch.testing.assert_close(control.implied_variance(guides, chances_UN, scale_U), variance_U)


def test_over_all_samples_that_could_be_drawn_the_sum_is_unbiased_and_its_variance_known():
    truths_N, predicted_N = random(6) * 4 - 2, random(6, seed=1)
    chances_N = torch.tensor([0.9, 0.2, 1.0, 0.5, 0.05, 0.7], dtype=F64)
    off_N = truths_N - predicted_N
    mean = square = estimated = 0.0
    for drawn in product([False, True], repeat=6):
        drawn_N = torch.tensor(drawn)
        probability = float(torch.where(drawn_N, chances_N, 1 - chances_N).prod())
        units_R = torch.zeros(int(drawn_N.sum()), dtype=torch.int64)
        pairs = off_N[drawn_N], chances_N[drawn_N], units_R, 1
        total = float(predicted_N.sum() + control.correction(*pairs))
        mean += probability * total
        square += probability * total**2
        estimated += probability * float(control.correction_variance(*pairs))
    assert mean == pytest.approx(float(truths_N.sum()), rel=1e-12)
    assert estimated == pytest.approx(square - mean**2, rel=1e-9)
    assert estimated == pytest.approx(float((off_N**2 * (1 - chances_N) / chances_N).sum()), rel=1e-9)


def pilot(truths_UN, estimates_UN, sizes_UN) -> Pilot:
    """All images of two neurons."""
    units_R, images_R = (sizes_UN > 0).nonzero(as_tuple=True)
    at = units_R, images_R
    return Pilot(units_R, estimates_UN[at], sizes_UN[at], truths_UN[at], torch.ones(len(units_R), dtype=F64))


def test_the_slope_that_fits_all_neurons_is_found_whatever_leans_on_the_layer():
    estimates_UN, sizes_UN = random(3, 50) - 0.5, random(3, 50, seed=1) + 0.1
    found = control.design(
        pilot(0.7 * estimates_UN, estimates_UN, sizes_UN), control.mean_sizes(sizes_UN), 1.0, torch.full((3,), 50)
    )
    torch.testing.assert_close(found.slope, torch.full((3,), 0.7, dtype=F64))
    assert (found.scale < 1e-20).all()


def test_residuals_in_proportion_to_the_size_need_no_floor_and_even_ones_a_high_one():
    sizes_UN = (random(2, 4000) * 6 - 3).exp()
    means_U = control.mean_sizes(sizes_UN)
    signs_UN = (random(2, 4000, seed=1) > 0.5).double() * 2 - 1
    nothing_UN, all_U = torch.zeros(2, 4000, dtype=F64), torch.full((2,), 4000)
    found = control.design(pilot(signs_UN * 0.3 * sizes_UN, nothing_UN, sizes_UN), means_U, 1.0, all_U)
    assert (found.floor == control.FLOORS[0]).all()
    # mean(r^2 / g) / mean(g), by hand, and no more than its standard error above.
    guide_UN = sizes_UN + 0.05 * means_U[:, None]
    slow_U = 0.09 * (sizes_UN**2 / guide_UN).mean(1) / guide_UN.mean(1)
    assert ((found.scale > slow_U * 0.999) & (found.scale < slow_U * 1.03)).all()
    even = control.design(pilot(signs_UN, nothing_UN, sizes_UN), means_U, 1.0, all_U)
    assert (even.floor == control.FLOORS[-1]).all()


def test_a_neuron_without_a_pilot_takes_after_its_layer():
    estimates_UN, sizes_UN = random(2, 50) - 0.5, random(2, 50, seed=1) + 0.1
    sizes_UN[1] = 0
    found = control.design(
        pilot(0.7 * estimates_UN, estimates_UN, sizes_UN),
        control.mean_sizes(sizes_UN),
        1.0,
        (sizes_UN > 0).sum(1),
    )
    torch.testing.assert_close(found.slope, torch.full((2,), 0.7, dtype=F64))
    assert found.scale.isfinite().all()


def test_the_variance_over_images_is_exact_where_all_are_in_the_pilot():
    truths_UN, estimates_UN, sizes_UN = random(2, 30), random(2, 30, seed=1), random(2, 30, seed=2) + 0.1
    of_all = pilot(truths_UN, estimates_UN, sizes_UN)
    one_U = torch.ones(2, dtype=F64)
    design = Design(0.5 * one_U, one_U, one_U)
    predicted_UN = 0.5 * estimates_UN
    sums_U2 = torch.stack([predicted_UN.sum(1), predicted_UN.square().sum(1)], 1)
    found_U = control.image_variance(of_all, design, sums_U2, 0.5 * one_U, 30, 1.0)
    torch.testing.assert_close(found_U, truths_UN.var(1, correction=0))
    less_U = control.image_variance(of_all, design, sums_U2, 0.0 * one_U, 30, 1.0)
    torch.testing.assert_close(less_U, torch.minimum(truths_UN.var(1, correction=0), predicted_UN.var(1, correction=0)))


def test_few_images_lean_on_what_the_pilot_implied():
    found_U = control.total_variance(
        torch.tensor([1.0, 1.0, 3.0], dtype=F64),
        torch.tensor([3.0, 3.0, 0.0], dtype=F64),
        torch.tensor([control.TRUSTED, 0, 5]),
    )
    assert found_U.tolist() == [2.0, 3.0, 3.0]


def test_errors_of_estimated_sums_add_up():
    """Four images, changes 1, 2, 3, 6: mean 3, sample variance 14 / 3."""
    sums = Totals(
        *(torch.tensor([[value]], dtype=F64) for value in (12.0, 50.0, 1.0, 0.0)), torch.tensor([4.0]).double()
    )
    preferred_U = torch.tensor([0])
    exact = neuron_effects(sums, preferred_U)
    certain = control.controlled_effects(sums, torch.zeros(1, dtype=F64), preferred_U)
    assert certain.pop("approximation_se") == 0
    assert all(torch.equal(certain[name], exact[name]) or exact[name].isnan() for name in exact)
    # A variance of 4.8 of the sum: 0.3 of the mean. (12^2 - 4.8) / 4 = 34.8; (50 - 34.8) / 3 / 4 = 1.26667.
    found = control.controlled_effects(sums, torch.tensor([4.8], dtype=F64), preferred_U)
    assert float(found["approximation_se"]) == pytest.approx(0.3**0.5)
    assert float(found["loss_delta_se"]) == pytest.approx((1.2666667 + 0.3) ** 0.5)


def test_margins_far_from_zero_settle_who_is_right():
    margin, before = torch.tensor([2.0, -2.0, 0.0, 0.5]), torch.tensor([1.0, 1.0, 1.0, 1.0])
    found = control.right_after(margin, before, 0.1)
    assert found.tolist() == pytest.approx([1, 0, 0.5, 1], abs=1e-9)
    assert float(control.right_after(margin, before, 1.0)[3]) == pytest.approx(0.8413447)  # Phi(1)
    assert control.right_after(margin[:2], before[:2], 0.0).tolist() == [1, 0]


def test_the_steepness_follows_how_often_margins_mislead():
    before_R, margin_R = torch.ones(10_000), random(10_000).float() * 4 - 2
    change_R = margin_R - 1
    error_R = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    for true in (0.1, 0.5):
        right_R = margin_R + true * change_R.abs() * error_R > 0
        assert control.steepness(margin_R, before_R, right_R, torch.ones(10_000)) == true
