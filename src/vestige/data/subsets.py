"""Class-balanced subsets: the first images of each class, always the same ones."""

import numpy as np


def balanced_indices(labels: np.ndarray, n: int | None) -> np.ndarray:
    """A fixed subset with as many images of each class as can be, the first of each, in ascending order.

    The first n % C of the C classes give one more; what a class is short of, the others make up for evenly.

    Args:
      labels: (N,) whole numbers.
      n: images in the subset; all where None or more than there are.

    Returns:
      (n,) int64.
    """
    if n is None or n >= len(labels):
        return np.arange(len(labels))
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    quota = np.zeros(len(members), np.int64)
    room = np.array([len(m) for m in members])
    while (missing := n - quota.sum()) > 0:
        open_classes = np.flatnonzero(room > quota)
        share = np.full(len(open_classes), missing // len(open_classes))
        share[: missing % len(open_classes)] += 1
        quota[open_classes] = np.minimum(quota[open_classes] + share, room[open_classes])
    return np.sort(np.concatenate([m[:q] for m, q in zip(members, quota, strict=True)]))
