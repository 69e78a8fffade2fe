"""Batches of whatever users measure on: their own loaders, datasets, tensors or iterables, or this library's images.

Batches are numbered in evaluation order. Several processes share them: process r of w gets whole batches r, r + w, ...
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from traceback import clear_frames
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from vestige.config import DataConfig
from vestige.data.imageset import ImageSet
from vestige.data.labels import class_indices, known_labels
from vestige.data.loader import Tile, tiles
from vestige.errors import DataError, VestigeError
from vestige.measurement.orders import IndexLists, check_not_shared, fixed_order, same_order_everywhere
from vestige.measurement.pairs import DOING, as_inputs, as_labels, as_pair, count, describe, leaves, take

Parts = Sequence[np.ndarray]
"""Places of inputs in evaluation order, ascending, int64, one array a tile."""

KINDS = "a DataLoader, batches of (inputs, labels), a Dataset of (input, label), or a pair of tensors (inputs, labels)"


@dataclass
class Feed:
    """Batches in evaluation order, as often as the data can be read.

    Attributes:
      name: short, for tables.
      length: how many inputs there are, of all processes; None where that is not known beforehand. Images that turn
        out unreadable and are skipped are counted.
      labels: (N,) int64, all of them in evaluation order, of all processes; None where inputs must be read to know.
      once: the data can be read only once.
      notes: what must be said aloud about them.
    """

    name: str
    length: int | None
    labels: np.ndarray | None
    once: bool
    notes: tuple[str, ...]
    _open: Callable[[], Iterator[Tile]] = field(repr=False)
    _skipped: Callable[[], list[str]] = field(default=list, repr=False)
    _at: Callable[[Parts], Iterator[Tile]] | None = field(default=None, repr=False)
    _opened: bool = field(default=False, repr=False)
    _labels_seen: Any = field(default_factory=hashlib.sha256, repr=False)

    @property
    def digest(self) -> str:
        """Of the labels of all batches that this process has read, its own or not: where each reads all, they agree."""
        return self._labels_seen.hexdigest()

    @property
    def skipped(self) -> list[str]:
        """What is wrong with each image that was left out as unreadable so far, in this process."""
        return self._skipped()

    def __iter__(self) -> Iterator[Tile]:
        """This process's share. `Tile.indices` are places in evaluation order, `Tile.number` counts all batches.

        Raises:
          DataError: a batch cannot be read, is no pair of inputs and class indices, has other labels than `labels`,
            or the data can be read but once, and were.
        """
        if self.once and self._opened:
            raise DataError(
                DOING,
                found=f"a {self.name} can be read only once, and was",
                remedy="Give what can be read again: a DataLoader, a list of batches, a Dataset, or tensors",
            )
        self._opened = True
        for tile in self._open():
            if self.labels is not None:
                self._check(tile)
            yield tile

    @property
    def jumps(self) -> bool:
        """Whether inputs can be read without those before them."""
        return self._at is not None

    def at(self, parts: Parts) -> Iterator[Tile]:
        """A tile for each of some lists of places; one of which no input can be read does not come.

        `Tile.number` counts the lists. Only where the feed `jumps`.

        Raises:
          DataError: as `__iter__`.
        """
        assert self._at is not None
        for tile in self._at(parts):
            if self.labels is not None:
                self._check(tile)
            yield tile

    def _check(self, tile: Tile) -> None:
        assert self.labels is not None
        places, found = tile.indices[: tile.valid], tile.labels[: tile.valid].numpy()
        if places[-1] >= len(self.labels) or not np.array_equal(self.labels[places], found):
            raise DataError(
                DOING,
                found=f"batch {tile.number} has other labels than the dataset tells beforehand (in targets or labels)",
                remedy="Let them agree, or give iter(loader), of which no labels are asked beforehand",
            )


def batches(
    data: Any, *, batch_size: int, workers: int = 0, share: tuple[int, int] = (0, 1), labelled: bool = True
) -> Feed:
    """What users measure on, as batches of one kind.

    Args:
      data: one of

        - a DataLoader: its own batches. One with a fixed order is read only for this process's share.
        - an iterable of (inputs, labels) batches; where there are several processes, each reads all and keeps its own.
        - a map-style Dataset of (input, label).
        - a pair (inputs, labels) of tensors or NumPy arrays.
        - a pair (ImageSet, DataConfig): padded tiles of `batch_size`.

        inputs: a tensor, or a mapping, tuple or list of tensors. labels: whole numbers from 0.
      batch_size: of what has no batches of its own. The last batch is smaller (that of an ImageSet is padded).
      workers: processes that read a Dataset.
      share: this process's number, and how many processes there are.
      labelled: labels are wanted. Else they are zeros, and inputs alone will do for (inputs, labels).

    Raises:
      DataError: it is none of these, is empty, or its order or sharing cannot be followed; labels or lengths are
        wrong (where they are seen without reading).
    """
    assert 0 <= share[0] < share[1]
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], ImageSet):
        feed = _of_images(*data, batch_size, share)
    elif isinstance(data, DataLoader):
        feed = _of_loader(data, share, labelled)
    elif isinstance(data, IterableDataset):
        raise DataError(
            DOING, found=f"{_called(data)} has no batches", remedy="Wrap it: torch.utils.data.DataLoader(dataset, 256)"
        )
    elif isinstance(data, Dataset):
        feed = _of_dataset(data, batch_size, workers, share, labelled)
    elif is_pair(data, labelled) or (isinstance(data, Tensor | np.ndarray) and not labelled):
        feed = _of_pair(data, batch_size, share, labelled)
    elif isinstance(data, str | bytes | ImageSet | Tensor | np.ndarray | dict):
        remedy = "Give (images, config)" if isinstance(data, ImageSet) else f"Give {KINDS}"
        raise DataError(DOING, found=f"{describe(data)} is nothing to measure on", remedy=remedy)
    elif hasattr(data, "__iter__"):
        feed = _of_iterable(data, share, labelled)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        feed = _of_dataset(data, batch_size, workers, share, labelled)
    else:
        raise DataError(DOING, found=f"{describe(data)} is nothing to measure on", remedy=f"Give {KINDS}")
    if feed.length == 0:
        raise _empty(feed.name)
    return feed


def _of_images(images: ImageSet, config: DataConfig, size: int, share: tuple[int, int]) -> Feed:
    def read() -> Iterator[Tile]:
        return tiles(images, np.arange(len(images)), config, size, share)

    def at(parts: Parts) -> Iterator[Tile]:
        before = 0
        for length, run in groupby(parts, key=len):
            alike = list(run)
            for tile in tiles(images, np.concatenate(alike), config, length):
                yield tile._replace(number=before + tile.number)
            before += len(alike)

    labels = images.labels if images.settled else None
    return Feed(images.name, len(images), labels, False, (), read, lambda: images.skipped, at)


def _of_pair(data: Any, size: int, share: tuple[int, int], labelled: bool) -> Feed:
    inputs = data[0] if isinstance(data, tuple | list) else data
    n = count(inputs, "the data")
    labels = as_labels(data[1], "the data") if labelled else torch.zeros(n, dtype=torch.int64)
    if n != len(labels):
        raise DataError(DOING, found=f"there are {n} inputs and {len(labels)} labels", remedy="Give as many of both")
    rank, world = share

    def read() -> Iterator[Tile]:
        for number, start in list(enumerate(range(0, n, size)))[rank::world]:
            rows = slice(start, min(start + size, n))
            part = as_inputs(take(inputs, rows), f"batch {number}")
            yield Tile(part, labels[rows], rows.stop - start, np.arange(start, rows.stop), number)

    def at(parts: Parts) -> Iterator[Tile]:
        for number, part in enumerate(parts):
            yield Tile(as_inputs(take(inputs, part), f"tile {number}"), labels[part], len(part), part, number)

    kind = "tensors" if all(isinstance(leaf, Tensor) for leaf in leaves(inputs)) else "arrays"
    return Feed(kind, n, labels.numpy() if labelled else None, False, (), read, _at=at)


def _of_dataset(data: Any, size: int, workers: int, share: tuple[int, int], labelled: bool) -> Feed:
    try:
        n = len(data)
    except TypeError as error:
        raise DataError(
            DOING, found=f"{_called(data)} has no length", remedy="Give it a __len__, or give a DataLoader of it"
        ) from error
    lists = IndexLists([list(range(start, min(start + size, n))) for start in range(0, n, size)])
    loader = DataLoader(data, batch_sampler=lists.of(share), num_workers=workers)
    labels = _labels(data, np.arange(n), default_collate) if labelled and n else None
    at = partial(_jumping, lambda parts: DataLoader(data, batch_sampler=parts, num_workers=workers), labelled)
    return Feed(_called(data), n, labels, False, (), lambda: _listed(loader, lists, share, labelled), _at=at)


def _of_loader(loader: DataLoader, share: tuple[int, int], labelled: bool) -> Feed:
    check_not_shared(loader)
    name = f"DataLoader of {_called(loader.dataset)}"
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return _of_iterable(loader, share, labelled, name)
    lists, notes = fixed_order(loader)
    labels, length = None, None
    if lists is not None:
        length = lists.length
        labels = _labels(loader.dataset, lists.order, loader.collate_fn) if labelled and length else None
    if share[1] == 1:
        at = None
        if lists is not None:
            order = lists.order
            at = partial(_jumping, lambda parts: _for_share(loader, [order[part].tolist() for part in parts]), labelled)
        return Feed(name, length, labels, False, notes, lambda: _kept(loader, share, labelled, name), _at=at)
    lists = lists or same_order_everywhere(loader)
    own = _for_share(loader, lists.of(share))
    return Feed(name, lists.length, labels, False, notes, lambda: _listed(own, lists, share, labelled))


def _of_iterable(data: Iterable[Any], share: tuple[int, int], labelled: bool, name: str = "") -> Feed:
    name, once = name or type(data).__name__, isinstance(data, Iterator)
    length, seen = 0 if isinstance(data, tuple | list) and not data else None, hashlib.sha256()
    read = partial(_kept, data, share, labelled, name, seen)
    return Feed(name, length, None, once, (), read, _labels_seen=seen)


def _kept(data: Iterable[Any], share: tuple[int, int], labelled: bool, name: str, seen: Any = None) -> Iterator[Tile]:
    """All batches are read, their labels hashed, and one's own kept."""
    start = number = 0
    for batch in _reading(data):
        inputs, labels = as_pair(batch, f"batch {number}", labelled=labelled)
        if not len(labels):
            continue
        if seen is not None:
            seen.update(labels.numpy().tobytes())
        if number % share[1] == share[0]:
            yield Tile(inputs, labels, len(labels), np.arange(start, start + len(labels)), number)
        start, number = start + len(labels), number + 1
    if not number:
        raise _empty(name)


def _listed(loader: DataLoader, lists: IndexLists, share: tuple[int, int], labelled: bool) -> Iterator[Tile]:
    """Only one's own batches are read, whose places are known from the lists of indices."""
    numbers = range(share[0], len(lists.lists), share[1])
    for number, batch in zip(numbers, _reading(loader, numbers), strict=True):
        inputs, labels = as_pair(batch, f"batch {number}", labelled=labelled)
        start = lists.starts[number]
        if len(labels):
            yield Tile(inputs, labels, len(labels), np.arange(start, start + len(labels)), number)


def _jumping(open_at: Callable[[list[list[int]]], DataLoader], labelled: bool, parts: Parts) -> Iterator[Tile]:
    """A batch for each list of places, read by a loader made for them."""
    for number, batch in enumerate(_reading(open_at([part.tolist() for part in parts]))):
        inputs, labels = as_pair(batch, f"tile {number}", labelled=labelled)
        if len(labels) != len(parts[number]):
            raise DataError(
                DOING,
                found=f"{len(parts[number])} inputs are collated into {len(labels)}",
                remedy="Let the DataLoader's collate_fn keep every input",
            )
        yield Tile(inputs, labels, len(labels), parts[number], number)


def _reading(data: Iterable[Any], numbers: Iterable[int] | None = None) -> Iterator[Any]:
    """The batches, an error of the user's code in them explained."""
    known = iter(numbers) if numbers is not None else None
    iterator, number = None, 0
    while True:
        try:
            number = next(known, 0) if known is not None else number
            iterator = iter(data) if iterator is None else iterator
            batch = next(iterator)
        except StopIteration:
            return
        except VestigeError:
            raise
        except Exception as error:
            # A worker's error holds its whole traceback; the last line says what happened.
            reason = ([line for line in str(error).splitlines() if line.strip()] or [""])[-1].strip()
            shown = reason if reason.startswith(type(error).__name__) else f"{type(error).__name__}: {reason}"
            iterator = None  # its worker processes end now, and not when the traceback's frames are collected
            clear_frames(error.__traceback__)
            raise DataError(
                DOING,
                found=f"reading batch {number} raises {shown}",
                remedy="Mend the data; iterating over them should raise no error",
            ) from error
        yield batch
        number += 1


def _for_share(loader: DataLoader, lists: list[list[int]]) -> DataLoader:
    """A loader of the same make for other batches."""
    settings: dict[str, Any] = {"prefetch_factor": loader.prefetch_factor} if loader.num_workers else {}
    return DataLoader(
        loader.dataset,
        batch_sampler=lists,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        **settings,
    )


def _labels(dataset: Any, order: np.ndarray, collate: Callable[[list[Any]], Any]) -> np.ndarray | None:
    """The labels that a dataset tells of, unless its items have others (a transform or the collating changed them)."""
    labels = known_labels(dataset)
    if labels is None:
        return None
    if not (isinstance(dataset, TensorDataset) and collate is default_collate):
        for i in order[[0, len(order) // 2, -1]].tolist():
            try:
                _, found = as_pair(collate([dataset[i]]), "the data")
            except Exception:
                break  # said better when it is met in its batch
            if found.tolist() != [labels[i]]:
                return None
    return labels[order]


def is_pair(data: Any, labelled: bool) -> bool:
    """Whether it is (inputs, labels) of all inputs, and not a collection of two batches."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    if isinstance(data[1], Tensor | np.ndarray):  # without labels it may be the second batch
        return labelled or class_indices(data[1], len(data[1]) if data[1].ndim else 0) is not None
    nested = Tensor | np.ndarray | tuple | list | Mapping
    return isinstance(data[1], tuple | list) and not any(isinstance(part, nested) for part in data[1])


def _called(dataset: Any) -> str:
    inner = getattr(dataset, "dataset", None)
    return f"{type(dataset).__name__} of {_called(inner)}" if inner is not None else type(dataset).__name__


def _empty(name: str) -> DataError:
    return DataError(DOING, found=f"there is no input in the {name}", remedy="Give inputs of at least two classes")
