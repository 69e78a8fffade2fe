"""Ridge regression: 1 - SSE / SST of targets on images held out.

argmin_{w, b} ||Y - X w - b||^2 + penalty ||w||^2 needs X X' alone, so many features, D, cost no more than few; few are
fitted as they are.
Shapes: N images, half of them T to train on; C targets; P penalties; F images of a fold.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import torch
from torch import Tensor

from vestige.formulas.linearity import gram

FOLDS = 5
_ALONE, _LOCK = 600, Lock()
EXPONENTS = tuple(range(4, -10, -1))
"""Penalties are these powers of ten times the mean variance of an image's features: tr(X X') / T, X centred."""


def held_out_r2(gram_NN: Tensor, targets_NC: Tensor) -> Tensor:
    """How well a ridge regression on the first half of some images predicts the second.

    The penalty, one for all targets, is that of `EXPONENTS` with the smallest squared error summed over five folds of
    the first half (consecutive images, so give them in random order), the largest among equals.

    Args:
      gram_NN: inner products of the images' features, float64, of features less any one vector: the intercept
        makes up for that.
      targets_NC: float64.

    Returns:
      1 - SSE / SST, each summed over images and targets, SST about the means of the second half: 1 where the targets
      are an affine function of features that the first half spans, 0 where nothing is predicted, less if it is
      worse. NaN with fewer than 10 images, where the targets do not vary, or where anything is not finite.
    """

    def predict(train: int) -> Tensor:
        dual_TC, intercept_C = fit_ridge(gram_NN[:train, :train], targets_NC[:train])
        return gram_NN[train:, :train] @ dual_TC + intercept_C

    return _held_out_r2(predict, gram_NN, targets_NC)


def held_out_r2_of(features_ND: Tensor, targets_NC: Tensor) -> Tensor:
    """`held_out_r2` of the features' inner products; much quicker where they are fewer than the images to train on."""
    if features_ND.shape[1] >= len(features_ND) // 2:
        return held_out_r2(gram(features_ND), targets_NC)

    def predict(train: int) -> Tensor:
        fitted_TD, known_TC = features_ND[:train], targets_NC[:train]
        penalties_P = _penalties((fitted_TD - fitted_TD.mean(0)).square().sum() / train)
        errors_P = torch.zeros_like(penalties_P)
        for fold_F in torch.arange(train).tensor_split(FOLDS):
            rest_T = torch.ones(train, dtype=torch.bool).index_fill(0, fold_F, value=False)
            predicted_PFC = _predicted(fitted_TD[rest_T], known_TC[rest_T], penalties_P, fitted_TD[fold_F])
            errors_P += (predicted_PFC - known_TC[fold_F]).square().sum((1, 2))
        best = penalties_P[errors_P.argmin()]
        return _predicted(fitted_TD, known_TC, best[None], features_ND[train:])[0]

    return _held_out_r2(predict, features_ND, targets_NC)


def _held_out_r2(predict: Callable[[int], Tensor], given: Tensor, targets_NC: Tensor) -> Tensor:
    """1 - SSE / SST of what is predicted for the second half from the first, which is so many images."""
    train = len(targets_NC) // 2
    rest_RC = targets_NC[train:] - targets_NC[train:].mean(0)
    total = rest_RC.square().sum()
    rounding = (8 * torch.finfo(targets_NC.dtype).eps) ** 2 * targets_NC[train:].square().sum()
    if train < FOLDS or not (given.isfinite().all() and targets_NC.isfinite().all() and total > rounding):
        return targets_NC.new_tensor(torch.nan)
    return 1 - (targets_NC[train:] - predict(train)).square().sum() / total


def fit_ridge(gram_TT: Tensor, targets_TC: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression with the penalty that five-fold cross-validation chooses.

    Args:
      gram_TT: inner products of T >= 5 images, float64.
      targets_TC: float64.

    Returns:
      dual_TC and intercept_C: the prediction for an image is its inner products with the T images times the first, plus
      the second.
    """
    variances_K, directions_TK = _principal(gram_TT)
    penalties_P = _penalties(variances_K.sum() / len(gram_TT))
    weights_PK = 1 / (variances_K + penalties_P[:, None])
    along_KC = directions_TK.T @ targets_TC
    best = _fold_errors(directions_TK, weights_PK, along_KC).argmin()
    dual_TC = directions_TK @ (weights_PK[best, :, None] * along_KC)
    return dual_TC, (targets_TC - gram_TT @ dual_TC).mean(0)


def _penalties(variance: Tensor) -> Tensor:
    """Those that are tried, the largest first, for features of this mean variance."""
    powers_P = 10.0 ** torch.tensor(EXPONENTS, dtype=torch.float64, device=variance.device)
    return powers_P * torch.where(variance > 0, variance, 1.0)


def _predicted(fitted_TD: Tensor, known_TC: Tensor, penalties_P: Tensor, new_FD: Tensor) -> Tensor:
    """What a regression with each penalty predicts for new images, (P, F, C)."""
    centre_D, centre_C = fitted_TD.mean(0), known_TC.mean(0)
    x_TD = fitted_TD - centre_D
    variances_D, directions_DD = torch.linalg.eigh(x_TD.T @ x_TD)
    along_DC = directions_DD.T @ (x_TD.T @ (known_TC - centre_C))
    weights_PD = 1 / (variances_D.clamp_min(0) + penalties_P[:, None])
    return (new_FD - centre_D) @ (directions_DD @ (weights_PD[:, :, None] * along_DC)) + centre_C


def _principal(gram_TT: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the Gram matrix, centred, but for the direction in which all images are equal.

    That one is of the intercept, which has no penalty: it must not mix with others that do not vary.
    """
    n = len(gram_TT)
    mirror_T = gram_TT.new_full((n,), n**-0.5)
    mirror_T[0] -= 1
    across_T = mirror_T * (2 / mirror_T.square().sum()).sqrt()

    def reflected(matrix: Tensor) -> Tensor:
        """By the reflection that takes the first axis to the direction in which all are equal."""
        return matrix - torch.outer(across_T, across_T @ matrix)

    with _few_threads(n):
        variances_K, directions_KK = torch.linalg.eigh(reflected(reflected(gram_TT).T)[1:, 1:])
    return variances_K.clamp_min(0), reflected(torch.nn.functional.pad(directions_KK, (0, 0, 1, 0)))


@contextmanager
def _few_threads(n: int) -> Iterator[None]:
    """One thread for the eigenvectors of few images: others would be woken thousands of times, for a column each."""
    if n > _ALONE:
        yield
        return
    with _LOCK:  # two that overlap would put back the other's one thread
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _fold_errors(directions_TK: Tensor, weights_PK: Tensor, along_KC: Tensor) -> Tensor:
    """Squared errors, summed over images and targets, of each fold predicted from the others, (P,).

    With G = sum_k weight_k v_k v_k', leaving out the images f changes their errors to G_ff^-1 (G Y)_f: no fold is
    fitted anew.

    References:
      Cawley & Talbot (2003), Efficient leave-one-out cross-validation of kernel Fisher discriminant classifiers.
    """
    errors_P = torch.zeros(len(weights_PK), dtype=torch.float64, device=weights_PK.device)
    for part_FK in directions_TK.tensor_split(FOLDS):
        weighted_PFK = part_FK * weights_PK[:, None]
        left_out_PFC = torch.linalg.solve(weighted_PFK @ part_FK.T, weighted_PFK @ along_KC)
        errors_P += left_out_PFC.square().sum((1, 2))
    return errors_P
