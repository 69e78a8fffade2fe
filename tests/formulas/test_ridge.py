import threading

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold

from vestige.formulas.linearity import gram
from vestige.formulas.ridge import EXPONENTS, fit_ridge, held_out_r2, held_out_r2_of


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made_up(n, features, noise):
    """Features of unequal variance and a mean that is not 0, and targets that are affine in them but for noise."""
    x_ND = draw(n, features) * torch.linspace(0.1, 3, features, dtype=torch.float64) + 5
    return x_ND, x_ND @ draw(features, 3, seed=1) / features**0.5 + noise * draw(n, 3, seed=2) + 7


def scikit_learns(x_ND, y_NC):
    """The features themselves, every penalty and fold fitted anew."""
    x, y, train = x_ND.numpy(), y_NC.numpy(), len(x_ND) // 2
    scale = ((x[:train] - x[:train].mean(0)) ** 2).sum() / train
    grid = {"alpha": [scale * 10.0**exponent for exponent in EXPONENTS]}

    def squared(model, x_F, y_F):
        return -((model.predict(x_F) - y_F) ** 2).sum()

    search = GridSearchCV(Ridge(solver="svd"), grid, scoring=squared, cv=KFold(5)).fit(x[:train], y[:train])
    r2 = r2_score(y[train:], search.predict(x[train:]), multioutput="variance_weighted")
    return r2, search


CASES = [(40, 5, 0.5), (40, 100, 0.1), (60, 300, 0.0), (61, 8, 0.0), (60, 8, 3.0), (47, 30, 30.0), (10, 3, 0.1)]


@pytest.mark.parametrize(("n", "features", "noise"), CASES)
def test_r2_is_that_of_scikit_learn(n, features, noise):
    """More features than images and fewer; the intercept free; the penalty chosen by five folds."""
    x_ND, y_NC = made_up(n, features, noise)
    expected, _ = scikit_learns(x_ND, y_NC)
    assert held_out_r2(gram(x_ND), y_NC).item() == pytest.approx(expected, abs=1e-6)
    assert held_out_r2_of(x_ND, y_NC).item() == pytest.approx(expected, abs=1e-6)


def test_cases_choose_penalties_of_all_kinds():
    chosen = {scikit_learns(*made_up(*case))[1].best_index_ for case in CASES}
    assert len(chosen) >= 4
    assert min(chosen) < 4  # strong: almost all noise
    assert len(EXPONENTS) - 1 in chosen  # the weakest: no noise


def test_predictions_are_those_of_scikit_learn():
    x_ND, y_NC = made_up(60, 90, 0.5)
    _, search = scikit_learns(x_ND, y_NC)
    inner_NN = x_ND @ x_ND.T  # not centred: the intercept makes up for it
    dual_TC, intercept_C = fit_ridge(inner_NN[:30, :30], y_NC[:30])
    found = inner_NN[30:, :30] @ dual_TC + intercept_C
    np.testing.assert_allclose(found, search.predict(x_ND[30:].numpy()), atol=1e-6)


def test_an_affine_target_is_predicted_whole_and_a_relu_of_it_is_not():
    x_ND, weights_DC = draw(200, 60), draw(60, 4, seed=1)
    flat_ND = torch.cat([x_ND, x_ND @ draw(60, 500, seed=2) + 3], 1)  # of rank 60
    assert held_out_r2(gram(flat_ND), x_ND @ weights_DC + 9).item() == pytest.approx(1, abs=1e-6)
    assert held_out_r2(gram(flat_ND), (x_ND @ weights_DC).abs()).item() < 0.5


def test_nothing_is_predicted_from_unrelated_features():
    found = [held_out_r2(gram(draw(60, 20, seed=s)), draw(60, 2, seed=s + 99)).item() for s in range(20)]
    assert max(found) < 0.2
    assert np.median(found) == pytest.approx(0, abs=0.1)


def test_r2_keeps_its_value_under_scale_offset_and_rotation():
    x_ND, y_NC = made_up(50, 12, 0.7)
    rotation_DD = torch.linalg.qr(draw(12, 12, seed=5)).Q
    reference = held_out_r2(gram(x_ND), y_NC)
    torch.testing.assert_close(held_out_r2(gram(1e3 * x_ND @ rotation_DD + 40), 5 * y_NC - 3), reference)
    torch.testing.assert_close(held_out_r2(x_ND @ x_ND.T, y_NC), reference)


def test_features_that_do_not_vary_predict_the_mean():
    y_NC = draw(40, 2)
    expected = 1 - ((y_NC[20:] - y_NC[:20].mean(0)) ** 2).sum() / ((y_NC[20:] - y_NC[20:].mean(0)) ** 2).sum()
    torch.testing.assert_close(held_out_r2(gram(torch.ones(40, 3)), y_NC), expected)
    torch.testing.assert_close(held_out_r2_of(torch.ones(40, 3, dtype=torch.float64), y_NC), expected)


@pytest.mark.parametrize("case", ["few", "flat", "infinite", "diverged"])
def test_what_cannot_be_told_is_nan(case):
    x_ND, y_NC = made_up(40, 5, 0.1)
    gram_NN = gram(x_ND)
    match case:
        case "few":
            x_ND, gram_NN, y_NC = x_ND[:9, :2], gram_NN[:9, :9], y_NC[:9]
        case "flat":
            y_NC = torch.full_like(y_NC, 0.1)
        case "infinite":
            x_ND[3, 4] = gram_NN[3, 4] = torch.inf
        case "diverged":
            y_NC[0, 0] = torch.nan
    assert held_out_r2(gram_NN, y_NC).isnan()
    assert held_out_r2_of(x_ND, y_NC).isnan()


def test_threads_are_put_back_where_two_regressions_overlap():
    """The second would have put back the one thread of the first."""
    before, both = torch.get_num_threads(), threading.Barrier(2, timeout=60)

    def overlap():
        both.wait()
        for _ in range(20):
            held_out_r2(gram(torch.randn(60, 4, dtype=torch.float64)), torch.randn(60, 2, dtype=torch.float64))

    torch.set_num_threads(2)
    try:
        threads = [threading.Thread(target=overlap) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_num_threads() == 2
        seen = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)
