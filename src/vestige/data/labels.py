"""The labels of a torch Dataset, where it tells them without an input being read."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

ATTRIBUTES = ("targets", "labels", "_labels")
"""Where torchvision's sets, and those written after them, keep their labels."""


def known_labels(dataset: Any) -> np.ndarray | None:
    """The labels of a map-style dataset, in its order.

    Args:
      dataset: anything; looked for are `targets`, `labels`, and what torch's `TensorDataset`, `Subset` and
        `ConcatDataset` hold.

    Returns:
      (N,) int64; None where they are not known without reading inputs, are no class indices, or would be changed by
      a `target_transform`.
    """
    if isinstance(dataset, Subset):
        whole = known_labels(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [part for part in map(known_labels, dataset.datasets) if part is not None]
        return np.concatenate(parts) if len(parts) == len(dataset.datasets) else None
    if isinstance(dataset, TensorDataset):
        return class_indices(dataset.tensors[1], len(dataset)) if len(dataset.tensors) == 2 else None
    if getattr(dataset, "target_transform", None) is not None or not hasattr(dataset, "__len__"):
        return None
    candidates = (getattr(dataset, name, None) for name in ATTRIBUTES)
    found = (class_indices(values, len(dataset)) for values in candidates if values is not None)
    return next((labels for labels in found if labels is not None), None)


def class_indices(values: Any, n: int) -> np.ndarray | None:
    """`n` whole numbers as (N,) int64, from a tensor, an array or a list of them; None where they are anything else."""
    try:
        labels = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged; or a list of tensors, of which NumPy makes what it will
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,) or labels.dtype.kind not in "iub":
        return None
    return labels.astype(np.int64)


def label_of(value: Any) -> int | None:
    """The class index of one item; None where it is none."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    return int(value) if isinstance(value, int) and value >= 0 else None


def class_names(dataset: Any, classes: int) -> tuple[str, ...]:
    """The names of the classes of a dataset, from `classes` or `class_names`; else their numbers.

    Args:
      dataset: the names of the whole serve a `Subset`.
      classes: that its labels take up at least.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    for key in ("classes", "class_names"):
        names = getattr(dataset, key, None)
        if isinstance(names, list | tuple) and len(names) >= classes and all(isinstance(name, str) for name in names):
            return tuple(names)
    return tuple(str(c) for c in range(classes))
