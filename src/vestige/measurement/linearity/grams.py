"""Inner products of whole maps of images, of every layer, the input and the logits.

Inner products add up over features, so maps too large to keep for all images at once are gone through in parts, each
with forwards of its own: nothing is drawn or sketched.
Shapes: N images of a batch, T of a tile, D features.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from vestige.formulas.linearity import ROUNDING, gram
from vestige.measurement.linearity.rows import INPUT, LOGITS
from vestige.measurement.linearity.sampling import padded
from vestige.measurement.network import Network

KEPT_VALUES = 2**27
"""So many values of whole maps are kept at a time (512 MiB in float32); more take further passes."""
MOST_IMAGES = 4000
"""In one Gram matrix, of which there is one a layer at a time; more images are gone through in batches."""


class Batch(NamedTuple):
    """Inner products of the images start, ..., stop - 1: gram_NN by layer name, centred."""

    start: int
    stop: int
    grams: dict[str, Tensor]


class Grams:
    """Of one network, batch by batch.

    Args:
      network: whose.
      images: their inputs.
      tile: inputs a forward.
      done: called with a batch as soon as all its images were there.
    """

    def __init__(self, network: Network, images: Sequence[Tensor], tile: int, done: Callable[[Batch], None]):
        self._network, self._images, self._tile, self._done = network, images, tile, done
        self._widths = self._look()
        count = -(-len(images) // MOST_IMAGES)
        bounds = [len(images) * number // count for number in range(count + 1)]
        self._batches = list(pairwise(bounds))
        self._parts = -(-sum(self._widths.values()) * max(b - a for a, b in self._batches) // KEPT_VALUES)
        self._kept: list[dict[str, list[Tensor]]] = [{name: [] for name in self._widths} for _ in self._batches]

    def add(self, name: str, values_T: Tensor, start: int) -> None:
        """Whole maps of the images start, ...; those beyond the images are left out."""
        for (first, last), kept in zip(self._batches, self._kept, strict=True):
            own_T = values_T[max(first - start, 0) : max(last - start, 0)]
            if len(own_T):
                kept[name].append(self._part(name, own_T, 0))

    def finish(self, seen: int) -> None:
        """All layers of the images before `seen` were added."""
        for place, (first, last) in enumerate(self._batches):
            if last <= seen and self._kept[place]:
                kept, self._kept[place] = self._kept[place], {}
                self._done(Batch(first, last, self._multiplied(kept, first, last)))

    def _look(self) -> dict[str, int]:
        """Features of each layer."""
        one = self._images[0][None]
        read = self._network.reading({layer.name: lambda a: prod(a.shape[1:]) for layer in self._network.layers})
        _, widths = read(one)
        return {INPUT: one.numel(), **widths, LOGITS: self._network.classes}

    def _part(self, name: str, values_T: Tensor, part: int) -> Tensor:
        first, last = (self._widths[name] * place // self._parts for place in (part, part + 1))
        return values_T.flatten(1)[:, first:last].clone()  # a view would keep the whole map

    def _multiplied(self, kept: dict[str, list[Tensor]], first: int, last: int) -> dict[str, Tensor]:
        grams: dict[str, Tensor] = {}
        for part in range(self._parts):
            for name, values_TD in kept.items() if part == 0 else self._again(part, first, last):
                rounding = ROUNDING if name == INPUT else self._network.rounding
                added_NN = gram(torch.cat(values_TD), rounding=rounding)
                values_TD.clear()
                grams[name] = grams[name].add_(added_NN) if name in grams else added_NN
        return grams

    def _again(self, part: int, first: int, last: int) -> Iterator[tuple[str, list[Tensor]]]:
        """A further part of the features, forwards anew."""
        kept: dict[str, list[Tensor]] = {name: [] for name in self._widths}
        rows = 0  # of the tile that is being read

        def keep(name: str, values_T: Tensor) -> None:
            kept[name].append(self._part(name, values_T[:rows], part))

        names = [layer.name for layer in self._network.layers]
        read = self._network.reading({name: (lambda a, name=name: keep(name, a)) for name in names})
        for start in range(first, last, self._tile):
            images = self._images[start : min(start + self._tile, last)]
            rows = len(images)
            inputs_T = padded(images, self._tile)
            logits_TC, _ = read(inputs_T)
            keep(INPUT, inputs_T.to(self._network.device))
            keep(LOGITS, logits_TC)
        yield from kept.items()
