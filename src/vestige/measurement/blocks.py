"""Images in blocks of a fixed number of fixed, padded tiles, read where they are needed and only then.

What a tile holds follows from the data and the tile's size alone, never from memory, processes or what was done before.

Shapes: N images of all, T of a tile.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, inf
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.measurement.inputs import Feed

BLOCK_IMAGES = 2048
_DOING = "reading the images in blocks"


@dataclass(frozen=True)
class Block:
    """Some tiles that follow each other.

    Attributes:
      number: among the blocks.
      numbers: of its tiles.
    """

    number: int
    numbers: range
    _all: "Blocks" = field(repr=False)

    @property
    def images(self) -> int:
        """How many it has, those included that turn out unreadable."""
        return sum(len(self._all.parts[number]) for number in self.numbers)

    def tiles(self) -> Iterator[Tile]:
        """Its tiles, each of T inputs of which the first `valid` count; `number` counts all tiles.

        Raises:
          DataError: the data cannot be read, or come in another order than before.
        """
        return self._all.read(self.numbers)

    def with_donors(self) -> Iterator[tuple[Tile, Any]]:
        """Its tiles, each with the inputs that give the value `resample`: T of them, of which the first `valid` count.

        Image i is given image (i + N // 2) mod N, in evaluation order: another than itself wherever there are two, and
        of another class where the data come sorted by class, as folders do. Where that one is unreadable, another.

        Raises:
          DataError: as `tiles`; there is one image alone.
        """
        return self._all.donors(self.numbers)


class Blocks(Sequence[Block]):
    """All blocks of some images; see `blocks`."""

    def __init__(
        self,
        feed: Feed,
        *,
        tile: int,
        images: int,
        places: np.ndarray | None,
        relabel: Callable[[Tile], Tile],
        held: float,
    ):
        self.feed, self.tile, self._relabel, self._limit = feed, tile, relabel, held
        self._chosen, self._each = places, max(1, images // tile)
        self._tiles: dict[int, Tile] = {}

    @cached_property
    def parts(self) -> list[np.ndarray]:
        """Places in evaluation order of the images of each tile."""
        places = self._places
        return [places[start : start + self.tile] for start in range(0, len(places), self.tile)]

    @property
    def images(self) -> int:
        """How many images there are, those included that turn out unreadable."""
        return len(self._places)

    @cached_property
    def labels(self) -> np.ndarray:
        """The labels of all images that the feed has, in evaluation order, as the data have them, (N,) int64.

        -1 where an image turns out unreadable.

        Raises:
          DataError: the data cannot be read.
        """
        if self.feed.labels is not None:
            return self.feed.labels
        seen = [(tile.indices[: tile.valid], tile.labels[: tile.valid].numpy()) for tile in self.feed]
        length = self.feed.length if self.feed.length is not None and self.feed.jumps else seen[-1][0][-1] + 1
        labels = np.full(length, -1, dtype=np.int64)
        for indices, found in seen:
            labels[indices] = found
        return labels

    @cached_property
    def _places(self) -> np.ndarray:
        if self._chosen is not None:
            return self._chosen
        length = self.feed.length if self.feed.length is not None and self.feed.jumps else len(self.labels)
        return np.arange(length)

    def __len__(self) -> int:
        return ceil(len(self.parts) / self._each)

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        numbers = range(number * self._each, min((number + 1) * self._each, len(self.parts)))
        return Block(number, numbers, self)

    def thinned(self, images: int) -> "Blocks":
        """So many of the images, evenly spaced; all where there are fewer."""
        chosen = np.unique(np.linspace(0, len(self._places) - 1, min(images, len(self._places))).round().astype(int))
        return Blocks(
            self.feed,
            tile=self.tile,
            images=self._each * self.tile,
            places=self._places[chosen],
            relabel=self._relabel,
            held=self._limit,
        )

    def tiles(self) -> Iterator[Tile]:
        """The tiles of all blocks; see `Block.tiles`."""
        for block in self:
            yield from block.tiles()

    def read(self, numbers: range) -> Iterator[Tile]:
        """Tiles by their numbers; as many of the last ones asked for as memory allows are held, and not read again."""
        if not self._tiles.keys() <= set(numbers):
            self._tiles.clear()
        # One that could not be read at all is held as one without a valid image.
        missing = [number for number in numbers if number not in self._tiles]
        fresh = self._fresh(missing)
        for number in numbers:
            tile = self._tiles.get(number)
            if tile is None:
                tile = next(fresh)
                assert tile.number == number
                self._hold(tile)
            if tile.valid:
                yield tile

    def donors(self, numbers: range) -> Iterator[tuple[Tile, Any]]:
        """Tiles with their donors; see `Block.with_donors`."""
        places, n = self._places, len(self._places)
        if n < 2:
            raise _no_donor()
        starts = [number * self.tile for number in numbers]
        wanted = [
            places[(np.arange(start, start + len(self.parts[number])) + n // 2) % n]
            for start, number in zip(starts, numbers, strict=True)
        ]
        found = self._anywhere(wanted)
        for tile in self.read(numbers):
            donors = next(donors for donors in found if donors.number == numbers.index(tile.number))
            if not donors.valid:
                raise _no_donor()
            rows = np.searchsorted(self.parts[tile.number], tile.indices[: tile.valid])
            row_of = {place: row for row, place in enumerate(donors.indices[: donors.valid].tolist())}
            own = wanted[donors.number][rows].tolist()
            taken = torch.tensor([row_of.get(place, row % donors.valid) for row, place in enumerate(own)])
            yield tile, _padded(_taken(donors.inputs, taken), self.tile)

    def _anywhere(self, parts: Sequence[np.ndarray]) -> Iterator[Tile]:
        """A tile for each list of places, in whatever order those are; without a valid image where none is readable."""
        if self.feed.jumps:
            found = self.feed.at(parts)
            waiting = next(found, None)
            for number in range(len(parts)):
                if waiting is not None and waiting.number == number:
                    yield waiting
                    waiting = next(found, None)
                else:
                    yield _nothing(number)
            return
        for number, part in enumerate(parts):
            order = np.argsort(part)
            (tile,) = _picked(self.feed, [part[order]])
            inputs = _taken(tile.inputs, torch.from_numpy(np.argsort(order)))
            yield tile._replace(inputs=inputs, indices=part, number=number)

    def _fresh(self, numbers: Sequence[int]) -> Iterator[Tile]:
        """Tiles read from the data, in this order, which ascends; without a valid image where none is readable."""
        parts = [self.parts[number] for number in numbers]
        found = self.feed.at(parts) if self.feed.jumps else _picked(self.feed, parts)
        waiting = next(found, None) if parts else None
        for place, number in enumerate(numbers):
            if waiting is None or waiting.number != place:
                yield _nothing(number)
                continue
            tile = waiting
            self._check_order(tile)
            inputs = _padded(_rows(tile, 0, tile.valid), self.tile)
            labels = _padded(tile.labels[: tile.valid], self.tile)
            indices = np.r_[tile.indices[: tile.valid], np.repeat(tile.indices[:1], self.tile - tile.valid)]
            yield self._relabel(Tile(inputs, labels, tile.valid, indices, number))
            waiting = next(found, None)

    def _check_order(self, tile: Tile) -> None:
        """Where the labels are known only from an earlier reading, this one must find the same."""
        if self.feed.labels is not None or self.feed.jumps:
            return
        found = tile.labels[: tile.valid].numpy()
        if not np.array_equal(self.labels[tile.indices[: tile.valid]], found):
            raise DataError(
                _DOING,
                found=f"the {self.feed.name} gives its inputs in another order than it did before",
                remedy="Give data of a fixed order (shuffle=False): they are read several times",
            )

    def _hold(self, tile: Tile) -> None:
        held = sum(map(_bytes, self._tiles.values()))
        if not self._tiles or held + _bytes(tile) <= self._limit:
            self._tiles[tile.number] = tile


def blocks(
    feed: Feed,
    images: int = BLOCK_IMAGES,
    *,
    tile: int = 256,
    places: np.ndarray | None = None,
    relabel: Callable[[Tile], Tile] = lambda tile: tile,
    held: float = inf,
) -> Blocks:
    """Images in blocks of tiles.

    Args:
      feed: of the images, which must be readable more than once.
      images: of a block, about: as many tiles as make no more (one at least).
      tile: T, inputs a tile.
      places: in evaluation order, ascending, of those to use; None: all.
      relabel: applied to every tile.
      held: bytes of inputs of the block at work that are held; tiles beyond that are read again when they are asked
        for again. Changes no number.

    Raises:
      DataError: the data can be read only once.
    """
    if feed.once:
        raise DataError(
            _DOING,
            found=f"a {feed.name} can be read only once, and ablation reads the images several times",
            remedy="Give what can be read again: a DataLoader, a list of batches, a Dataset, or tensors",
        )
    return Blocks(feed, tile=tile, images=images, places=places, relabel=relabel, held=held)


def _picked(feed: Feed, parts: Sequence[np.ndarray]) -> Iterator[Tile]:
    """Tiles of inputs picked from all of them as they pass by; reading ends with the last that is wanted."""
    number, rows, labels, have = 0, [], [], 0
    for tile in feed:
        while number < len(parts):
            wanted = parts[number][have:]
            inside = wanted[wanted <= tile.indices[tile.valid - 1]]
            if len(inside):
                within = torch.from_numpy(inside - tile.indices[0])
                rows.append(_taken(tile.inputs, within))
                labels.append(tile.labels[within])
                have += len(inside)
            if have < len(parts[number]):
                break  # the rest is in later batches
            inputs = tree_map(lambda *leaves: torch.cat(leaves), *rows)
            yield Tile(inputs, torch.cat(labels), have, parts[number], number)
            number, rows, labels, have = number + 1, [], [], 0
        if number == len(parts):
            return
    if number < len(parts):
        raise DataError(
            _DOING,
            found=f"the {feed.name} gives fewer inputs than it did before",
            remedy="Give data of a fixed order (shuffle=False): they are read several times",
        )


def _rows(tile: Tile, start: int, stop: int) -> Any:
    return tree_map(lambda leaf: leaf[start:stop], tile.inputs)


def _taken(inputs: Any, rows: Tensor) -> Any:
    return tree_map(lambda leaf: leaf[rows.to(leaf.device)], inputs)


def _nothing(number: int) -> Tile:
    return Tile(None, torch.empty(0, dtype=torch.int64), 0, np.empty(0, np.int64), number)


def _no_donor() -> DataError:
    return DataError(
        "resampling activations",
        found="there is no other image that could give an image another activation",
        remedy="Give at least two images",
    )


def _padded(value: Any, size: int) -> Any:
    """Rows filled up with the first."""

    def pad(leaf: Tensor) -> Tensor:
        short = size - len(leaf)
        return torch.cat([leaf, leaf[:1].expand(short, *leaf.shape[1:])]) if short > 0 else leaf

    return tree_map(pad, value)


def _bytes(tile: Tile) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tile.inputs) if isinstance(leaf, Tensor))
