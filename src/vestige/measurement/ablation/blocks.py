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

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.measurement.ablation.picking import DOING, bytes_of, no_donor, nothing, padded, picked, taken, valid_rows
from vestige.measurement.inputs import Feed

BLOCK_IMAGES = 2048


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
            raise no_donor()
        starts = [number * self.tile for number in numbers]
        wanted = [
            places[(np.arange(start, start + len(self.parts[number])) + n // 2) % n]
            for start, number in zip(starts, numbers, strict=True)
        ]
        found = self._anywhere(wanted)
        for tile in self.read(numbers):
            donors = next(donors for donors in found if donors.number == numbers.index(tile.number))
            if not donors.valid:
                raise no_donor()
            rows = np.searchsorted(self.parts[tile.number], tile.indices[: tile.valid])
            row_of = {place: row for row, place in enumerate(donors.indices[: donors.valid].tolist())}
            own = wanted[donors.number][rows].tolist()
            chosen = torch.tensor([row_of.get(place, row % donors.valid) for row, place in enumerate(own)])
            yield tile, padded(taken(donors.inputs, chosen), self.tile)

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
                    yield nothing(number)
            return
        for number, part in enumerate(parts):
            order = np.argsort(part)
            (tile,) = picked(self.feed, [part[order]])
            inputs = taken(tile.inputs, torch.from_numpy(np.argsort(order)))
            yield tile._replace(inputs=inputs, indices=part, number=number)

    def _fresh(self, numbers: Sequence[int]) -> Iterator[Tile]:
        """Tiles read from the data, in this order, which ascends; without a valid image where none is readable."""
        parts = [self.parts[number] for number in numbers]
        found = self.feed.at(parts) if self.feed.jumps else picked(self.feed, parts)
        waiting = next(found, None) if parts else None
        for place, number in enumerate(numbers):
            if waiting is None or waiting.number != place:
                yield nothing(number)
                continue
            tile = waiting
            self._check_order(tile)
            inputs = padded(valid_rows(tile), self.tile)
            labels = padded(tile.labels[: tile.valid], self.tile)
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
                DOING,
                found=f"the {self.feed.name} gives its inputs in another order than it did before",
                remedy="Give data of a fixed order (shuffle=False): they are read several times",
            )

    def _hold(self, tile: Tile) -> None:
        held = sum(map(bytes_of, self._tiles.values()))
        if not self._tiles or held + bytes_of(tile) <= self._limit:
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
            DOING,
            found=f"a {feed.name} can be read only once, and ablation reads the images several times",
            remedy="Give what can be read again: a DataLoader, a list of batches, a Dataset, or tensors",
        )
    return Blocks(feed, tile=tile, images=images, places=places, relabel=relabel, held=held)
