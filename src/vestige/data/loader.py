"""Batches for training and tiles for measurement: pure functions of the step, or of the indices.

Shapes: B images of a batch, C channels, H x W pixels.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from math import ceil
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vestige.config import DataConfig
from vestige.data.datasets import ImageSet, Indices
from vestige.data.subsets import balanced_indices
from vestige.data.transforms import CROP_TRIES, Stream, flip, normalise, pad_crop, uniform

A = TypeVar("A")
M = TypeVar("M")

AHEAD = 3
"""Batches that are prepared before they are asked for, where images are streamed."""


class Batch(NamedTuple):
    """What one optimiser step sees."""

    inputs: Tensor
    """(B, C, H, W) float32; where processes share the batch those of one's part, or any one where that is empty."""
    labels: Tensor
    """(B,) int64."""
    indices: np.ndarray
    """(B,) int64, of the images in their set."""


class Tile(NamedTuple):
    """A number of inputs, of which the first `valid` count; all fields have the tile's full length."""

    inputs: Any
    """A tensor, or a pytree of tensors, along axis 0."""
    labels: Tensor
    """int64."""
    valid: int
    indices: np.ndarray
    """Of the inputs in their set, int64."""
    number: int = 0
    """Of the tile among all tiles of the set."""


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n images in an epoch: a permutation, (n,) int64."""
    return np.argsort(uniform(seed, epoch, np.arange(n), Stream.ORDER), kind="stable")


def part_of(n: int, share: tuple[int, int]) -> slice:
    """Which of n rows are those of a process, given its rank and how many there are: as many as others', or one off."""
    rank, world = share
    return slice(n * rank // world, n * (rank + 1) // world)


class TrainingLoader:
    """The augmented training batches of a run; every image once an epoch, the last partial batch included.

    Args:
      images: the training set, N images.
      config: augmentation, mean and std.
      batch_size: images a step.
      seed: of the run.
      share: rank of this process, and how many share each batch: it gets the inputs of its part.
    """

    def __init__(
        self, images: ImageSet, config: DataConfig, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)
    ):
        self.images, self.config, self.batch_size, self.seed, self.share = images, config, batch_size, seed, share
        self.steps_per_epoch = ceil(len(images) / batch_size)
        self._order = lru_cache(maxsize=2)(lambda epoch: epoch_order(len(images), seed, epoch))

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0; no step before it need have been asked for."""
        epoch, position = divmod(step, self.steps_per_epoch)
        indices = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        own = indices[part_of(len(indices), self.share)]
        own = own if len(own) else indices[:1]  # for their shape: not every network takes an empty batch
        inputs = normalise(self.augmented(own, epoch), self.config.mean, self.config.std)
        return Batch(inputs, torch.from_numpy(self.images.labels[indices]), indices)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start, ..., stop - 1, prepared ahead where images are streamed."""
        if not self.images.streamed:
            yield from map(self.batch, range(start, stop))
            return
        yield from _ahead(self.batch, range(start, stop))

    def augmented(self, indices: np.ndarray, epoch: int) -> Tensor:
        """Images of an epoch as the network sees them, before normalisation: (B, C, H, W) uint8."""
        augment = self.config.augment

        def draw(stream: Stream, *shape: int) -> np.ndarray:
            return uniform(self.seed, epoch, indices, stream, shape)

        if augment.random_resized_crop:
            images = self.images.crops(indices, draw(Stream.RESIZED_CROP, CROP_TRIES, 4))
        else:
            images = self.images.images(indices)
        if augment.crop_padding:
            images = pad_crop(images, augment.crop_padding, draw(Stream.CROP, 2))
        return flip(images, draw(Stream.FLIP)) if augment.flip else images


def tiles(
    images: ImageSet, indices: Indices, config: DataConfig, size: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Tile]:
    """Unaugmented inputs in tiles of one size, filled up with their first image; prepared ahead where streamed.

    Images that are skipped as unreadable are missing from their tile; a tile of none but such does not come.

    Args:
      images: the set.
      indices: of the images, in evaluation order.
      config: mean and std.
      size: inputs a tile. Every tile has that many: a forward's last bits depend on it.
      share: this process and how many there are: it gets tiles rank, rank + world, ...
    """
    indices = np.asarray(indices, dtype=np.int64)
    rank, world = share
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    read = images.readable
    kept = parts[rank::world]
    views = _ahead(read, kept) if images.streamed else map(read, kept)
    for k, (part, (views_RCHW, places)) in enumerate(zip(kept, views, strict=True)):
        if not len(places):
            continue
        padded = part[places]
        if (short := size - len(places)) > 0:
            views_RCHW = torch.cat([views_RCHW, views_RCHW[:1].expand(short, -1, -1, -1)])
            padded = np.concatenate([padded, np.repeat(padded[:1], short)])
        inputs = normalise(views_RCHW, config.mean, config.std)
        yield Tile(inputs, torch.from_numpy(images.labels[padded]), len(places), padded, rank + k * world)


def recalibration_batches(images: ImageSet, n: int, config: DataConfig, size: int) -> list[Tensor]:
    """Fixed unaugmented inputs from which batch-norm statistics are recomputed, in near-equal batches.

    Args:
      images: the training set.
      n: so many, class-balanced; all where there are fewer.
      config: mean and std.
      size: inputs a batch at most.

    Returns:
      (B, C, H, W) float32 each; images that are skipped as unreadable are missing.
    """
    indices = balanced_indices(images.labels, n)
    # Folders come sorted by class: batches of one class each would have too little variance.
    indices = indices[epoch_order(len(indices), seed=0, epoch=0)]
    parts = np.array_split(indices, ceil(len(indices) / size))
    views = (images.readable(part)[0] for part in parts)
    return [normalise(found, config.mean, config.std) for found in views if len(found)]


def _ahead(make: Callable[[A], M], arguments: Iterable[A]) -> Iterator[M]:
    """What `make` gives for each argument, in order, by a thread that is up to `AHEAD` of them ahead."""
    remaining = iter(arguments)
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        pending = deque(pool.submit(make, argument) for argument in islice(remaining, AHEAD))
        while pending:
            made = pending.popleft().result()
            pending.extend(pool.submit(make, argument) for argument in islice(remaining, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
