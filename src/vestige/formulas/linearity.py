"""How close a network is to linear: midpoint nonlinearity, gate churn, CKA, cross-layer correlation.

Shapes: N images or pairs of inputs, D and E features, U neurons, L layers.
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

ROUNDING = 8 * torch.finfo(torch.float64).eps
"""What varies by less, relative to its size, does not vary; of what was computed in float32 it is more."""
_VALUES_AT_ONCE = 2**20  # a whole tile of feature maps can be gigabytes; threads must be woken for each chunk
_GRAM_VALUES_AT_ONCE = 2**20  # each chunk goes through the whole Gram matrix; more would leave the caches
_GRAM_BANDS = 10  # of rows: of each, what lies left of the diagonal is known by symmetry


def midpoint_nonlinearity(
    first_ND: Tensor, second_ND: Tensor, middle_ND: Tensor, *, rounding: float = ROUNDING
) -> Tensor:
    """sqrt(sum ||h(mid) - avg||^2 / sum ||(h1 - h2)/2||^2) over pairs of inputs and their midpoints.

    Args:
      first_ND: a layer's output for the first input of each pair.
      second_ND: for the second.
      middle_ND: for their average.
      rounding: relative differences up to this are of the arithmetic that made the outputs.

    Returns:
      A float64 scalar: 0 for an affine layer, about sqrt(3) for unrelated outputs, NaN where none differ.
    """
    sums = midpoint_sums(first_ND, second_ND, middle_ND)
    return midpoint_from_sums(*sums, level_of(second_ND), rounding=rounding)


def midpoint_sums(first_ND: Tensor, second_ND: Tensor, middle_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of squares of `midpoint_nonlinearity`, in float64, to be added up over tiles of pairs.

    Differences and the sum over one pair's features are taken in the maps' own precision (half: float32).
    """
    deviation = half_distance = torch.zeros((), dtype=torch.float64, device=middle_ND.device)
    rows = max(1, _VALUES_AT_ONCE // max(1, middle_ND[:1].numel()))
    for start in range(0, len(middle_ND), rows):
        first, second, middle = (_at_least_float32(h[start : start + rows]) for h in (first_ND, second_ND, middle_ND))
        deviation = deviation + _sum_of_squares(torch.lerp(first, second, 0.5) - middle)
        half_distance = half_distance + _sum_of_squares(first - second) / 4
    return deviation, half_distance


def level_of(values_ND: Tensor) -> Tensor:
    """sum ||h||^2 in float64: what the rounding of outputs is relative to, to be added up over tiles."""
    return _at_least_float32(values_ND).flatten(1).norm(dim=1).double().square().sum()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _sum_of_squares(values_ND: Tensor) -> Tensor:
    return values_ND.square_().sum(tuple(range(1, values_ND.ndim))).double().sum()


def midpoint_from_sums(deviation: Tensor, half_distance: Tensor, level: Tensor, *, rounding: float) -> Tensor:
    """`midpoint_nonlinearity` from its two sums of squares.

    Args:
      deviation, half_distance: see `midpoint_sums`.
      level: sum ||h2||^2 over the pairs.
      rounding: see `midpoint_nonlinearity`.
    """
    known = (half_distance > rounding**2 * level / 4) & half_distance.isfinite()
    return torch.where(known, (deviation / half_distance).sqrt(), torch.nan)


def class_centred(logits_NC: Tensor) -> Tensor:
    """Logits less their mean over the classes, which no prediction depends on."""
    return logits_NC - logits_NC.mean(1, keepdim=True)


def gate_churn(first_ND: Tensor, second_ND: Tensor) -> Tensor:
    """Share of gates that are open for one input of a pair and closed for the other; 0 for an affine layer.

    Args:
      first_ND: a ReLU's output for the first input of each pair; a gate is open where it is above 0.
      second_ND: for the second.
    """
    return ((first_ND > 0) != (second_ND > 0)).count_nonzero().double() / first_ND.numel()


def independent_churn(open_share_D: Tensor) -> Tensor:
    """The churn of gates that open independently of everything, with these shares: mean of 2p(1 - p)."""
    return (2 * open_share_D * (1 - open_share_D)).mean()


def gram(features_ND: Tensor, *, rounding: float = ROUNDING) -> Tensor:
    """Inner products of images, less the mean image, in float64: gram_NN, to be added up over features.

    Exactly 0 where images differ by no more than `rounding`, relative to their size, so that what is divided by them is
    NaN and not a ratio of roundings.
    """
    n, width = features_ND.shape
    level = torch.zeros((), dtype=torch.float64, device=features_ND.device)
    gram_NN = torch.zeros(n, n, dtype=torch.float64, device=features_ND.device)
    columns, rows = max(1, _GRAM_VALUES_AT_ONCE // n), -(-n // _GRAM_BANDS)
    for start in range(0, width, columns):
        some = features_ND[:, start : start + columns].to(torch.float64, copy=True)
        mean = some.mean(0)
        level += n * mean.square().sum()
        some -= mean  # changes no CKA but for the rounding
        for top in range(0, n, rows):
            gram_NN[top : top + rows, top:].addmm_(some[top : top + rows], some[top:].T)
    if gram_NN.trace() <= rounding**2 * level:
        return gram_NN.zero_()
    return gram_NN.triu_() + gram_NN.triu(1).T


def u_centred(gram_NN: Tensor) -> Tensor:
    """A Gram matrix U-centred: diagonal 0, and every row sums to 0.

    The inner product of two such matrices, over N(N - 3), is the unbiased HSIC1 of Song et al. (2012).

    Args:
      gram_NN: inner products of N >= 4 images.
    """
    n = len(gram_NN)
    assert n >= 4, "the unbiased estimator needs four images"
    gram_NN = gram_NN.clone().fill_diagonal_(0)
    rows_N = gram_NN.sum(0) / (n - 2)
    rows_N -= rows_N.sum() / (2 * (n - 1))
    gram_NN -= rows_N[:, None]
    gram_NN -= rows_N
    return gram_NN.fill_diagonal_(0)


def hsic(first_NN: Tensor, second_NN: Tensor) -> Tensor:
    """HSIC1 of two U-centred Gram matrices."""
    n = len(first_NN)
    return first_NN.flatten() @ second_NN.flatten() / (n * (n - 3))


def cka_of_hsics(both: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Linear CKA of HSIC1(K, L), HSIC1(K, K), HSIC1(L, L); NaN where a layer gives all images the same.

    Of more images than fit in one Gram matrix each of the three is the mean over batches of them.
    """
    return both / (first * second).sqrt()


def linear_cka(first_ND: Tensor, second_NE: Tensor) -> Tensor:
    """Unbiased linear centred kernel alignment of two representations of the same images, in float64.

    CKA = HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L)) with K, L the Gram matrices, diagonals zeroed, and
    HSIC1 = [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1/(n-2)] / (n(n-3)).

    Args:
      first_ND: N >= 4 images, any number of features.
      second_NE: the same images.

    Returns:
      A scalar: 1 for the same representation up to rotation, scale and offset; 0 in expectation for unrelated
      ones (slightly negative values occur).

    References:
      Kornblith et al. (2019), Similarity of neural network representations revisited;
      Nguyen et al. (2021), Do wide and deep networks learn the same things?
    """
    first_NN, second_NN = u_centred(gram(first_ND)), u_centred(gram(second_NE))
    return cka_of_hsics(hsic(first_NN, second_NN), hsic(first_NN, first_NN), hsic(second_NN, second_NN))


def largest_mean(activations_NU: Tensor, k: int) -> Tensor:
    """Mean of each image's k largest activations (of all, where there are fewer than k), (N,)."""
    return activations_NU.topk(min(k, activations_NU.shape[1]), dim=1).values.mean(1)


def cross_layer_correlation(
    scores_NL: Tensor, labels_N: Tensor, groups: Sequence[str], *, rounding: float = ROUNDING
) -> Tensor:
    """The paper's linearity: mean |Pearson r| of a number per image between layers of different stages.

    Within each class, r over its images for every pair of layers of different stages; mean of |r| over the
    pairs; mean over the classes. Even unrelated layers give about sqrt(2 / (pi n)) with n images a class.

    Args:
      scores_NL: a number for each image and layer, such as `largest_mean`; the logits are one more layer.
      labels_N: int64.
      groups: the stage of each of the L layers.
      rounding: a number that varies by no more than this, relative to its size, does not vary.

    Returns:
      A scalar in [0, 1]. Classes with fewer than three images, and pairs of which one does not vary, are left
      out; NaN where nothing is left.

    References:
      Ranadive et al. (2023), On the special role of class-selective neurons in early training.
    """
    pairs = [(i, j) for i, j in combinations(range(len(groups)), 2) if groups[i] != groups[j]]
    if not pairs:
        return scores_NL.new_tensor(torch.nan)
    first, second = map(list, zip(*pairs, strict=True))
    of_classes = [
        _correlations(scores_NL[labels_N == c], rounding)[first, second].abs().nanmean()
        for c in labels_N.unique()
        if (labels_N == c).sum() >= 3
    ]
    return torch.stack(of_classes).nanmean() if of_classes else scores_NL.new_tensor(torch.nan)


def _correlations(scores_NL: Tensor, rounding: float) -> Tensor:
    """Pearson r of every two columns; NaN with a column that does not vary."""
    centred_NL = scores_NL - scores_NL.mean(0)
    norm_L = centred_NL.norm(dim=0)
    norm_L = torch.where(norm_L > rounding * scores_NL.norm(dim=0), norm_L, torch.nan)
    return centred_NL.T @ centred_NL / (norm_L[:, None] * norm_L)
