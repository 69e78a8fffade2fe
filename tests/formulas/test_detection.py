import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from vestige.errors import VestigeError
from vestige.formulas.detection import cross_validated_detection, precision_at_k
from vestige.formulas.selectivity import class_means

torch.set_num_threads(1)

N, U, C = 120, 70, 5


def detection(activations_NU, labels_N, half_N, classes):
    means = [class_means(activations_NU[half_N == h].double(), labels_N[half_N == h], classes) for h in (0, 1)]
    return cross_validated_detection(activations_NU, labels_N, half_N, *means)


def by_loop(a, labels, half):
    """AUROC by scikit-learn, the threshold by trying every one; one neuron."""
    kept = [c for c in np.unique(labels) if (labels[half == 0] == c).any() and (labels[half == 1] == c).any()]
    inside = np.isin(labels, kept)
    a, labels, half = a[inside], labels[inside], half[inside]
    auroc, informedness = [], []
    for judging in (1, 0):
        (a_a, y_a), (a_b, y_b) = ((a[half == h], labels[half == h]) for h in (1 - judging, judging))
        star = kept[int(np.argmax([a_a[y_a == c].mean() for c in kept]))]

        def lead(threshold, a, y, star=star):
            return (a[y == star] >= threshold).mean() - (a[y != star] >= threshold).mean()

        threshold = max(np.unique(a_a), key=lambda t: (round(lead(t, a_a, y_a), 12), t))
        auroc.append(roc_auc_score(y_b == star, a_b))
        informedness.append(lead(threshold, a_b, y_b))
    return np.mean(auroc), np.mean(informedness)


LABELS = {
    "balanced": torch.arange(N) % C,
    "unbalanced": torch.arange(N).sqrt().long() % C,
    "absent and single": (torch.arange(N) % 3 + 1).index_fill(0, torch.tensor(40), 4),
    "two classes": torch.arange(N) % 2,
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_agrees_with_scikit_learn_and_a_loop(kind, ties):
    labels_N, half_N = LABELS[kind], torch.arange(N) // 7 % 2
    a_NU = torch.rand(N, U, generator=torch.Generator().manual_seed(0)) + 0.2 * (labels_N == 2)[:, None]
    if ties:
        a_NU = (a_NU * 4).floor()
    auroc_U, informedness_U = detection(a_NU, labels_N, half_N, C)
    expected = [by_loop(a.numpy(), labels_N.numpy(), half_N.numpy()) for a in a_NU.T.double()]
    np.testing.assert_allclose(torch.stack([auroc_U, informedness_U], 1), expected, rtol=0, atol=1e-12)


def test_by_hand():
    """A names class 1 and the threshold 3: TPR 1, FPR 1/4. In B: TPR 1/2, FPR 1/4; wins 4 + 1 + two halves.

    B names class 1 and the threshold 5, the highest of those with 1/2 - 0. In A nothing is that high.
    """
    half_A, half_B = [(1, 3.0), (1, 4.0), (0, 0.0), (0, 1.0), (2, 2.0), (2, 3.5)], []
    half_B = [(1, 5.0), (1, 1.0), (0, 0.0), (0, 1.0), (2, 1.0), (2, 3.0)]
    labels_N, a_N = (torch.tensor(column) for column in zip(*(half_A + half_B), strict=True))
    auroc_U, informedness_U = detection(a_N[:, None], labels_N, torch.arange(12) // 6, 3)
    wins_b, wins_a = 4 + (1 + 0.5 + 0.5), 3 + 4
    assert auroc_U.item() == pytest.approx((wins_b / 8 + wins_a / 8) / 2)
    assert informedness_U.item() == pytest.approx((1 / 2 - 1 / 4 + 0) / 2)


def test_neurons_that_name_no_class_detect_nothing():
    labels_N, half_N = torch.arange(N) % C, torch.arange(N) // 60
    a_NU = torch.zeros(N, 3)
    a_NU[:, 1] = 0.3
    a_NU[60:, 2] = (labels_N[60:] == 0).float()  # silent in A; B names class 0, of which A knows nothing
    auroc_U, informedness_U = detection(a_NU, labels_N, half_N, C)
    assert auroc_U.tolist() == [0.5] * 3
    assert informedness_U.tolist() == [0] * 3


def test_perfect_and_perfectly_wrong():
    labels_N, half_N = torch.arange(12) % 3, torch.arange(12) // 6
    right_N = (labels_N == 1).double() * 2
    wrong_N = torch.where(half_N == 0, right_N, 2 - right_N)  # A: class 1 alone; B: all but class 1
    auroc_U, informedness_U = detection(torch.stack([right_N, wrong_N], 1), labels_N, half_N, 3)
    assert auroc_U[0] == 1
    assert informedness_U[0] == 1
    assert auroc_U[1] == pytest.approx((0 + 0.25) / 2)  # B names class 0: ties with class 2, below class 1 in A
    assert informedness_U[1] == pytest.approx((-1 - 0.5) / 2)


@pytest.mark.parametrize("change", ["monotone", "classes renamed", "images reordered", "halves swapped"])
def test_invariances(change):
    generator = torch.Generator().manual_seed(3)
    labels_N, half_N = LABELS["unbalanced"], torch.arange(N) % 2
    a_NU = torch.rand(N, U, generator=generator).double()
    order_N = torch.randperm(N, generator=generator)
    before = detection(a_NU, labels_N, half_N, C)
    means = [class_means(a_NU[half_N == h], labels_N[half_N == h], C) for h in (0, 1)]
    after = {
        "monotone": lambda: cross_validated_detection(a_NU.exp(), labels_N, half_N, *means),
        "classes renamed": lambda: detection(a_NU, torch.tensor([2, 0, 4, 1, 3])[labels_N], half_N, C),
        "images reordered": lambda: detection(a_NU[order_N], labels_N[order_N], half_N[order_N], C),
        "halves swapped": lambda: detection(a_NU, labels_N, 1 - half_N, C),
    }[change]()
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert (before[0] != 0.5).any()


def test_one_class_in_both_halves_is_an_error():
    with pytest.raises(VestigeError, match="1 of 3 classes has images"):
        detection(torch.rand(4, 2), torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 0]), 3)


def test_precision_by_hand():
    """Classes of 6, 7 and 8 images, so k = 6 at most."""
    labels_N = torch.tensor([0] * 6 + [1] * 7 + [2] * 8)
    a_NU = torch.zeros(21, 5)
    a_NU[6:10, 0], a_NU[0:4, 0] = 2.0, 1.0  # four of class 1, then the first two of the four that tie: class 0
    a_NU[[0, 1, 6, 13, 14], 1] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])  # fires for 5 images: k = 5
    a_NU[[0, 1, 2, 3], 2] = 1.0  # fires for 4: none
    a_NU[:, 3] = 1.0  # all tie: the first 6, of class 0
    precision_U, k_U = precision_at_k(a_NU, labels_N, 4)
    assert k_U.tolist() == [6, 5, 4, 6, 0]
    np.testing.assert_allclose(precision_U, [4 / 6, 2 / 5, np.nan, 1, np.nan])


def test_precision_agrees_with_a_stable_sort():
    generator = torch.Generator().manual_seed(4)
    labels_N = torch.randint(0, 3, (400,), generator=generator)
    a_NU = torch.rand(400, U, generator=generator) - 0.3
    a_NU[:, ::2] = (a_NU[:, ::2] * 9).round()  # tie
    precision_U, k_U = precision_at_k(a_NU, labels_N, 3)
    for u, a in enumerate(a_NU.T.numpy()):
        top = np.argsort(-a, kind="stable")[:60]
        assert precision_U[u].item() == pytest.approx(np.bincount(labels_N.numpy()[top]).max() / 60)
    assert (k_U == 60).all()


@pytest.mark.parametrize(("images", "most", "k"), [(4, 60, 2), (14, 60, 7), (14, 5, 5), (200, 60, 60), (120, 60, 60)])
def test_k(images, most, k):
    """Also where all N images are fewer than k could be, or exactly as many."""
    precision_U, k_U = precision_at_k(torch.rand(images, 2) + 1, torch.arange(images) % 2, 2, most)
    assert k_U.tolist() == [k, k]
    assert precision_U.isnan().all() == (k < 5)
