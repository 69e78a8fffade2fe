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

    def tiles(self) -> Iterator[Tile]:
        """Its tiles, each of T inputs of which the first `valid` count; `number` counts all tiles.

        Raises:
          DataError: the data cannot be read, or come in another order than before.
        """
        return self._all.read(self.numbers)

    def with_donors(self) -> Iterator[tuple[Tile, Any]]:
        """Its tiles, each with the inputs that give the value `resample`: T of them, of which the first `valid` count.

        Image i is given image (i + s) mod N, in evaluation order, s being T - 1, or N // 2 where there is one tile:
        another image than its own wherever there are two.

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
        ahead = self._from(numbers)
        behind: list[Tile] = []
        last = -1
        while last < numbers.stop - 1:
            tile = behind.pop(0) if behind else next(ahead)
            if tile.number not in numbers or tile.number <= last:  # none of those that are left could be read
                return
            last = tile.number
            if len(self.parts) == 1:
                yield tile, _rolled(tile)
                continue
            rows = [_rows(tile, 0, tile.valid)]
            have, wanted = tile.valid, tile.valid + self.tile - 1
            place = 0
            while have < wanted:
                if place == len(behind):
                    behind.append(next(ahead))
                following = behind[place]
                rows.append(_rows(following, 0, min(following.valid, wanted - have)))
                have, place = have + following.valid, place + 1
            yield tile, self._shifted(rows, tile.valid)

    def _shifted(self, rows: list[Any], valid: int) -> Any:
        """The donors of a tile, from its own rows and those that follow."""
        start = self.tile - 1
        return _padded(tree_map(lambda *leaves: torch.cat(leaves)[start : start + valid], *rows), self.tile)

    def _from(self, numbers: range) -> Iterator[Tile]:
        """The tiles from the first of these on, round and round."""
        yield from self.read(numbers)
        rest = [*range(numbers.stop, len(self.parts)), *range(len(self.parts))]
        while True:
            for number in rest:
                (tile,) = self._fresh([number])
                if tile.valid:
                    yield tile
            rest = list(range(len(self.parts)))

    def _fresh(self, numbers: Sequence[int]) -> Iterator[Tile]:
        """Tiles read from the data, in this order, which ascends; without a valid image where none is readable."""
        parts = [self.parts[number] for number in numbers]
        found = self.feed.at(parts) if self.feed.jumps else _picked(self.feed, parts)
        waiting = next(found, None) if parts else None
        for place, number in enumerate(numbers):
            if waiting is None or waiting.number != place:
                yield Tile(None, torch.empty(0, dtype=torch.int64), 0, np.empty(0, np.int64), number)
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
                rows.append(tree_map(lambda leaf, within=within: leaf[within.to(leaf.device)], tile.inputs))
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


def _rolled(tile: Tile) -> Any:
    """Donors of the only tile."""
    if tile.valid < 2:
        raise DataError(
            "resampling activations",
            found="there is one image alone, and none that could give it another activation",
            remedy="Give at least two images",
        )
    size = len(tile.labels)
    order = torch.arange(tile.valid).roll(-(tile.valid // 2))
    return tree_map(lambda leaf: _padded(leaf[order.to(leaf.device)], size), tile.inputs)


def _padded(value: Any, size: int) -> Any:
    """Rows filled up with the first."""

    def pad(leaf: Tensor) -> Tensor:
        short = size - len(leaf)
        return torch.cat([leaf, leaf[:1].expand(short, *leaf.shape[1:])]) if short > 0 else leaf

    return tree_map(pad, value)


def _bytes(tile: Tile) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tile.inputs) if isinstance(leaf, Tensor))
