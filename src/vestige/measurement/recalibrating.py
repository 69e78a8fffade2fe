"""The inputs from which batch-norm statistics are recomputed, out of whatever training data somebody has."""

from collections.abc import Iterator
from math import ceil
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from vestige.data.imageset import ImageSet
from vestige.data.loader import epoch_order, recalibration_batches
from vestige.measurement.inputs import batches

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
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        n = len(data)  # pyright: ignore[reportArgumentType]
        chosen = epoch_order(n, seed=0, epoch=0)[:images]
        parts = np.array_split(chosen, ceil(len(chosen) / batch_size))
        data = DataLoader(Subset(data, range(n)), batch_sampler=[part.tolist() for part in parts])
    seen = 0
    for tile in batches(data, batch_size=batch_size, labelled=False):
        yield tile.inputs
        seen += tile.valid
        if seen >= images:
            return
