"""What the paper's released code makes of a cumulative ablation curve: the points it takes, and its "area"."""

import math
from collections.abc import Sequence

FINE, COARSE = 15, 40
"""Neurons a step: up to half the width, and beyond."""


def released_sizes(width: int) -> list[int]:
    """How many of a stage's neurons are ablated at each point: 0, 15, 30, ... below half the width, then from half.

    Args:
      width: neurons of the widest layer; beyond half of it the step is 40, and all of them are never ablated.
    """
    return [*range(0, width // 2, FINE), *range(width // 2, width, COARSE)]


def released_area(top1: Sequence[float | None]) -> float:
    """The sum of acc / max(curve) * 100 over the points, however far apart they are.

    Args:
      top1: accuracy at each point, shares in [0, 1].

    Returns:
      0 to 100 times the number of points; NaN where an accuracy is missing or all are 0.

    References:
      Ranadive et al. (2023), On the special role of class-selective neurons in early training (its released code).
    """
    known = [value for value in top1 if value is not None and math.isfinite(value)]
    if len(known) < len(top1) or max(known, default=0.0) <= 0:
        return math.nan
    return 100 * sum(known) / max(known)
