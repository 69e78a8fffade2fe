"""What users give as a batch, made into inputs and int64 labels, or explained.

Inputs are a tensor or a pytree of tensors: a mapping, a tuple or a list of them, batched along axis 0.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vestige.errors import DataError

DOING = "reading the data"


def as_pair(batch: Any, where: str, *, labelled: bool = True) -> tuple[Any, Tensor]:
    """Inputs and labels of a batch.

    Args:
      batch: (inputs, labels); without `labelled` also inputs alone.
      where: what a message calls it: `batch 3`.
      labelled: labels are wanted; else zeros stand for them, and what is there is not looked at.

    Returns:
      inputs as tensors, and labels (N,) int64 on the CPU.

    Raises:
      DataError: it is no pair, the inputs hold what is no tensor, or the labels are no class indices, or not as many.
    """
    if not labelled:
        given = batch[0] if isinstance(batch, tuple | list) and batch else batch
        inputs = as_inputs(given, where)
        return inputs, torch.zeros(count(inputs, where), dtype=torch.int64)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            DOING,
            found=f"{where} is {describe(batch)}, and not a pair of inputs and labels",
            remedy="Give batches of (inputs, labels)",
        )
    inputs, labels = as_inputs(batch[0], where), as_labels(batch[1], where)
    if (n := count(inputs, where)) != len(labels):
        raise DataError(DOING, found=f"{where} has {n} inputs and {len(labels)} labels", remedy="Give as many of both")
    return inputs, labels


def as_inputs(value: Any, where: str) -> Any:
    """The inputs of a batch with arrays made tensors, lists tuples and mappings dicts.

    Raises:
      DataError: something in it is no tensor along axis 0.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim:
        return torch.from_numpy(np.array(value))  # a copy: torch wants it writable, and memory maps are not
    if isinstance(value, Tensor) and value.ndim:
        return value
    if isinstance(value, Mapping) and value:
        return {key: as_inputs(part, where) for key, part in value.items()}
    if isinstance(value, tuple | list) and value:
        return tuple(as_inputs(part, where) for part in value)
    raise DataError(
        DOING,
        found=f"{where} has {describe(value)} among its inputs",
        remedy="Give tensors, or mappings or tuples of tensors, with the batch along axis 0",
    )


def as_labels(value: Any, where: str) -> Tensor:
    """The labels of a batch: (N,) int64 on the CPU.

    Args:
      value: a tensor, an array or a list of whole numbers from 0, (N,) or (N, 1).
      where: what a message calls the batch.

    Raises:
      DataError: they are anything else.
    """
    labels = _array(value, where)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        raise DataError(
            DOING,
            found=f"{where} has labels of shape {labels.shape}, a row for each input, as one-hot labels have",
            remedy="Give class indices: labels.argmax(1)",
        )
    if labels.ndim != 1:
        shown = f"labels of shape {labels.shape}" if labels.ndim else "a single number for labels"
        raise DataError(DOING, found=f"{where} has {shown}", remedy="Give one class index for each input")
    if labels.size and labels.dtype.kind not in "iub":
        kind = "text" if labels.dtype.kind in "US" else f"of type {labels.dtype}"
        remedy = "Give class indices, whole numbers from 0" + (": labels.long()" if labels.dtype.kind == "f" else "")
        raise DataError(DOING, found=f"{where} has labels that are {kind}", remedy=remedy)
    labels = labels.astype(np.int64)
    if len(wrong := np.flatnonzero(labels < 0)):
        raise DataError(
            DOING,
            found=f"{where} has label {labels[wrong[0]]} (its input {wrong[0]})",
            remedy="Give class indices from 0, and leave out inputs without a label",
        )
    return torch.from_numpy(labels)


def take(value: Any, rows: slice | np.ndarray) -> Any:
    """Some rows of every tensor or array of the inputs."""
    if isinstance(value, Mapping):
        return {key: take(part, rows) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(take(part, rows) for part in value)
    return value[rows]


def count(inputs: Any, where: str) -> int:
    """How many inputs there are along axis 0.

    Raises:
      DataError: the tensors differ in it.
    """
    lengths = list(dict.fromkeys(len(leaf) for leaf in leaves(inputs)))
    if len(lengths) > 1:
        raise DataError(
            DOING,
            found=f"{where} has inputs of {' and '.join(map(str, lengths))} rows",
            remedy="Give tensors with the batch along axis 0",
        )
    return lengths[0] if lengths else 0


def leaves(value: Any) -> Iterator[Any]:
    """Every tensor or array of the inputs."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def describe(value: Any) -> str:
    """What a message calls a value."""
    if isinstance(value, Tensor | np.ndarray):
        name = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{name} of {str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    name = type(value).__name__
    name = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if isinstance(value, Mapping):
        return f"{name} of {', '.join(map(repr, value)) or 'nothing'}"
    return name + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def _array(value: Any, where: str) -> np.ndarray:
    if isinstance(value, Tensor):
        return (value.detach().float() if value.dtype == torch.bfloat16 else value.detach()).cpu().numpy()
    if isinstance(value, tuple | list) and value and all(isinstance(part, Tensor) for part in value):
        value = [part.tolist() for part in value]
    try:
        return np.asarray(value) if len(value) else np.zeros(0, np.int64)
    except (TypeError, ValueError) as error:
        if isinstance(value, int | float | np.generic):
            return np.asarray(value)
        raise DataError(
            DOING, found=f"{where} has {describe(value)} for labels", remedy="Give one class index for each input"
        ) from error
