"""Areas under ablation curves: (acc - 1/C) / (acc0 - 1/C) over the ablated share, by trapezoid."""

import math
from collections.abc import Sequence

import numpy as np

from vestige.errors import VestigeError

FLOAT32_SLACK = 1e-6
"""Tables hold accuracies in float32: one of exactly the threshold must not fail by rounding."""


def judgeable(top1: float, classes: int) -> bool:
    """Whether intact accuracy is far enough above chance: acc0 >= max(2/C, 1/C + 0.05).

    Args:
      top1: intact accuracy, a share in [0, 1]; NaN is not judgeable.
      classes: number of classes C.
    """
    return top1 >= max(2 / classes, 1 / classes + 0.05) - FLOAT32_SLACK


def normalised_area(fractions: Sequence[float], top1: Sequence[float], classes: int) -> float:
    """Area under a cumulative ablation curve: 1 where ablation harms nothing, 0 where all is lost at once.

    Args:
      fractions: (F,) ablated shares of the neurons, in any order, without repeats, 0 and 1 among them.
      top1: (F,) accuracy with so many ablated, shares in [0, 1].
      classes: number of classes C.

    Returns:
      The area over fractions 0 to 1; NaN where the intact network is not judgeable or an accuracy is NaN.

    Raises:
      VestigeError: the fractions repeat, do not span 0 to 1, or are not as many as the accuracies.
    """
    x, y = np.asarray(fractions, dtype=np.float64), np.asarray(top1, dtype=np.float64)
    if x.shape != y.shape or len(x) < 2 or len(np.unique(x)) < len(x) or x.min() != 0 or x.max() != 1:
        raise VestigeError(
            "integrating a cumulative ablation curve",
            found=f"{len(y)} accuracies at the fractions {x.tolist()}",
            remedy="Give one accuracy for each fraction, each fraction once, 0 and 1 among them",
        )
    order = np.argsort(x)
    x, y = x[order], y[order]
    if not judgeable(float(y[0]), classes):
        return math.nan
    heights = (y - 1 / classes) / (y[0] - 1 / classes)
    return float(np.sum(np.diff(x) * (heights[1:] + heights[:-1]) / 2))
