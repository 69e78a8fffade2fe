"""Many tests at once: Holm max over j <= i of (m - j + 1) p_(j); Benjamini-Hochberg min over j >= i of m p_(j) / j."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vestige.errors import VestigeError


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given: max over j <= i of min(1, (m - j + 1) p_(j)).

    One of them at most `level` is wrong with a chance of at most `level`, however the tests depend on each other.

    Raises:
      VestigeError: a value is not in [0, 1].

    References:
      Holm (1979). A simple sequentially rejective multiple test procedure. Scand. J. Statist. 6.
    """
    p = _checked(p_values, "Holm's method")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg's adjusted p values, in the order given: min over j >= i of min(1, m p_(j) / j).

    Of those that are at most `level` a share of at most `level` is wrong on average, for tests that are independent
    or positively dependent.

    Raises:
      VestigeError: a value is not in [0, 1].

    References:
      Benjamini & Hochberg (1995). Controlling the false discovery rate. J. R. Statist. Soc. B 57.
    """
    p = _checked(p_values, "Benjamini and Hochberg's method")
    falling = np.argsort(-p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[falling] = np.minimum.accumulate(np.minimum(1.0, p[falling] * len(p) / np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def _checked(p_values: Sequence[float], method: str) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        raise VestigeError(
            f"correcting p values by {method}",
            found=f"values that are not in [0, 1]: {p[wrong].tolist()}",
            remedy="Give 1 for a test that could not be made",
        )
    return p
