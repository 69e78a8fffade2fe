import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from vestige.formulas.information import expected_joint, mutual_information

torch.set_num_threads(1)

N, U, C = 200, 20, 5
LABELS = {
    "balanced": torch.arange(N) % C,
    "unbalanced": torch.arange(N).sqrt().long() % C,
    "absent and single": (torch.arange(N) % 3 + 1).index_fill(0, torch.tensor(40), 4),
    "every image its own class": torch.arange(N),
}


def bins_by_loop(a, signed):
    """Bin of each activation from how many of those that are binned lie below it."""
    if signed:
        return [9 * sum(a < value) // len(a) for value in a]
    positive = a[a > 0]
    return [1 + 8 * sum(positive < value) // len(positive) if value > 0 else 0 for value in a]


def by_sklearn(bins, labels):
    table = contingency_matrix(labels, bins).astype(np.int64)
    return (mutual_info_score(labels, bins) - expected_mutual_information(table, len(labels))) / math.log(2)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_agrees_with_scikit_learn(kind, ties, signed):
    labels_N = LABELS[kind]
    a_NU = torch.randn(N, U, generator=torch.Generator().manual_seed(0)) + (labels_N == 2)[:, None]
    if ties:
        a_NU = (a_NU * 3).round()
    if not signed:
        a_NU = a_NU.relu()
    found_U = mutual_information(a_NU, labels_N, int(labels_N.max()) + 2, signed=signed)
    expected = [by_sklearn(bins_by_loop(a, signed), labels_N.numpy()) for a in a_NU.T.numpy()]
    np.testing.assert_allclose(found_U, expected, rtol=0, atol=1e-10)


def test_by_hand():
    """It fires for one of four images, of class 0 of two: 0.311 bits, as for any one of the four by chance.

    Firing for both of a class is 1 bit; by chance 1/3 of 1 bit, else 0.
    """
    labels_N = torch.tensor([0, 0, 1, 1])
    a_NU = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert mutual_information(a_NU, labels_N, 2).tolist() == pytest.approx([0, 1 - 1 / 3], abs=1e-12)


def test_nothing_is_learnt_from_a_neuron_that_does_not_vary():
    a_NU = torch.tensor([0.0, 0.7]).expand(N, 2)
    assert mutual_information(a_NU, LABELS["unbalanced"], C).tolist() == [0, 0]
    assert mutual_information(a_NU, LABELS["unbalanced"], C, signed=True).tolist() == [0, 0]


def test_a_perfect_detector_of_nine_classes_learns_nearly_all():
    """Plug-in: log2 9 bits; less the bias, which (8 x 8) / (2 N ln 2) approximates."""
    images = 4500
    labels_N = torch.arange(images) % 9
    found = mutual_information(labels_N[:, None].double(), labels_N, 9).item()
    assert found == pytest.approx(math.log2(9) - 64 / (2 * images * math.log(2)), abs=1e-4)


@pytest.mark.parametrize("images_by_class", [[3, 1, 6], [500] * 4, [1, 1999], [700, 40, 2, 2, 2]])
def test_expectation_is_that_of_scipys_hypergeometric(images_by_class):
    sizes = np.array([0, 1, 2, 5, 9, sum(images_by_class) // 2, sum(images_by_class)])
    expected = [
        sum(
            sum(p * n * math.log2(n) for n, p in enumerate(chance) if n)
            for c in images_by_class
            for chance in [scipy.stats.hypergeom.pmf(np.arange(size + 1), sum(images_by_class), c, size)]
        )
        for size in sizes
    ]
    np.testing.assert_allclose(expected_joint(sizes, np.array([*images_by_class, 0])), expected, rtol=1e-9, atol=1e-12)


def test_permuted_labels_average_nothing():
    generator = torch.Generator().manual_seed(2)
    a_NU = torch.randn(N, 200, generator=generator).relu()
    found_U = mutual_information(a_NU, LABELS["unbalanced"], C)
    assert abs(found_U.mean()) < 4 * found_U.std() / 200**0.5
    assert (found_U < 0).any()  # not clipped


def test_in_place_of_many_permutations():
    generator = torch.Generator().manual_seed(3)
    labels_N = LABELS["unbalanced"]
    a_NU = torch.randn(N, 1, generator=generator).relu() + (labels_N == 2)[:, None]
    bins = bins_by_loop(a_NU[:, 0].numpy(), signed=False)
    rng = np.random.default_rng(0)
    chance = [mutual_info_score(rng.permutation(labels_N.numpy()), bins) for _ in range(300)]
    expected = (mutual_info_score(labels_N.numpy(), bins) - np.mean(chance)) / math.log(2)
    error = np.std(chance) / 300**0.5 / math.log(2)
    assert mutual_information(a_NU, labels_N, C).item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.002
