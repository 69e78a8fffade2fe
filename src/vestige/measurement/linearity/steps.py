"""A walk through the chosen images, one forward after another: images, and the midpoints between neighbours.

Every image and every midpoint goes through the network once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from vestige.measurement.linearity.sampling import padded


@dataclass(frozen=True)
class Step:
    """One forward.

    Attributes:
      inputs: images, then midpoints, then what pads the tile.
      start: the first image's place among the chosen ones.
      ends: how many images.
      middles: how many midpoints: between neighbours among the images, and between the first of them and the last of
        the step before.
      new: how many of the images were not in a step before: the last step of a round comes back to the first image.
    """

    inputs: Tensor
    start: int
    ends: int
    middles: int
    new: int


def walked(pairs: int, cka_images: int) -> int:
    """How many images the walk goes through, where there are as many: neighbours of all pairs, and those of CKA."""
    return max(pairs + 1, cka_images)


def walk(images: Sequence[Tensor], pairs: int, tile: int) -> Iterator[Step]:
    """All images, and the midpoints of the first `pairs` neighbours.

    Args:
      images: the chosen inputs; where there are no more than `pairs`, their round is closed, the last being a
        neighbour of the first.
      pairs: how many there are at most.
      tile: inputs a forward, at least 2.
    """
    way = list(images) if len(images) > pairs else [*images, images[0]]
    start = 0
    while start < len(way):
        left = pairs + 1 - start  # images that have midpoints
        ends = way[start : start + (min(tile // 2, left) if left > 0 else tile)]
        middles = [(a + b) / 2 for a, b in pairwise(way[max(0, start - 1) : start + len(ends)])] if left > 0 else []
        new = min(len(ends), len(images) - start)
        yield Step(padded([*ends, *middles], tile), start, len(ends), len(middles), new)
        start += len(ends)
