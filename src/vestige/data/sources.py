"""Labelled images before decoding: scikit-learn's digits, a folder for each class, torchvision's sets."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vestige.data.decode import UNREADABLE, Content, size_of
from vestige.data.fingerprint import TORCHVISION, digits_file, is_litter, walk
from vestige.data.transforms import Stream, uniform
from vestige.errors import DataError, VestigeError

DIGITS_PER_CLASS = 50
"""Training images of each of the ten digits; the rest are test images."""
EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
"""Files with other endings are looked into when a folder is opened."""


class UnreadableImageError(DataError):
    """An image that cannot be decoded."""


@dataclass(frozen=True)
class Source:
    """Labelled images before decoding.

    Attributes:
      class_names: C of them, in the order of their indices.
      labels: (N,) int64, 0..C-1.
      read: index to image.
      where: index to what a message calls the image.
      unreadable: what is wrong with images that were found to be none at opening, by index.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], Content]
    where: Callable[[int], str]
    unreadable: dict[int, str] = field(default_factory=dict)

    def take(self, indices: np.ndarray) -> "Source":
        """Only the images with these indices, in this order."""
        return Source(
            self.class_names,
            self.labels[indices],
            lambda i: self.read(int(indices[i])),
            lambda i: self.where(int(indices[i])),
            {j: self.unreadable[i] for j, i in enumerate(indices.tolist()) if i in self.unreadable},
        )


def digits_source(split: str) -> Source:
    """scikit-learn's 1,797 digits, 8 x 8: 50 of each class to train, 1,297 to test, in a fixed random order.

    Args:
      split: `train` or `test`.
    """
    table = np.loadtxt(digits_file(), delimiter=",", dtype=np.int64)
    order = np.argsort(uniform(0, 0, np.arange(len(table)), Stream.DIGITS_SPLIT), kind="stable")
    labels = table[order, -1]
    rank = np.empty(len(labels), np.int64)  # among the images of its class
    for c in range(10):
        rank[labels == c] = np.arange((labels == c).sum())
    rows = order[rank < DIGITS_PER_CLASS] if split == "train" else order[rank >= DIGITS_PER_CLASS]
    pixels = np.round(table[rows, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Source(
        tuple(str(c) for c in range(10)),
        table[rows, -1],
        pixels.__getitem__,
        lambda i: f"image {rows[i]} of digits",
    )


def folder_source(root: Path, doing: str, *, strict: bool = True) -> Source:
    """A folder of class folders (ImageNet's layout): classes by sorted name, images by sorted path.

    Hidden files are passed over; any other file is taken for an image.

    Args:
      root: the folder.
      doing: for the message.
      strict: look into files with the endings of no image now.

    Raises:
      DataError: there is no class folder, or one without an image, or, looked into, a file that is not an image.
    """
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_litter(entry.name))
    if not classes:
        raise DataError(
            doing,
            found=f"{root} has no folders in it",
            remedy="Put the images of each class into a folder of its own",
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(entry.path for entry in walk(root / name))
        if not files:
            raise DataError(
                doing,
                found=f"class folder {root / name} has no image in it",
                remedy="Put images into it, or remove it",
            )
        paths += files
        labels += [label] * len(files)
    source = Source(tuple(classes), np.array(labels), lambda i: Path(paths[i]).read_bytes(), paths.__getitem__)
    for i, path in enumerate(paths if strict else ()):
        if Path(path).suffix.lower() not in EXTENSIONS:
            read_size(source, i, doing)
    return source


def torchvision_source(name: str, root: Path, split: str, doing: str) -> Source:
    """One of torchvision's sets, as it lies on the disk.

    Args:
      name: of the class in `torchvision.datasets`.
      root: what that class takes as `root`.
      split: `train` or `test`.
      doing: for the message.

    Raises:
      DataError: the set is not there, or not whole.
    """
    import torchvision

    kind = getattr(torchvision.datasets, name)
    assert name in TORCHVISION
    takes = inspect.signature(kind).parameters
    which = {"train": split == "train"} if "train" in takes else {"split": split}
    try:
        images = kind(root=str(root), download=False, **which)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise DataError(
            doing,
            found=" ".join(str(error).split()),
            remedy=f"Download torchvision's {name} there first: vestige never downloads",
        ) from error
    labels = next((getattr(images, key) for key in ("targets", "labels", "_labels") if hasattr(images, key)), None)
    if labels is None:
        labels = [images[i][1] for i in range(len(images))]
    labels = np.array(labels, dtype=np.int64)
    names = tuple(getattr(images, "classes", None) or (str(c) for c in range(labels.max() + 1)))
    return Source(names, labels, lambda i: np.array(images[i][0]), lambda i: f"image {i} of {name}")


def read_size(source: Source, i: int, doing: str) -> tuple[int, int]:
    """Height and width of image i.

    Raises:
      UnreadableImageError: it is not an image.
    """
    try:
        return size_of(source.read(i))
    except VestigeError:
        raise
    except UNREADABLE as error:
        raise not_an_image(source.where(i), error, doing) from error


def not_an_image(where: str, error: Exception, doing: str) -> UnreadableImageError:
    """The error for a file that is no image."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    found = f"{where} is not an image that can be read ({reason or type(error).__name__})"
    return UnreadableImageError(doing, found=found, remedy="Replace or remove it")
