import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information

from vestige.formulas.kalimeris import (
    conditional_information,
    explained_by_linear,
    group_count,
    grouped,
    information,
)

SURE, THIRD = 1.0, 1 - (np.log2(3) - 2 / 3)  # bits of the tables [[3, 0], [0, 3]] and [[2, 1], [1, 2]]


def whole(*values):
    return torch.tensor(values, dtype=torch.int64)


def draw(n, classes, seed):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def plug_in(x, y):
    """Mutual information in bits, by loops."""
    x, y = np.asarray(x), np.asarray(y)
    total = 0.0
    for a in set(x.tolist()):
        for b in set(y.tolist()):
            if p := ((x == a) & (y == b)).mean():
                total += p * np.log2(p / ((x == a).mean() * (y == b).mean()))
    return total


def test_information_by_hand():
    """Of four images 2 of the 6 permutations give 1 bit, the others none; of six the hypergeometric 1, 9, 9, 1."""
    assert information(whole(0, 0, 1, 1), whole(0, 0, 1, 1)) == pytest.approx(1 - 2 / 6, abs=1e-12)
    assert information(whole(0, 0, 1, 1), whole(0, 1, 0, 1)) == pytest.approx(0 - 2 / 6, abs=1e-12)
    chance = (2 * SURE + 18 * THIRD) / 20
    assert information(whole(0, 0, 0, 1, 1, 1), whole(0, 0, 1, 0, 1, 1)) == pytest.approx(THIRD - chance, abs=1e-12)


def test_conditional_information_by_hand():
    """A stratum of four images, one of six, and one in which the second does not vary."""
    first = whole(0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1)
    second = whole(5, 5, 9, 9, 5, 5, 9, 5, 9, 9, 5, 5)
    given = whole(7, 7, 7, 7, 2, 2, 2, 2, 2, 2, 3, 3)
    chance = (2 * SURE + 18 * THIRD) / 20
    expected = (4 * (1 - 2 / 6) + 6 * (THIRD - chance) + 2 * 0) / 12
    assert conditional_information(first, second, given) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "classes"), [(30, 2), (200, 5), (57, 9)])
def test_information_is_that_of_scikit_learn_less_its_expectation(n, classes):
    x, y = draw(n, classes, 1), draw(n, classes, 2)
    x[: n // 3] = y[: n // 3]
    table = np.histogram2d(x.numpy(), y.numpy(), bins=np.arange(classes + 1))[0].astype(np.int64)
    expected = (mutual_info_score(x, y) - expected_mutual_information(table, n)) / np.log(2)
    assert information(x, y) == pytest.approx(expected, abs=1e-9)


def test_expectations_are_those_of_permutations_within_strata():
    """The exact expectation, witnessed: of all images for I(F;Y), within strata of L for I(F;Y|L)."""
    rng = np.random.default_rng(0)
    given, y = rng.integers(3, size=60), rng.integers(4, size=60)
    x = np.where(rng.random(60) < 0.5, y, given)
    simulated, conditional = [], []
    for _ in range(2000):
        simulated.append(plug_in(rng.permutation(x), y))
        conditional.append(
            sum((given == g).mean() * plug_in(rng.permutation(x[given == g]), y[given == g]) for g in range(3))
        )
    observed = plug_in(x, y), sum((given == g).mean() * plug_in(x[given == g], y[given == g]) for g in range(3))
    x, y, given = map(torch.from_numpy, (x, y, given))
    found = information(x, y), conditional_information(x, y, given)
    for ours, plain, chance in zip(found, observed, (simulated, conditional), strict=True):
        assert np.std(chance) / 2000**0.5 < 0.002
        assert ours == pytest.approx(plain - np.mean(chance), abs=4 * np.std(chance) / 2000**0.5)
        assert plain - ours > 0.05  # the bias is not small


def test_information_averages_nothing_for_independent_variables():
    found = np.array([information(draw(40, 4, 2 * s), draw(40, 4, 2 * s + 1)) for s in range(400)])
    assert abs(found.mean()) < 3 * found.std() / 20
    assert found.std() < 0.1
    assert found.min() < 0


def test_conditional_information_averages_nothing_for_what_depends_on_the_third_alone():
    """Both are noisy copies of L: their information is large, and none is left given L."""
    found, alone = [], []
    for s in range(300):
        given = draw(150, 3, 5 * s)
        x, y = (torch.where(draw(150, 5, 5 * s + i) == 0, draw(150, 3, 5 * s + i + 2), given) for i in (1, 2))
        found.append(conditional_information(x, y, given))
        alone.append(information(x, y))
    assert np.mean(alone) > 0.5
    assert abs(np.mean(found)) < 3 * np.std(found) / 300**0.5
    assert np.std(found) < 0.05


def test_everything_is_explained_where_the_network_is_a_function_of_the_linear_model():
    labels, noise = draw(1000, 4, 0), draw(1000, 4, 1)
    linear = torch.where(noise == 0, draw(1000, 4, 2), labels)
    for function in ([0, 1, 2, 3], [3, 3, 1, 0]):
        found = explained_by_linear(torch.tensor(function)[linear], labels, linear)
        assert found.information > 0.3
        assert found.unexplained == 0
        assert found.share == 1


def test_nothing_is_explained_by_a_linear_model_that_says_always_the_same():
    labels = draw(1000, 4, 0)
    found = explained_by_linear(labels, labels, torch.zeros_like(labels))
    assert found.unexplained == pytest.approx(found.information, abs=1e-12)
    assert found.share == pytest.approx(0, abs=1e-12)


def test_half_is_explained_of_two_bits_of_which_the_linear_model_knows_one():
    labels = torch.arange(4000) % 4
    found = explained_by_linear(labels, labels, labels // 2 * 2)
    assert found.information == pytest.approx(2, abs=0.01)
    assert found.share == pytest.approx(0.5, abs=0.01)


def test_the_share_of_little_information_is_nan():
    found = explained_by_linear(draw(400, 4, 0), draw(400, 4, 1), draw(400, 4, 2))
    assert abs(found.information) < 0.1
    assert np.isnan(found.share)


@pytest.mark.parametrize(
    ("images", "classes", "groups"),
    [(5000, 10, 10), (4999, 10, 9), (1297, 10, 6), (50_000, 1000, 21), (10**7, 10, 10), (40, 10, 2), (39, 10, 1)],
)
def test_groups_have_five_images_a_cell(images, classes, groups):
    assert group_count(images, classes) == groups


def test_groups_are_runs_of_neighbouring_classes():
    ten, thousand = torch.arange(10), torch.arange(1000)
    assert grouped(ten, ten, 6).tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert grouped(ten, ten, 10).tolist() == list(range(10))
    sizes = torch.bincount(grouped(thousand, thousand, 21))
    assert len(sizes) == 21
    assert sizes.max() - sizes.min() == 1


def test_classes_without_images_are_one_more_group():
    assert grouped(torch.tensor([0, 3, 7, 7, 900, 901, 5]), torch.tensor([3, 7, 900]), 2).tolist() == [
        2,
        0,
        0,
        0,
        1,
        2,
        2,
    ]


def test_classes_that_the_network_could_predict_and_none_is_of_change_nothing():
    """The same predictions by a head of 10 and of 1,000 classes, in whatever places the 10 are."""
    labels, linear, noise = draw(1000, 10, 0), draw(1000, 10, 1), draw(1000, 4, 2)
    predicted, linear = torch.where(noise > 0, labels, linear), torch.where(noise < 2, labels, linear)
    expected = explained_by_linear(predicted, labels, linear)
    assert expected.groups == 5
    places = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:10].sort().values
    assert explained_by_linear(places[predicted], places[labels], places[linear]) == expected


def test_predictions_of_classes_without_images_are_told_apart_from_others():
    """F is right half the time and else says a class that none is of: 1 bit less, not merged with a neighbour's."""
    labels = torch.arange(4000) % 4
    predicted = torch.where(torch.arange(4000) // 4 % 2 == 0, labels, 17)
    found = explained_by_linear(predicted, labels, predicted)
    assert found.information == pytest.approx(1, abs=0.01)
    assert found.share == 1


def test_few_images_tell_groups_apart_and_not_classes():
    """Of 40 images with classes 0 to 3 two groups: classes of one group are one, for network, labels and L alike."""
    labels = torch.arange(40) % 4
    found = explained_by_linear(labels ^ 1, labels, labels ^ 1)
    assert found.groups == 2
    assert found.information == pytest.approx(information(labels // 2, labels // 2), abs=1e-12)
    assert found.information > 0.9
    assert found.share == 1


def test_too_few_images_for_two_groups_give_nan():
    labels = torch.arange(39) % 3
    found = explained_by_linear(labels, labels, labels)
    assert np.isnan([found.information, found.unexplained, found.share]).all()
