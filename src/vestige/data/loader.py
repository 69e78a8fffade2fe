"""Batches for training and tiles for measurement: pure functions of the step, or of the indices.

Shapes: B images of a batch, C channels, H x W pixels.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vestige.config import DataConfig
from vestige.data.datasets import ImageSet, Indices
from vestige.data.subsets import balanced_indices
from vestige.data.transforms import CROP_TRIES, Stream, flip, normalise, pad_crop, uniform

AHEAD = 3
"""Batches that are prepared before they are asked for, where images are streamed."""


class Batch(NamedTuple):
    """What one optimiser step sees."""

    inputs: Tensor
    """(B, C, H, W) float32."""
    labels: Tensor
    """(B,) int64."""


class Tile(NamedTuple):
    """A fixed number of inputs, of which the first `valid` count; all fields have the tile's full length."""

    inputs: Tensor
    labels: Tensor
    valid: int
    indices: np.ndarray
    """Of the images in their set, int64."""


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n images in an epoch: a permutation, (n,) int64."""
    return np.argsort(uniform(seed, epoch, np.arange(n), Stream.ORDER), kind="stable")


class TrainingLoader:
    """The augmented training batches of a run; every image once an epoch, the last partial batch included.

    Args:
      images: the training set, N images.
      config: augmentation, mean and std.
      batch_size: images a step.
      seed: of the run.
    """

    def __init__(self, images: ImageSet, config: DataConfig, batch_size: int, seed: int):
        self.images, self.config, self.batch_size, self.seed = images, config, batch_size, seed
        self.steps_per_epoch = ceil(len(images) / batch_size)
        self._order = lru_cache(maxsize=2)(lambda epoch: epoch_order(len(images), seed, epoch))

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0; no step before it need have been asked for."""
        epoch, position = divmod(step, self.steps_per_epoch)
        indices = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        inputs = normalise(self.augmented(indices, epoch), self.config.mean, self.config.std)
        return Batch(inputs, torch.from_numpy(self.images.labels[indices]))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start, ..., stop - 1, prepared ahead where images are streamed."""
        if not self.images.streamed:
            yield from map(self.batch, range(start, stop))
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        try:
            pending = deque(pool.submit(self.batch, step) for step in range(start, min(start + AHEAD, stop)))
            for step in range(start, stop):
                batch = pending.popleft().result()
                if step + AHEAD < stop:
                    pending.append(pool.submit(self.batch, step + AHEAD))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

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


def tiles(images: ImageSet, indices: Indices, config: DataConfig, size: int) -> Iterator[Tile]:
    """Unaugmented inputs in tiles of one size, the last filled up with its first image.

    Args:
      images: the set.
      indices: of the images, in evaluation order.
      config: mean and std.
      size: inputs a tile. Every tile has that many: a forward's last bits depend on it.
    """
    indices = np.asarray(indices, dtype=np.int64)
    for start in range(0, len(indices), size):
        counted = indices[start : start + size]
        padded = np.concatenate([counted, np.repeat(counted[:1], size - len(counted))])
        inputs = normalise(images.images(padded), config.mean, config.std)
        yield Tile(inputs, torch.from_numpy(images.labels[padded]), len(counted), padded)


def recalibration_batches(images: ImageSet, n: int, config: DataConfig, size: int) -> list[Tensor]:
    """Fixed unaugmented inputs from which batch-norm statistics are recomputed, in near-equal batches.

    Args:
      images: the training set.
      n: so many, class-balanced; all where there are fewer.
      config: mean and std.
      size: inputs a batch at most.

    Returns:
      (B, C, H, W) float32 each.
    """
    indices = balanced_indices(images.labels, n)
    # Folders come sorted by class: batches of one class each would have too little variance.
    indices = indices[epoch_order(len(indices), seed=0, epoch=0)]
    parts = np.array_split(indices, ceil(len(indices) / size))
    return [normalise(images.images(part), config.mean, config.std) for part in parts]
