"""Rows of inputs picked out, put in order and filled up, whatever tensors the inputs are made of."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.measurement.inputs import Feed

DOING = "reading the images in blocks"


def picked(feed: Feed, parts: Sequence[np.ndarray]) -> Iterator[Tile]:
    """Tiles of inputs picked from all of them as they pass by; reading ends with the last that is wanted."""
    number, rows, labels, have = 0, [], [], 0
    for tile in feed:
        while number < len(parts):
            wanted = parts[number][have:]
            inside = wanted[wanted <= tile.indices[tile.valid - 1]]
            if len(inside):
                within = torch.from_numpy(inside - tile.indices[0])
                rows.append(taken(tile.inputs, within))
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
            DOING,
            found=f"the {feed.name} gives fewer inputs than it did before",
            remedy="Give data of a fixed order (shuffle=False): they are read several times",
        )


def valid_rows(tile: Tile) -> Any:
    """The inputs of a tile that count."""
    return tree_map(lambda leaf: leaf[: tile.valid], tile.inputs)


def taken(inputs: Any, rows: Tensor) -> Any:
    """Inputs by the places of their rows."""
    return tree_map(lambda leaf: leaf[rows.to(leaf.device)], inputs)


def nothing(number: int) -> Tile:
    """A tile without a valid image."""
    return Tile(None, torch.empty(0, dtype=torch.int64), 0, np.empty(0, np.int64), number)


def no_donor() -> DataError:
    """The error where there is one image alone."""
    return DataError(
        "resampling activations",
        found="there is no other image that could give an image another activation",
        remedy="Give at least two images",
    )


def padded(value: Any, size: int) -> Any:
    """Rows filled up with the first."""

    def pad(leaf: Tensor) -> Tensor:
        short = size - len(leaf)
        return torch.cat([leaf, leaf[:1].expand(short, *leaf.shape[1:])]) if short > 0 else leaf

    return tree_map(pad, value)


def bytes_of(tile: Tile) -> int:
    """That the inputs of a tile take."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tile.inputs) if isinstance(leaf, Tensor))
