import ckatorch
import numpy as np
import pytest
import torch

from vestige.formulas import linearity
from vestige.formulas.linearity import (
    class_centred,
    cross_layer_correlation,
    gate_churn,
    gram,
    independent_churn,
    largest_mean,
    linear_cka,
    midpoint_nonlinearity,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_midpoint_of_one_relu_by_hand():
    """max(x, 0) at -2 and 4, halfway at 1: |1 - 2|^2 over |(0 - 4)/2|^2."""
    values = [torch.tensor([[h]]) for h in (0.0, 4.0, 1.0)]
    assert midpoint_nonlinearity(*values).item() == 0.5


def test_midpoint_of_an_affine_map_is_zero_and_of_a_relu_is_not():
    x1_ND, x2_ND, weights_DE = draw(200, 30), draw(200, 30, seed=1), draw(30, 20, seed=2)
    affine = lambda x_ND: x_ND @ weights_DE + 3  # noqa: E731
    inputs = (x1_ND, x2_ND, (x1_ND + x2_ND) / 2)
    assert midpoint_nonlinearity(*map(affine, inputs)) < 1e-14
    assert midpoint_nonlinearity(*(affine(x).relu() for x in inputs)) > 0.1


def test_midpoint_of_unrelated_outputs_is_the_root_of_three():
    value = midpoint_nonlinearity(*(draw(4000, 10, seed=s) for s in range(3)))
    assert value.item() == pytest.approx(3**0.5, rel=0.02)


def test_midpoint_keeps_its_value_under_scale_offset_and_rotation():
    maps = [draw(50, 6, seed=s) for s in range(3)]
    rotation_DD = torch.linalg.qr(draw(6, 6, seed=9)).Q
    changed = midpoint_nonlinearity(*(7 * h @ rotation_DD + 2 for h in maps))
    torch.testing.assert_close(changed, midpoint_nonlinearity(*maps))


@pytest.mark.parametrize("values_at_once", [1, 100, 2**20])
def test_midpoint_in_chunks_is_that_of_the_whole(values_at_once, monkeypatch):
    monkeypatch.setattr(linearity, "_VALUES_AT_ONCE", values_at_once)
    first_ND, second_ND, middle_ND = (draw(50, 6, 5, seed=s) for s in range(3))
    deviation_ND, half_ND = (first_ND + second_ND) / 2 - middle_ND, (first_ND - second_ND) / 2
    expected = np.linalg.norm(deviation_ND) / np.linalg.norm(half_ND)
    assert midpoint_nonlinearity(first_ND, second_ND, middle_ND).item() == pytest.approx(expected, rel=1e-12)


def test_midpoint_is_undefined_where_nothing_differs():
    assert midpoint_nonlinearity(*[torch.zeros(3, 2)] * 3).isnan()


def test_class_centred_logits_leave_out_what_all_classes_share():
    logits_NC = draw(5, 4)
    torch.testing.assert_close(class_centred(logits_NC + draw(5, 1, seed=1)), class_centred(logits_NC))


def test_gate_churn_by_hand():
    first_ND, second_ND = torch.tensor([[1.0, 0, 0, 2]]), torch.tensor([[0.0, 3, 0, 1]])
    assert gate_churn(first_ND, second_ND).item() == 0.5
    assert independent_churn(torch.tensor([0.5, 1.0, 0.25])).item() == pytest.approx((0.5 + 0 + 0.375) / 3)


@pytest.mark.parametrize("shared", [0.5, 0.0], ids=["related", "independent"])
@pytest.mark.parametrize(("n", "features", "others"), [(4, 3, 2), (5, 2, 2), (50, 7, 200), (200, 300, 10)])
def test_cka_is_that_of_ckatorch(n, features, others, shared):
    x_ND = draw(n, features) + 5
    y_NE = draw(n, others, seed=1) + shared * x_ND[:, :1]
    ours = linear_cka(x_ND, y_NE).item()
    assert ours == pytest.approx(ckatorch.cka_batch(x_ND[None], y_NE[None]).item(), abs=1e-9)
    assert ours == pytest.approx(ckatorch.cka_base(x_ND, y_NE, unbiased=True).item(), abs=1e-9)


@pytest.mark.parametrize("values_at_once", [1, 7 * 12, 2**18])
def test_gram_in_chunks_is_that_of_the_whole(values_at_once, monkeypatch):
    monkeypatch.setattr(linearity, "_GRAM_VALUES_AT_ONCE", values_at_once)
    x_ND = 1e3 + draw(12, 50)
    centred_ND = x_ND.numpy() - x_ND.numpy().mean(0)
    np.testing.assert_allclose(gram(x_ND), centred_ND @ centred_ND.T, atol=1e-9)
    np.testing.assert_allclose(gram(x_ND[:, :20]) + gram(x_ND[:, 20:]), gram(x_ND), atol=1e-9)
    assert gram(x_ND.float()).dtype == torch.float64
    assert not gram(x_ND[:, :0]).any()
    assert torch.equal(x_ND, 1e3 + draw(12, 50))  # as it was


def test_cka_is_the_formula_of_hsic1():
    x_ND, y_NE = draw(12, 3), draw(12, 5, seed=1)
    k, l = (z @ z.T for z in (x_ND.numpy(), y_NE.numpy()))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    ratio = _hsic1(k, l) / np.sqrt(_hsic1(k, k) * _hsic1(l, l))
    assert linear_cka(x_ND, y_NE).item() == pytest.approx(ratio, abs=1e-12)


def _hsic1(k, l):
    n, one = len(k), np.ones(len(k))
    middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ l) + middle - 2 * one @ k @ l @ one / (n - 2)) / (n * (n - 3))


def test_cka_keeps_its_value_under_scale_offset_rotation_and_order():
    x_ND, y_NE = draw(40, 6), draw(40, 8, seed=1)
    order_N = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    changed_ND = (9 * x_ND @ torch.linalg.qr(draw(6, 6, seed=3)).Q + 100)[order_N]
    torch.testing.assert_close(linear_cka(changed_ND, y_NE[order_N]), linear_cka(x_ND, y_NE))
    torch.testing.assert_close(linear_cka(changed_ND, x_ND[order_N]).item(), 1.0)


def test_cka_of_unrelated_features_is_unbiased():
    """With 20 images of 1,000 features the biased estimator gives above 0.9, this one about 0."""
    values = torch.stack([linear_cka(*draw(2, 20, 1000, seed=s)) for s in range(50)])
    assert abs(values.mean()) < 3 * values.std() / 50**0.5
    assert values.std() < 0.2
    assert ckatorch.cka_base(draw(20, 1000), draw(20, 1000, seed=1)) > 0.9


def test_cka_is_undefined_for_a_representation_that_does_not_vary():
    assert linear_cka(torch.zeros(8, 3, dtype=torch.float64), draw(8, 3)).isnan()


@pytest.mark.parametrize("value", [0.1, 1 / 3, -1e6 - 0.1])
@pytest.mark.parametrize("features", [1, 7, 1000])
def test_cka_is_undefined_for_a_constant_whose_mean_is_rounded(value, features):
    """In float64, less their rounded mean, all images have the same tiny vector, and two such layers a CKA of 1."""
    constant = torch.full((300, features), value, dtype=torch.float64)
    assert linear_cka(constant, constant / 3).isnan()
    assert linear_cka(constant, draw(300, 5)).isnan()
    barely = constant.clone()
    barely[::2, 0] *= 1 + 1e-12  # varies, and more than by rounding
    assert linear_cka(barely, barely) == pytest.approx(1)


def test_largest_mean_by_hand():
    activations_NU = torch.tensor([[1.0, 5, 3], [0, 0, 6]])
    assert largest_mean(activations_NU, 2).tolist() == [4, 3]
    assert largest_mean(activations_NU, 7).tolist() == [3, 2]


def test_cross_layer_correlation_is_that_of_a_loop():
    scores_NL, labels_N, groups = draw(60, 4), torch.arange(60) % 3, ["a", "a", "b", "logits"]
    scores_NL[:, 2] += scores_NL[:, 0]
    of_classes = []
    for c in range(3):
        values = scores_NL[labels_N == c].numpy()
        rs = [
            abs(np.corrcoef(values[:, i], values[:, j])[0, 1])
            for i in range(4)
            for j in range(i)
            if groups[i] != groups[j]
        ]
        assert len(rs) == 5
        of_classes.append(np.mean(rs))
    correlation = cross_layer_correlation(scores_NL, labels_N, groups)
    assert correlation.item() == pytest.approx(np.mean(of_classes), abs=1e-12)


def test_cross_layer_correlation_leaves_out_what_has_no_correlation():
    scores_NL, labels_N, groups = draw(20, 3), torch.tensor([0] * 18 + [1] * 2), ["a", "b", "c"]
    scores_NL[:, 2] = 0.1  # a layer that does not vary; and class 1 has too few images
    expected = abs(np.corrcoef(scores_NL[:18, :2].T)[0, 1])
    assert cross_layer_correlation(scores_NL, labels_N, groups).item() == pytest.approx(expected)
    assert cross_layer_correlation(scores_NL, labels_N, ["a"] * 3).isnan()
    assert cross_layer_correlation(scores_NL[18:], labels_N[18:], groups).isnan()
