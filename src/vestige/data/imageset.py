"""Labelled images as uint8 tensors: held in memory, or decoded when they are asked for.

Shapes: N images of a set, B of a batch, C channels, H x W pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vestige.config import DataConfig
from vestige.data.decode import UNREADABLE, cut, decode, fit
from vestige.data.sources import Source, not_an_image
from vestige.data.transforms import crop_box
from vestige.errors import DataError, VestigeError

CHUNK = 64
"""Images that a decoding thread takes at a time."""

Indices = Sequence[int] | np.ndarray
OnBadImage = Literal["error", "skip"]


@dataclass(frozen=True)
class ImageSet(ABC):
    """Labelled images as uint8 tensors.

    Attributes:
      name: short, without directories, for tables.
      class_names: in the order of their indices.
      labels: (N,) int64.
      shape: channels, height, width of the evaluation view.
      unreadable: what is wrong with the images that were left out so far, by their place in the specification.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    shape: tuple[int, int, int]
    unreadable: dict[int, str] = field(default_factory=dict, repr=False, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def skipped(self) -> list[str]:
        """What is wrong with each image that was left out, worded as the error would be."""
        return [self.unreadable[i] for i in sorted(self.unreadable)]

    @property
    @abstractmethod
    def streamed(self) -> bool:
        """Whether images are decoded when they are asked for."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether every image that is asked for will come: none can yet turn out unreadable and be left out."""

    @abstractmethod
    def readable(self, indices: Indices) -> tuple[Tensor, np.ndarray]:
        """Evaluation views of those images that can be read.

        Args:
          indices: B of them.

        Returns:
          (R, C, H, W) uint8, and the R places in `indices` that they belong to, ascending; R < B only where bad
          images are skipped.
        """

    @abstractmethod
    def images(self, indices: Indices) -> Tensor:
        """The evaluation view, resized and centre-cropped: (B, C, H, W) uint8."""

    @abstractmethod
    def crops(self, indices: Indices, draws: np.ndarray) -> Tensor:
        """Random resized crops of the images as they came.

        Args:
          indices: B of them.
          draws: (B, CROP_TRIES, 4), see `transforms.crop_box`.

        Returns:
          (B, C, H, W) uint8.
        """


@dataclass(frozen=True)
class HeldImages(ImageSet):
    """Images decoded once; `originals` are kept where crops are taken of images larger than the view."""

    views: Tensor = field(repr=False)
    originals: Tensor = field(repr=False)
    config: DataConfig = field(repr=False)

    @property
    def streamed(self) -> bool:
        """Never."""
        return False

    @property
    def settled(self) -> bool:
        """Always."""
        return True

    def readable(self, indices: Indices) -> tuple[Tensor, np.ndarray]:
        """See `ImageSet.readable`; those that are not were left out at opening."""
        return self.images(indices), np.arange(len(indices))

    def images(self, indices: Indices) -> Tensor:
        """See `ImageSet.images`."""
        return self.views[torch.as_tensor(indices, dtype=torch.int64)]

    def crops(self, indices: Indices, draws: np.ndarray) -> Tensor:
        """See `ImageSet.crops`."""
        originals = (self.originals[int(i)] for i in indices)
        return torch.stack([_crop(o, d, self.config, self.shape) for o, d in zip(originals, draws, strict=True)])


@dataclass(frozen=True)
class Reader:
    """Decodes the images of a source; what it cannot read is an error, or is noted in `unreadable`."""

    source: Source
    config: DataConfig
    doing: str
    on_bad_image: OnBadImage
    unreadable: dict[int, str]

    def original(self, i: int) -> Tensor | None:
        """Image i as it came, (C, H, W); None where it was noted as unreadable.

        Raises:
          DataError: it is not an image, and such are not to be skipped.
        """
        if i in self.unreadable:
            return None
        try:
            return decode(self.source.read(i), self.config.channels)
        except VestigeError:
            raise
        except UNREADABLE as error:
            problem = not_an_image(self.source.where(i), error, self.doing)
            if self.on_bad_image == "error":
                raise problem from error
            self.unreadable[i] = problem.found
            return None

    def fitted(self, original: Tensor) -> Tensor:
        """The evaluation view of an image."""
        return fit(original, self.config.size, self.config.resize, self.config.interpolation)

    def view(self, i: int, shape: tuple[int, int, int]) -> Tensor | None:
        """The evaluation view of image i, of the given shape; None where it was noted as unreadable.

        Raises:
          DataError: as `original`; it is of another shape.
        """
        original = self.original(i)
        if original is None:
            return None
        view = self.fitted(original)
        if view.shape != shape:
            first = next(j for j in range(len(self.source.labels)) if j not in self.unreadable)
            raise DataError(
                self.doing,
                found=f"{self.source.where(i)} has {view.shape[1]} x {view.shape[2]} pixels where "
                f"{self.source.where(first)} has {shape[1]} x {shape[2]}",
                remedy="Give data.size, to which all images are then resized and cropped",
            )
        return view


@dataclass(frozen=True)
class StreamedImages(ImageSet):
    """Images decoded, by several threads, each time they are asked for."""

    reader: Reader = field(repr=False)
    pool: ThreadPoolExecutor = field(repr=False)

    @property
    def streamed(self) -> bool:
        """Always."""
        return True

    @property
    def settled(self) -> bool:
        """Not where bad images are skipped: they are found when they are decoded."""
        return self.reader.on_bad_image == "error"

    def readable(self, indices: Indices) -> tuple[Tensor, np.ndarray]:
        """See `ImageSet.readable`.

        Raises:
          DataError: one is not an image, and such are not to be skipped; one is not of the others' size.
        """
        return self._made(indices, lambda j: self.reader.view(int(indices[j]), self.shape))

    def images(self, indices: Indices) -> Tensor:
        """See `ImageSet.images`.

        Raises:
          DataError: one is not an image, or not of the others' size.
        """
        return self._whole(indices, *self.readable(indices))

    def crops(self, indices: Indices, draws: np.ndarray) -> Tensor:
        """See `ImageSet.crops`.

        Raises:
          DataError: one is not an image.
        """

        def crop(j: int) -> Tensor | None:
            original = self.reader.original(int(indices[j]))
            return None if original is None else _crop(original, draws[j], self.reader.config, self.shape)

        return self._whole(indices, *self._made(indices, crop))

    def _made(self, indices: Indices, make: Callable[[int], Tensor | None]) -> tuple[Tensor, np.ndarray]:
        out = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        made = fill(out, make, self.pool)
        return (out if made.all() else out[torch.from_numpy(made)]), np.flatnonzero(made)

    def _whole(self, indices: Indices, out: Tensor, places: np.ndarray) -> Tensor:
        if len(places) < len(indices):
            lacking = next(int(i) for i in indices if int(i) in self.unreadable)
            raise DataError(self.reader.doing, found=self.unreadable[lacking], remedy="Replace or remove it")
        return out


def fill(out: Tensor, make: Callable[[int], Tensor | None], pool: ThreadPoolExecutor) -> np.ndarray:
    """Write the image that `make` gives for each row, by threads.

    Returns:
      one boolean a row: whether there was an image.
    """
    made = np.zeros(len(out), bool)

    def work(start: int) -> None:
        for j in range(start, min(start + CHUNK, len(out))):
            image = make(j)
            if image is not None:
                out[j], made[j] = image, True

    for _ in pool.map(work, range(0, len(out), CHUNK)):
        pass
    return made


def _crop(image: Tensor, draws: np.ndarray, config: DataConfig, shape: tuple[int, int, int]) -> Tensor:
    return cut(image, crop_box(draws, image.shape[1], image.shape[2]), shape[1], config.interpolation)
