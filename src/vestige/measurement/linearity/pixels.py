"""The linear model that a network is compared with: one L2 logistic regression on training pixels.

argmin mean cross-entropy + penalty / 2 ||w||^2, of standardised pixels; the intercept has no penalty.
Shapes: N images, D pixels, K classes.
"""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vestige.data.loader import Tile
from vestige.errors import DataError, StoreError
from vestige.runs.store import read_tensors, write_tensors

VERSION = 1
"""Raised when the same images give another model: one that was written before is then fitted again."""
SIDE = 32
"""Larger images are averaged to at most so many pixels a side."""
VALUES = 2**26
"""Pixels of all images that are fitted, at most: 21,845 images of 3 x 32 x 32. Others are left out."""
PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""Tried from the strongest, until the cross-entropy of a held-out fifth rises."""
ITERATIONS, TOLERANCE, ROUGH = 2000, 1e-5, 1e-4
"""Of the optimiser: L-BFGS ends where no component of the gradient exceeds the tolerance; while penalties are tried, a
rougher one."""
_DOING = "fitting the linear model of the pixels"
_HELD_OUT = 5  # every fifth image of a class


@dataclass(frozen=True)
class PixelModel:
    """A logistic regression on pixels.

    Attributes:
      weights_KD, intercepts_K: of standardised pixels; K is 1 where there are two classes.
      classes: that the images fitted were of, ascending, int64.
      mean: of each pixel of the images fitted, (D,).
      scale: standard deviation of each; 1 for a pixel that does not vary.
      penalty: that was chosen.
      converged: whether the fit came to an end within `ITERATIONS`.
      images: how many were fitted.
    """

    weights_KD: np.ndarray
    intercepts_K: np.ndarray
    classes: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    penalty: float
    converged: bool
    images: int

    def predict(self, inputs: Tensor) -> Tensor:
        """The most probable class of each input, int64."""
        scores_NK = (_pixels(inputs) - self.mean) / self.scale @ self.weights_KD.T + self.intercepts_K
        best_N = scores_NK.argmax(1) if len(self.weights_KD) > 1 else (scores_NK[:, 0] > 0).astype(np.int64)
        return torch.from_numpy(self.classes[best_N])

    def write(self, path: Path, key: str, said: Sequence[str] = ()) -> None:
        """Write it atomically.

        Args:
          path: a safetensors file.
          key: hash of all that made it.
          said: what must be said of it.
        """
        about = {name: getattr(self, name) for name in _ABOUT}
        tensors = {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        write_tensors(path, tensors, {"key": key, "about": json.dumps(about), "said": json.dumps(list(said))})

    @classmethod
    def read(cls, path: Path, key: str) -> "tuple[PixelModel, list[str]] | None":
        """What was written, and must be said of it; None where it is of something else, not there, or damaged."""
        try:
            tensors, metadata = read_tensors(path)
        except StoreError:
            return None
        if metadata.get("key") != key:
            return None
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(**arrays, **json.loads(metadata["about"])), json.loads(metadata["said"])


_ARRAYS = ("weights_KD", "intercepts_K", "classes", "mean", "scale")
_ABOUT = ("penalty", "converged", "images")


def images_to_fit(shape: tuple[int, ...]) -> int:
    """How many training images of this shape are fitted at most."""
    return max(1, VALUES // prod(_reduced(shape)))


def fit_pixels(tiles: Iterable[Tile]) -> PixelModel:
    """Fit the linear model.

    Deterministic: a function of the images alone (and, in its last bits, of the number of threads). Every fifth image
    of each class is held out to choose the penalty; then all are fitted.

    Args:
      tiles: unaugmented training images, in a fixed order; of more than `images_to_fit` only the first are used, so
        give a class-balanced choice of so many.

    Raises:
      DataError: images of fewer than two classes, or inputs that are no tensor of finite numbers.
    """
    from threadpoolctl import threadpool_limits  # a dependency of scikit-learn

    pixels_ND, labels_N = _read(tiles)
    mean, scale = pixels_ND.mean(0), pixels_ND.std(0)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        raise DataError(
            _DOING,
            found="some training inputs are NaN, infinite, or too large to be squared in float32",
            remedy="Look at how they are read and normalised",
        )
    scale[scale <= 1e-6 * np.abs(pixels_ND).max(initial=1e-30)] = 1  # what varies in its rounding alone
    pixels_ND -= mean
    pixels_ND /= scale
    with threadpool_limits(torch.get_num_threads()):
        penalty = _choose_penalty(pixels_ND, labels_N)
        regression, converged = _fit(pixels_ND, labels_N, penalty, TOLERANCE)
    if not converged:
        warnings.warn(
            f"The linear model of the pixels was still changing after {ITERATIONS:,} steps of its optimiser: kalimeris "
            "compares with where it was then.",
            UserWarning,
            stacklevel=2,
        )
    # Laid out as they are read again: the last bits of a product depend on it.
    weights_KD, classes = np.ascontiguousarray(regression.coef_), regression.classes_.astype(np.int64)
    return PixelModel(weights_KD, regression.intercept_, classes, mean, scale, penalty, converged, len(labels_N))


def _choose_penalty(pixels_ND: np.ndarray, labels_N: np.ndarray) -> float:
    held_out_N = np.zeros(len(labels_N), bool)
    for label in np.unique(labels_N):
        held_out_N[np.flatnonzero(labels_N == label)[_HELD_OUT - 1 :: _HELD_OUT]] = True
    best, least = PENALTIES[2], inf
    if not held_out_N.any():
        return best
    fitted_ND, fitted_labels_N = pixels_ND[~held_out_N], labels_N[~held_out_N]
    before = None
    for penalty in PENALTIES:
        before, _ = _fit(fitted_ND, fitted_labels_N, penalty, ROUGH, before)
        chances = before.predict_proba(pixels_ND[held_out_N])
        right = chances[np.arange(len(chances)), np.searchsorted(before.classes_, labels_N[held_out_N])]
        loss = -np.log(np.maximum(right, 1e-30)).mean()
        if loss >= least:
            break
        best, least = penalty, loss
    return best


def _fit(
    pixels_ND: np.ndarray, labels_N: np.ndarray, penalty: float, tolerance: float, before: Any = None
) -> tuple[Any, bool]:
    """The regression, from where another ended, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    regression = before or LogisticRegression(max_iter=ITERATIONS, tol=tolerance, warm_start=True)
    regression.set_params(C=1 / (penalty * len(labels_N)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says it
        regression.fit(pixels_ND, labels_N)
    return regression, bool(np.max(regression.n_iter_) < ITERATIONS)


def _read(tiles: Iterable[Tile]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of the first images, no more than are fitted."""
    pixels, labels, left = [], [], 1
    for tile in tiles:
        if not left:
            break
        _check(tile.inputs)
        if not pixels:
            left = images_to_fit(tuple(tile.inputs.shape[1:]))
        count = min(tile.valid, left)
        pixels.append(_pixels(tile.inputs[:count]))
        labels.append(tile.labels[:count].cpu().numpy())
        left -= count
    labels_N = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    if len(found := np.unique(labels_N)) < 2:
        raise DataError(
            _DOING,
            found=f"the training images are of {len(found)} class{'es' * (len(found) != 1)}",
            remedy="Give training images of two classes or more",
        )
    return np.concatenate(pixels), labels_N


def _check(inputs: Any) -> None:
    if not isinstance(inputs, Tensor) or inputs.ndim < 2:
        shape = f" of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else ""
        raise DataError(
            _DOING,
            found=f"the inputs are a {type(inputs).__name__}{shape}",
            remedy="Leave kalimeris out for such a model: its linear model needs inputs that are rows of numbers",
        )


def _pixels(inputs: Tensor) -> np.ndarray:
    """A row of pixels for each input, (N, D) float32."""
    values = inputs.float()
    if inputs.ndim == 4:
        _, height, width = _reduced(tuple(inputs.shape[1:]))
        values = adaptive_avg_pool2d(values, (height, width))
    return values.flatten(1).cpu().numpy()


def _reduced(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *(min(side, SIDE) for side in shape[1:])) if len(shape) == 3 else shape
