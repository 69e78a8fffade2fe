"""A fixed random choice among images whose number is not known beforehand; the others are passed on.

Shapes: T images of a tile.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vestige.data.loader import Tile

SEED = 2023


@dataclass(frozen=True)
class Image:
    """One image: the network's input, its class, and what the linear model predicts (-1 where there is none)."""

    input: Tensor
    label: int
    linear: int


class Sample:
    """A uniform choice of images, and the others: each image comes out in one of them, once.

    Chosen are those of lowest random priority, which depends on an image's position alone.

    Args:
      size: how many are chosen, all where there are fewer.
    """

    def __init__(self, size: int):
        self._size, self._seen = size, 0
        self._generator = np.random.default_rng(SEED)
        self._heap: list[tuple[float, int, Image]] = []

    def others(self, images: Iterable[Image]) -> Iterator[Image]:
        """Take images in; give those that are not chosen, as soon as that is certain."""
        for image in images:
            priority = -self._generator.random()
            entry = (priority, self._seen, image)
            self._seen += 1
            if len(self._heap) >= self._size and entry < self._heap[0]:
                yield image
                continue
            # A view would keep the whole tile.
            entry = (priority, entry[1], Image(image.input.clone(), image.label, image.linear))
            if len(self._heap) < self._size:
                heapq.heappush(self._heap, entry)
            else:
                yield heapq.heapreplace(self._heap, entry)[2]

    def chosen(self) -> list[Image]:
        """The images that are chosen of all so far, in a random order."""
        return [image for *_, image in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def images_of(tile: Tile, linear_T: Tensor | None) -> Iterator[Image]:
    """The images of a tile that count."""
    linear = [-1] * tile.valid if linear_T is None else linear_T.tolist()
    inputs_T = tile.inputs[: tile.valid].cpu()
    yield from map(Image, inputs_T, tile.labels[: tile.valid].tolist(), linear)


def padded(inputs: Iterable[Tensor], tile: int) -> Tensor:
    """Inputs as a whole tile: a forward's last bits depend on its shape."""
    inputs = list(inputs)
    return torch.stack([*inputs, *[inputs[0]] * (tile - len(inputs))])
