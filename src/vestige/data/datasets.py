"""Sets of labelled images, opened: held in memory where they fit, else streamed."""

from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
import torch
from torch import Tensor

from vestige.config import DataConfig
from vestige.data.fingerprint import dataset_name, locate, reading, split_spec, unreadable
from vestige.data.imageset import HeldImages, ImageSet, Indices, OnBadImage, Reader, StreamedImages, fill
from vestige.data.sources import (
    Source,
    UnreadableImageError,
    digits_source,
    folder_source,
    read_size,
    torchvision_source,
)
from vestige.data.subsets import balanced_indices
from vestige.errors import DataError

__all__ = ["HeldImages", "ImageSet", "Indices", "StreamedImages", "check_same_classes", "open_images"]

MEMORY_LIMIT = 4 * 2**30
"""Bytes of decoded images; larger sets are streamed."""


def open_images(spec: str, split: str, config: DataConfig, *, on_bad_image: OnBadImage = "error") -> ImageSet:
    """Open a set of images; decode them all now, unless they are too many.

    Args:
      spec: `digits`, `folder:PATH`, `parquet:FILE`, `torchvision:NAME:PATH` or `path.py:object`.
      split: `train` or `test`; selects `limit` or `limit_test`, and a part where one specification holds
        both.
      config: channels, size and limits; random resized crops need the images as they came.
      on_bad_image: `skip` leaves out images that cannot be read, after the limits were applied, and lists them in
        `ImageSet.skipped`: those of a held set now, those of a streamed one as they are met, by `readable` and so
        by `loader.tiles` (`images` and `crops` still raise). A class may lose all its images so.

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
        source = _open_source(spec, split, doing, strict=on_bad_image == "error")
        if not len(source.labels):
            raise DataError(
                doing, found="there is no image in it", remedy="Give at least one image of two classes each"
            )
        limit = config.limit if split == "train" else config.limit_test
        source = source.take(balanced_indices(source.labels, limit))
        reader = Reader(source, config, doing, on_bad_image, dict(source.unreadable))
        return _hold_or_stream(dataset_name(spec), reader, crops=split == "train")
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


def _open_source(spec: str, split: str, doing: str, *, strict: bool) -> Source:
    path = locate(spec, split)
    match split_spec(spec).kind:
        case "digits":
            return digits_source(split)
        case "folder":
            return folder_source(path, doing, strict=strict)
        case "parquet":
            from vestige.data.parquet import parquet_source

            return parquet_source(path, doing, strict=strict)
        case "python":
            from vestige.data.userdata import user_source

            return user_source(spec, split, strict=strict)
        case _:
            return torchvision_source(split_spec(spec).name, path, split, doing)


def _hold_or_stream(name: str, reader: Reader, *, crops: bool) -> ImageSet:
    source, config = reader.source, reader.config
    first = _first(reader)
    channels, height, width = reader.fitted(first).shape
    shape = (channels, height, width)
    pool = ThreadPoolExecutor(min(8, cpu_count() or 1), thread_name_prefix="decode")
    originals_kept = crops and config.augment.random_resized_crop
    pixels = first[0].numel() if originals_kept else 0
    fits = len(source.labels) * channels * (height * width + pixels) <= MEMORY_LIMIT
    if not fits or (originals_kept and not _one_size(reader, first)):
        known = (name, source.class_names, source.labels, shape)
        return StreamedImages(*known, unreadable=reader.unreadable, reader=reader, pool=pool)
    with pool:
        views = torch.empty((len(source.labels), *shape), dtype=torch.uint8)
        originals = views
        if originals_kept:
            originals = torch.empty((len(source.labels), *first.shape), dtype=torch.uint8)
            made = fill(originals, reader.original, pool)
            fill(views, lambda i: reader.fitted(originals[i]) if made[i] else None, pool)
        else:
            made = fill(views, lambda i: reader.view(i, shape), pool)
    views = _packed(views, made)
    originals = _packed(originals, made) if originals_kept else views
    known = (name, source.class_names, source.labels[made], shape)
    return HeldImages(*known, unreadable=reader.unreadable, views=views, originals=originals, config=config)


def _first(reader: Reader) -> Tensor:
    """The first image that can be read, as it came."""
    for i in range(len(reader.source.labels)):
        image = reader.original(i)
        if image is not None:
            return image
    raise DataError(
        reader.doing,
        found=f"none of the {len(reader.source.labels)} images can be read; {reader.unreadable[0]}",
        remedy="Give images that can",
    )


def _one_size(reader: Reader, first: Tensor) -> bool:
    """Whether all images that can be read have one size; stops at the first that has not."""
    for i in range(len(reader.source.labels)):
        try:
            if read_size(reader.source, i, reader.doing) != tuple(first.shape[1:]):
                return False
        except UnreadableImageError:
            if reader.on_bad_image == "error":
                raise
    return True


def _packed(images: Tensor, kept: np.ndarray) -> Tensor:
    """The rows to be kept, moved to the front: no second copy of a set that may fill the memory."""
    for to, row in enumerate(np.flatnonzero(kept)):
        if to != row:
            images[to] = images[int(row)]
    return images[: int(kept.sum())]
