"""Sets of labelled images, decoded: held in memory where they fit, else streamed.

Shapes: N images of a set, B of a batch, C channels, H x W pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count

import numpy as np
import torch
from torch import Tensor

from vestige.config import DataConfig
from vestige.data.decode import cut, decode, fit
from vestige.data.fingerprint import dataset_name, locate, reading, split_spec, unreadable
from vestige.data.sources import (
    Source,
    digits_source,
    folder_source,
    not_an_image,
    read_size,
    torchvision_source,
)
from vestige.data.subsets import balanced_indices
from vestige.data.transforms import crop_box
from vestige.errors import DataError

MEMORY_LIMIT = 4 * 2**30
"""Bytes of decoded images; larger sets are streamed."""
CHUNK = 64
"""Images that a decoding thread takes at a time."""

Indices = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class ImageSet(ABC):
    """Labelled images as uint8 tensors.

    Attributes:
      name: short, without directories, for tables.
      class_names: in the order of their indices.
      labels: (N,) int64.
      shape: channels, height, width of the evaluation view.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def streamed(self) -> bool:
        """Whether images are decoded when they are asked for."""

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

    @property
    def streamed(self) -> bool:
        """Never."""
        return False

    def images(self, indices: Indices) -> Tensor:
        """See `ImageSet.images`."""
        return self.views[torch.as_tensor(indices, dtype=torch.int64)]

    def crops(self, indices: Indices, draws: np.ndarray) -> Tensor:
        """See `ImageSet.crops`."""
        return torch.stack(
            [_crop(self.originals[int(i)], d, self.shape[1]) for i, d in zip(indices, draws, strict=True)]
        )


@dataclass(frozen=True)
class StreamedImages(ImageSet):
    """Images decoded, by several threads, each time they are asked for."""

    source: Source = field(repr=False)
    config: DataConfig = field(repr=False)
    doing: str = field(repr=False)
    pool: ThreadPoolExecutor = field(repr=False)

    @property
    def streamed(self) -> bool:
        """Always."""
        return True

    def images(self, indices: Indices) -> Tensor:
        """See `ImageSet.images`.

        Raises:
          DataError: one is not an image, or not of the others' size.
        """
        out = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        view = _viewer(self.source, self.config, self.shape, self.doing)
        _fill(out, indices, view, self.pool)
        return out

    def crops(self, indices: Indices, draws: np.ndarray) -> Tensor:
        """See `ImageSet.crops`.

        Raises:
          DataError: one is not an image.
        """

        def crop(j: int) -> Tensor:
            image = _decode(self.source, int(indices[j]), self.config.channels, self.doing)
            return _crop(image, draws[j], self.shape[1])

        out = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        _fill(out, range(len(indices)), crop, self.pool)
        return out


def open_images(spec: str, split: str, config: DataConfig) -> ImageSet:
    """Open a set of images; decode them all now, unless they are too many.

    Args:
      spec: `digits`, `folder:PATH`, `parquet:FILE` or `torchvision:NAME:PATH`.
      split: `train` or `test`; selects `limit` or `limit_test`, and a part where one specification holds
        both.
      config: channels, size and limits; random resized crops need the images as they came.

    Raises:
      DataError: the images are not there, are no images, have no usable labels, or differ in size where none
        is given.
    """
    doing = reading(spec, split)
    if config.size and config.resize and config.resize < config.size:
        raise DataError(
            doing,
            found=f"data.resize {config.resize} is less than data.size {config.size}",
            remedy="Resize to the size of the crop or more",
        )
    try:
        source = _open_source(spec, split, doing)
        if not len(source.labels):
            raise DataError(
                doing, found="there is no image in it", remedy="Give at least one image of two classes each"
            )
        limit = config.limit if split == "train" else config.limit_test
        source = source.take(balanced_indices(source.labels, limit))
        return _hold_or_stream(dataset_name(spec), source, config, doing, crops=split == "train")
    except OSError as error:
        raise unreadable(spec, split, error) from error


def check_same_classes(train: ImageSet, test: ImageSet) -> None:
    """The classes of a test set must be those of the training set, in the same order (the last may lack).

    Raises:
      DataError: they are not; a class folder missing from one of them would shift all labels after it.
    """
    a, b = train.class_names, test.class_names
    if b == a[: len(b)]:
        return
    found = f"{len(a)} classes in the first and {len(b)} in the second"
    if differing := [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]:
        i = differing[0]
        found = f"class {i} is {a[i]!r} in the first and {b[i]!r} in the second"
    raise DataError(
        f"comparing the classes of {train.name!r} and {test.name!r}",
        found=found,
        remedy="Give both the same classes",
    )


def _open_source(spec: str, split: str, doing: str) -> Source:
    path = locate(spec, split)
    match split_spec(spec).kind:
        case "digits":
            return digits_source(split)
        case "folder":
            return folder_source(path, doing)
        case "parquet":
            from vestige.data.parquet import parquet_source

            return parquet_source(path, doing)
        case _:
            return torchvision_source(split_spec(spec).name, path, split, doing)


def _hold_or_stream(name: str, source: Source, config: DataConfig, doing: str, *, crops: bool) -> ImageSet:
    first = _decode(source, 0, config.channels, doing)
    channels, height, width = fit(first, config.size, config.resize).shape
    shape = (channels, height, width)
    known = (name, source.class_names, source.labels, shape)
    pool = ThreadPoolExecutor(min(8, cpu_count() or 1), thread_name_prefix="decode")
    originals_kept = crops and config.augment.random_resized_crop
    pixels = first[0].numel() if originals_kept else 0
    fits = len(source.labels) * channels * (height * width + pixels) <= MEMORY_LIMIT
    if not fits or (originals_kept and not _one_size(source, doing)):
        return StreamedImages(*known, source, config, doing, pool)
    everything = range(len(source.labels))
    with pool:
        views = torch.empty((len(source.labels), *shape), dtype=torch.uint8)
        if not originals_kept:
            _fill(views, everything, _viewer(source, config, shape, doing), pool)
            return HeldImages(*known, views, views)
        originals = torch.empty((len(source.labels), *first.shape), dtype=torch.uint8)
        _fill(originals, everything, lambda i: _decode(source, i, config.channels, doing), pool)
        _fill(views, everything, lambda i: fit(originals[i], config.size, config.resize), pool)
        return HeldImages(*known, views, originals)


def _one_size(source: Source, doing: str) -> bool:
    """Whether all images have one size; stops at the first that has not."""
    first = read_size(source, 0, doing)
    return all(read_size(source, i, doing) == first for i in range(1, len(source.labels)))


def _viewer(source: Source, config: DataConfig, shape: tuple[int, int, int], doing: str) -> Callable[[int], Tensor]:
    """Index to evaluation view, of the given shape."""

    def view(i: int) -> Tensor:
        image = fit(_decode(source, i, config.channels, doing), config.size, config.resize)
        if image.shape != shape:
            raise DataError(
                doing,
                found=f"{source.where(i)} has {image.shape[1]} x {image.shape[2]} pixels where "
                f"{source.where(0)} has {shape[1]} x {shape[2]}",
                remedy="Give data.size, to which all images are then resized and cropped",
            )
        return image

    return view


def _decode(source: Source, i: int, channels: int, doing: str) -> Tensor:
    try:
        return decode(source.read(i), channels)
    except (ValueError, OSError) as error:
        raise not_an_image(source.where(i), error, doing) from error


def _crop(image: Tensor, draws: np.ndarray, size: int) -> Tensor:
    return cut(image, crop_box(draws, image.shape[1], image.shape[2]), size)


def _fill(out: Tensor, indices: Indices | range, make: Callable[[int], Tensor], pool: ThreadPoolExecutor) -> None:
    """Write the image of each index into its row, by threads."""

    def work(start: int) -> None:
        for j in range(start, min(start + CHUNK, len(indices))):
            out[j] = make(int(indices[j]))

    for _ in pool.map(work, range(0, len(indices), CHUNK)):
        pass
