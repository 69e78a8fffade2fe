import numpy as np
import pytest
import scipy.stats
import torch

from vestige.errors import VestigeError
from vestige.formulas.selectivity import (
    adjusted_eta2,
    class_means,
    class_sums,
    cross_validated_csi,
    csi,
    csi_from_sums,
    discoveries,
    eta2,
    eta2_from_moments,
    layer_p_values,
    selective,
    sparsity,
    split_half_reliability,
)

N, U, C = 60, 8, 5


@pytest.fixture(name="activations_NU")
def _activations():
    return torch.rand(N, U, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(name="labels_N")
def _labels():
    labels_N = torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(1))
    return labels_N.where(labels_N != 3, 4)  # class 3 has no image


def test_csi_of_hand_computed_means():
    means_CU = torch.tensor([[3.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 0.5, 2.0]], dtype=torch.float64)
    expected_U = [(3 - 0.5) / (3.5 + 1e-6), 0.5 / (0.5 + 1e-6), 0]
    assert csi(means_CU).tolist() == pytest.approx(expected_U, abs=1e-12)


def test_csi_leaves_out_classes_without_an_image():
    means_CU = torch.tensor([[3.0], [torch.nan], [1.0]])
    assert csi(means_CU).item() == pytest.approx(0.5, abs=1e-6)


def test_faithful_sums_follow_the_counts():
    """Ten weak images outweigh one strong: the release's class sums prefer the common class."""
    sums_CU, counts_C = class_sums(torch.tensor([[4.0]] + [[1.0]] * 10), torch.tensor([0] + [1] * 10), 3)
    assert counts_C.tolist() == [1, 10, 0]
    assert csi_from_sums(sums_CU).item() == pytest.approx((10 - 2) / (10 + 2), abs=1e-6)  # rest: (4 + 0) / 2
    assert csi(sums_CU / counts_C[:, None]).item() == pytest.approx((4 - 1) / (4 + 1), abs=1e-6)


def test_faithful_equals_corrected_on_balanced_classes(activations_NU):
    labels_N = torch.arange(N) % C
    faithful_U = csi_from_sums(class_sums(activations_NU, labels_N, C)[0])
    torch.testing.assert_close(faithful_U, csi(class_means(activations_NU, labels_N, C)), atol=1e-5, rtol=0)


def test_eta2_is_that_of_scipys_one_way_anova(activations_NU, labels_N):
    present = labels_N.unique().tolist()
    for u in range(U):
        groups = [activations_NU[labels_N == c, u].numpy() for c in present]
        f = scipy.stats.f_oneway(*groups).statistic
        between, within = len(present) - 1, N - len(present)
        assert eta2(activations_NU, labels_N, C)[u].item() == pytest.approx(
            f * between / (f * between + within), abs=1e-12
        )


def test_adjusted_eta2_is_one_minus_the_ratio_of_unbiased_variances(activations_NU, labels_N):
    present = labels_N.unique().tolist()
    residual_NU = activations_NU - class_means(activations_NU, labels_N, C)[labels_N]
    within_U = residual_NU.square().sum(0) / (N - len(present))
    expected_U = 1 - within_U / activations_NU.var(0)
    adjusted_U = adjusted_eta2(eta2(activations_NU, labels_N, C), N, len(present))
    torch.testing.assert_close(adjusted_U, expected_U)
    assert adjusted_eta2(adjusted_U, 4, 4).isnan().all()


def test_eta2_from_moments_agrees(activations_NU, labels_N):
    sums_CU, counts_C = class_sums(activations_NU, labels_N, C)
    from_moments_U = eta2_from_moments(sums_CU, counts_C, activations_NU.square().sum(0))
    torch.testing.assert_close(from_moments_U, eta2(activations_NU, labels_N, C), atol=1e-12, rtol=0)


@pytest.mark.parametrize("constant", [0.0, 0.3, 1e6])
def test_a_constant_neuron_explains_nothing(constant):
    activations_NU = torch.full((7, 1), constant, dtype=torch.float64)
    labels_N = torch.arange(7) % 3
    sums_CU, counts_C = class_sums(activations_NU, labels_N, 3)
    assert eta2(activations_NU, labels_N, 3).item() == 0
    assert eta2_from_moments(sums_CU, counts_C, activations_NU.square().sum(0)).item() == 0
    assert csi(sums_CU / counts_C[:, None]).item() == pytest.approx(0, abs=1e-12)


MEASURES = ("csi", "csi_cv", "eta2", "sparsity", "reliability")
CHANGED_BY = {  # which measures a change of the data changes; the others keep their value
    "scale": (),
    "offset": ("csi", "csi_cv", "sparsity"),
    "permute classes": (),
    "permute images": (),
    "add an absent class": (),
    "permute labels": ("csi", "csi_cv", "eta2", "reliability"),
}


@pytest.mark.parametrize("change", CHANGED_BY)
@pytest.mark.parametrize("measure", MEASURES)
def test_invariances(change, measure, activations_NU, labels_N):
    order_N = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    renamed_C = torch.tensor([2, 0, 4, 1, 3])
    half_N = torch.arange(N) % 2
    signal_NU = activations_NU + (labels_N == 1)[:, None] * torch.linspace(0.5, 3, U)  # every r is positive
    changed_NU, changed_N, classes, halves_N = {
        "scale": (signal_NU * 1e3, labels_N, C, half_N),
        "offset": (signal_NU + 5, labels_N, C, half_N),
        "permute classes": (signal_NU, renamed_C[labels_N], C, half_N),
        "permute images": (signal_NU[order_N], labels_N[order_N], C, half_N[order_N]),
        "add an absent class": (signal_NU, labels_N, C + 1, half_N),
        "permute labels": (signal_NU, labels_N[order_N], C, half_N),
    }[change]
    before_U = _measure(measure, signal_NU, labels_N, C, half_N)
    after_U = _measure(measure, changed_NU, changed_N, classes, halves_N)
    same = torch.allclose(before_U, after_U, atol=1e-5, rtol=0)
    assert same == (measure not in CHANGED_BY[change])
    assert not before_U.isnan().any()


def _measure(name, a_NU, labels_N, classes, half_N):
    means = [class_means(a_NU[half_N == h], labels_N[half_N == h], classes) for h in (0, 1)]
    return {
        "csi": lambda: csi(class_means(a_NU, labels_N, classes)),
        "csi_cv": lambda: cross_validated_csi(*means),
        "eta2": lambda: eta2(a_NU, labels_N, classes),
        "sparsity": lambda: sparsity(a_NU.mean(0), a_NU.square().mean(0)),
        "reliability": lambda: split_half_reliability(*means),
    }[name]()


def test_noise_biases_the_index_but_not_the_cross_validated_one():
    """400 neurons without signal: mean csi_cv is 0 to three standard errors, mean csi far from it."""
    generator = torch.Generator().manual_seed(3)
    classes, images = 20, 20
    a_NU = -torch.rand(images * classes, 400, generator=generator, dtype=torch.float64).log()  # exponential
    a_NU *= torch.rand(a_NU.shape, generator=generator) < 0.2  # sparse
    labels_N = torch.arange(len(a_NU)) % classes
    halves = [slice(None, len(a_NU) // 2), slice(len(a_NU) // 2, None)]
    cv_U = cross_validated_csi(*(class_means(a_NU[h], labels_N[h], classes) for h in halves))
    standard_error = cv_U.std() / len(cv_U) ** 0.5
    assert abs(cv_U.mean()) < 3 * standard_error
    assert standard_error < 0.02
    assert csi(class_means(a_NU, labels_N, classes)).mean() > 0.3


def test_csi_cv_by_hand():
    """A names class 0: 3 - 2 in B over 4 + 1 in A; B names class 1: 2 - 2 in A over 4 + 1.5 in B."""
    means_a_CU = torch.tensor([[4.0], [2.0], [0.0], [9.0]])
    means_b_CU = torch.tensor([[3.0], [4.0], [0.0], [torch.nan]])
    expected = ((3 - 2) / (4 + 1 + 1e-6) + (2 - 2) / (4 + 1.5 + 1e-6)) / 2
    assert cross_validated_csi(means_a_CU, means_b_CU).item() == pytest.approx(expected, abs=1e-7)


def test_csi_cv_of_a_neuron_silent_in_one_half():
    silent_CU, firing_CU = torch.zeros(3, 1), torch.tensor([[0.0], [6.0], [0.0]])
    assert cross_validated_csi(silent_CU, firing_CU).item() == 0
    assert cross_validated_csi(silent_CU, silent_CU).item() == 0


def test_reliability_is_pearsons_r_stepped_up():
    generator = torch.Generator().manual_seed(4)
    a_CU = torch.rand(9, 3, generator=generator, dtype=torch.float64)
    b_CU = torch.stack([a_CU[:, 0] + 0.3 * torch.rand(9, generator=generator), -a_CU[:, 1], torch.ones(9)], 1)
    r = np.corrcoef(a_CU[:, 0], b_CU[:, 0])[0, 1]
    reliability_U = split_half_reliability(a_CU, b_CU)
    assert reliability_U[0].item() == pytest.approx(2 * r / (1 + r), abs=1e-12)
    assert reliability_U[1:].isnan().all()


def test_sparsity_of_a_neuron_that_fires_on_one_image_in_four():
    a_NU = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    values = sparsity(a_NU.mean(0), a_NU.square().mean(0)).tolist()
    assert values[:2] == [0.75, 0.0]
    assert np.isnan(values[2])


def p_values_by_loop(observed, permuted, strata):
    """Neuron by neuron; the observed value takes the last permuted one's place where it is standardised."""

    def z(value, among):
        return (value - np.mean(among)) / np.std(among, ddof=1)

    p = np.ones(len(observed))
    for stratum in strata:
        pool = [z(value, permuted[:, u]) for u in stratum for value in permuted[:, u]]
        for u in stratum:
            own = z(observed[u], [observed[u], *permuted[:-1, u]])
            p[u] = (1 + sum(value >= own for value in pool)) / (1 + len(pool))
    return p


def test_p_values_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(5)
    permuted_PU = torch.rand(20, 4, generator=generator, dtype=torch.float64)
    permuted_PU[:, 3] = 0
    observed_U = torch.tensor([0.5, 2.0, 0.9, 0.0], dtype=torch.float64)
    expected = p_values_by_loop(observed_U.numpy(), permuted_PU.numpy(), [range(3)])
    assert layer_p_values(observed_U, permuted_PU).tolist() == pytest.approx(expected, abs=1e-12)
    assert expected[1] == 1 / 61
    assert expected[3] == 1


@pytest.mark.parametrize(("permutations", "strata"), [(20, 4), (99, 4), (100, 4), (124, 4), (200, 5)])
def test_a_layer_is_cut_into_strata_by_the_mean_of_the_null(permutations, strata):
    """80 neurons are at most 5 strata of 16; neuron u's null lies around u."""
    generator = torch.Generator().manual_seed(6)
    values_QU = torch.rand(permutations + 1, 80, generator=generator, dtype=torch.float64) + torch.arange(80)
    order_U = torch.randperm(80, generator=generator)
    p_U = layer_p_values(values_QU[0, order_U], values_QU[1:, order_U])
    expected = p_values_by_loop(values_QU[0].numpy(), values_QU[1:].numpy(), np.array_split(np.arange(80), strata))
    assert p_U.numpy() == pytest.approx(expected[order_U.numpy()], abs=1e-12)


def test_selective_neighbours_do_not_change_a_p_value():
    """Standardised together with their observed value, as by layer, theirs would thin the tail."""
    values_QU = torch.rand(51, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    before_U = layer_p_values(values_QU[0], values_QU[1:])
    selective_U = values_QU[0].clone()
    selective_U[4:] += 100
    after_U = layer_p_values(selective_U, values_QU[1:])
    assert torch.equal(after_U[:4], before_U[:4])
    assert after_U[4:].tolist() == [1 / 601] * 8


def test_a_tie_with_a_permuted_value_counts_against_the_neuron():
    assert layer_p_values(torch.tensor([1.0]), torch.tensor([[1.0], [0.0], [0.0]])).item() == pytest.approx(2 / 4)


def test_p_values_without_signal_are_uniform():
    values = torch.rand(101, 2000, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    p_U = layer_p_values(values[0], values[1:])
    assert scipy.stats.kstest(p_U.numpy(), "uniform").pvalue > 0.001


def test_one_permutation_says_nothing():
    assert layer_p_values(torch.tensor([1.0]), torch.tensor([[0.0]])).item() == 1


def test_discoveries_by_hand():
    """Benjamini-Hochberg at 5% of six: the fourth is below 4/6 of 5%, so the third, above 3/6, is in too."""
    p_U = torch.tensor([0.001, 0.9, torch.nan, 0.033, 0.026, 0.008, 0.2])
    assert discoveries(p_U).tolist() == [True, False, False, True, True, True, False]
    assert discoveries(p_U, level=0.01).tolist() == [True, False, False, False, False, False, False]
    assert not discoveries(torch.tensor([0.03, 0.04, 0.2])).any()
    assert discoveries(torch.full((3,), torch.nan)).tolist() == [False] * 3
    assert discoveries(torch.empty(0)).tolist() == []


def test_selective_is_flagged_and_above_the_untrained_layer():
    initial_U = torch.cat([torch.arange(101) / 100, torch.tensor([torch.nan])])  # 95% quantile: 0.95
    csi_cv_U = torch.tensor([0.96, 0.94, 0.99, torch.nan])
    flags_U = torch.tensor([True, True, False, True])
    assert selective(flags_U, csi_cv_U, initial_U).tolist() == [True, False, False, False]
    assert selective(flags_U, csi_cv_U).tolist() == flags_U.tolist()
    assert selective(flags_U, csi_cv_U, torch.full((4,), torch.nan)).tolist() == flags_U.tolist()


@pytest.mark.parametrize("measure", [csi, csi_from_sums])
def test_gradient_agrees_with_finite_differences(measure, activations_NU, labels_N):
    """Also where a class has no image: its NaN row must not reach the gradient."""

    def statistic(a_NU):
        if measure is csi:
            return csi(class_means(a_NU, labels_N, C))
        return csi_from_sums(class_sums(a_NU, labels_N, C)[0])

    assert torch.autograd.gradcheck(statistic, activations_NU[:, :3].clone().requires_grad_())


def test_gradient_of_eta2_agrees_with_finite_differences(activations_NU, labels_N):
    some_NU = activations_NU[:, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a_NU: eta2(a_NU, labels_N, C), some_NU)
    dead_NU = torch.zeros(N, 2, requires_grad=True)
    eta2(dead_NU, labels_N, C).sum().backward()
    assert dead_NU.grad is not None
    assert not dead_NU.grad.any()


def test_fewer_than_two_classes_is_an_error():
    with pytest.raises(VestigeError) as error:
        csi(class_means(torch.rand(4, 2), torch.tensor([1, 1, 1, 1]), 3))
    assert str(error.value) == (
        "computing class selectivity: 1 of 3 classes has images. "
        "Give images of at least two classes (in a training batch: a larger batch)."
    )
