"""The inputs from which batch-norm statistics are recomputed, out of whatever training data somebody has."""

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from vestige.data.imageset import ImageSet
from vestige.data.loader import epoch_order, recalibration_batches
from vestige.measurement.inputs import batches, is_pair
from vestige.measurement.pairs import as_inputs, count, take

BatchNorm = Literal["recalibrate", "stored"]
RECALIBRATION_IMAGES = 2048


def recalibration_inputs(data: Any, images: int, batch_size: int) -> Iterator[Any]:
    """Inputs of some training images, in near-equal batches where they can be chosen.

    Args:
      data: see `vestige.measure`. Of an ImageSet so many are chosen class-balanced, of a Dataset or of tensors at
        random (they may be sorted by class), always the same; loaders and iterables give their first batches.
      images: so many; all where there are fewer.
      batch_size: inputs a batch at most.

    Raises:
      DataError: the data cannot be read.
    """
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], ImageSet):
        yield from recalibration_batches(data[0], images, data[1], batch_size)
        return
    in_any_order = _reader(data)
    if in_any_order is not None:
        n, read = in_any_order
        chosen = epoch_order(n, seed=0, epoch=0)[:images]
        yield from read(np.array_split(chosen, ceil(len(chosen) / batch_size)))
        return
    seen = size = 0
    for tile in batches(data, batch_size=batch_size, labelled=False):
        # Every batch counts the same in the average: a much smaller last one would count too much.
        if 2 * tile.valid >= size:
            yield tile.inputs
        seen, size = seen + tile.valid, max(size, tile.valid)
        if seen >= images:
            return


def _reader(data: Any) -> tuple[int, Callable[[list[np.ndarray]], Iterator[Any]]] | None:
    """The number of inputs, and what gives those of lists of rows; None where they come in an order of their own."""
    if isinstance(data, DataLoader | IterableDataset):
        return None
    sized: Any = data
    if hasattr(data, "__len__") and (isinstance(data, Dataset) or not hasattr(data, "__iter__")):
        return len(sized), lambda parts: _of_dataset(sized, parts)
    if isinstance(data, Tensor | np.ndarray) or is_pair(data, labelled=False):
        inputs = data[0] if isinstance(data, tuple | list) else data
        n = count(inputs, "the training data")
        return n, lambda parts: (as_inputs(take(inputs, rows), "the training data") for rows in parts)
    return None


def _of_dataset(data: Any, parts: list[np.ndarray]) -> Iterator[Any]:
    loader = DataLoader(Subset(data, range(len(data))), batch_sampler=[rows.tolist() for rows in parts])
    return (tile.inputs for tile in batches(loader, batch_size=1, labelled=False))
