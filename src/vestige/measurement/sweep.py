"""The one pass over the images: what it reads off every layer, adds up, and keeps.

Shapes: N images, T of a tile, U neurons (units) of all layers or of one, C classes, P permutations of the labels.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vestige.data.loader import Tile
from vestige.formulas import selectivity as formulas
from vestige.measurement.keeping import Kept, Place
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.measurement.reading import Reading, read
from vestige.measurement.sharing import Group
from vestige.measurement.sums import ClassCounts, Sums
from vestige.models.layers import Layer

DOING = "measuring selectivity"


class Sweep:
    """What one pass over the images leaves.

    Args:
      network: what is measured.
      absolute: by layer name, whether the absolute value of spatial means is taken.
      place: which images' activations are kept.
      kept: where.
      null_PN: permuted labels of all images in evaluation order, where sums are to be taken under them; else None.
      group: the processes that share the images.

    Attributes:
      network, absolute, place, group: as given.
      classes: C.
      neurons: places of each layer's neurons among all, by layer name.
      counts: of the images of all processes.
      sums: of all neurons.
      null_sums: sums under each permutation, (P, C, U); None without `null_PN`.
      null_counts: images of each class under each permutation, (P, C).
      kept_labels, kept_halves: of the images that are kept, in evaluation order.
      loss, top1, top5, n: of the network; top5 None where there are five classes or fewer.
    """

    def __init__(
        self,
        network: Network,
        absolute: Mapping[str, bool],
        place: Place,
        kept: Kept,
        null_PN: Tensor | None,
        group: Group,
    ):
        self.network, self.absolute, self.place, self.group = network, absolute, place, group
        self._kept, self._null_PN = kept, null_PN
        self.classes = network.classes
        sizes = [layer.units for layer in network.layers]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.neurons = {
            layer.name: slice(end - layer.units, end) for layer, end in zip(network.layers, ends, strict=True)
        }
        self._units = sum(sizes)
        self._absolute_U = torch.tensor([absolute[layer.name] for layer in network.layers]).repeat_interleave(
            torch.tensor(sizes)
        )
        self.counts = ClassCounts.none(self.classes)
        self.sums = Sums.none(self.classes, self._units)
        self.null_sums: Tensor | None = None
        if null_PN is not None:
            self.null_counts = torch.zeros(len(null_PN), self.classes, dtype=torch.float64)
            self.null_sums = torch.zeros(len(null_PN), self.classes, self._units, dtype=torch.float64)
        none_yet = torch.empty(0, dtype=torch.int64)
        self._kept_places, self._kept_labels, self._kept_halves = [none_yet], [none_yet], [none_yet]
        self._forward = network.reading({layer.name: partial(self._read, layer) for layer in network.layers})
        self._valid, self._chosen = 0, None
        self._scores = torch.zeros(4, dtype=torch.float64)  # loss, right, right among five, images

    @property
    def n(self) -> int:
        """Images measured."""
        return int(self._scores[3])

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(self._scores[0] / self._scores[3])

    @property
    def top1(self) -> float:
        """Share of the images whose class has the highest logit."""
        return float(self._scores[1] / self._scores[3])

    @property
    def top5(self) -> float | None:
        """Share of the images whose class is among the five highest."""
        return float(self._scores[2] / self._scores[3]) if self.classes > 5 else None

    def class_means(self, name: str) -> Tensor:
        """class_means_CU of a layer, NaN where a class has no image."""
        return formulas.means_from_sums(self.sums.sums_HCU[:, :, self.neurons[name]].sum(0), self.counts.counts_C)

    def run(self, tiles: Iterable[Tile], progress: Callable[[int], None] | None = None) -> None:
        """Pass over the images, of which other processes take other tiles: one each in turn.

        Raises:
          DataError: no images, or labels outside the model's classes.
          ModelError: the network has diverged.
        """
        mine = iter(tiles)
        tile = next(mine, None)
        seen = done = 0
        while True:
            offered = self.group.gather(None if tile is None else (self._round(tile), self._labels(tile)))
            rounds = [offer[0] for offer in offered if offer is not None]
            if not rounds:
                break
            for rank, offer in enumerate(offered):
                # A process that lacks a tile, none of its images being readable, is ahead: it waits for the others.
                if offer is None or offer[0] > min(rounds):
                    continue
                labels_T = offer[1]
                half_T = self.counts.take(labels_T)
                places_T = torch.arange(seen, seen + len(labels_T))
                seen += len(labels_T)
                if rank == self.group.rank:
                    assert tile is not None
                    self._add(tile, labels_T, half_T, places_T)
                    done += len(labels_T)
                    tile = next(mine, None)
                    if progress:
                        progress(done)
        if not seen:
            check_labels(torch.empty(0), self.classes, doing=DOING)
        self._join()

    def kept(self, layer: Layer, owner: int) -> Tensor | None:
        """Activations of the images that were kept, of all processes, at one of them: (N, U) in evaluation order."""
        rows = self.group.rows_at(owner, self._kept.of(self.neurons[layer.name], self._units))
        return rows if rows is None or self.group.world == 1 else rows[self._order]

    def _round(self, tile: Tile) -> int:
        return 0 if self.group.world == 1 else tile.number // self.group.world

    def _labels(self, tile: Tile) -> Tensor:
        labels_T = tile.labels[: tile.valid].cpu()
        check_labels(labels_T, self.classes, doing=DOING)
        return labels_T

    def _read(self, layer: Layer, activation: Tensor) -> Reading:
        return read(activation, layer, self._valid, self._chosen)

    def _add(self, tile: Tile, labels_T: Tensor, half_T: Tensor, places_T: Tensor) -> None:
        chosen_T = self.place.chosen(places_T.numpy())
        self._valid, self._chosen = tile.valid, None if self.place.exact else chosen_T
        logits_TC, readings = self._forward(tile.inputs)
        self._score(logits_TC[: tile.valid].double().cpu(), labels_T)
        raw_TU = torch.cat([readings[layer.name].pooled for layer in self.network.layers], dim=1).cpu()
        a_TU = torch.where(self._absolute_U, raw_TU.abs(), raw_TU) if self._absolute_U.any() else raw_TU
        self.sums.add(a_TU, raw_TU, labels_T, half_T)
        for name, reading in readings.items():
            self.sums.zeros_U[self.neurons[name]] += reading.zeros.cpu()
            self.sums.positions_U[self.neurons[name]] += reading.positions
        if self._null_PN is not None:
            self._add_permuted(a_TU.double(), self._null_PN[:, places_T])
        if self.place.exact:
            self._kept.add(a_TU)
        elif chosen_T.any():
            self._kept.add(a_TU[chosen_T])
        self._kept_places.append(places_T[chosen_T])
        self._kept_labels.append(labels_T[chosen_T])
        self._kept_halves.append(half_T[chosen_T])

    def _add_permuted(self, a_TU: Tensor, labels_PT: Tensor) -> None:
        assert self.null_sums is not None
        for sums_CU, counts_C, labels_T in zip(self.null_sums, self.null_counts, labels_PT, strict=True):
            sums_CU.index_add_(0, labels_T, a_TU)
            counts_C += labels_T.bincount(minlength=self.classes)

    def _score(self, logits_TC: Tensor, labels_T: Tensor) -> None:
        check_finite(logits_TC, "its output", doing=DOING)
        five = logits_TC.topk(min(5, logits_TC.shape[1])).indices
        self._scores += torch.stack(
            [
                cross_entropy(logits_TC, labels_T, reduction="sum"),
                (logits_TC.argmax(1) == labels_T).sum().double(),
                (five == labels_T[:, None]).any(1).sum().double(),
                torch.tensor(float(len(labels_T)), dtype=torch.float64),
            ]
        )

    def _join(self) -> None:
        """Add up what the processes have."""
        tensors = [self._scores, *vars(self.sums).values()]
        if self.null_sums is not None:
            tensors += [self.null_sums, self.null_counts]
        self.group.add_up(tensors)
        for name, neurons in self.neurons.items():
            check_finite(self.sums.squares_U[neurons], f"layer {name}", doing=DOING)
        places, labels, half = (
            torch.cat(self.group.gather(torch.cat(own)))
            for own in (self._kept_places, self._kept_labels, self._kept_halves)
        )
        self._order = places.argsort()
        self.kept_labels, self.kept_halves = labels[self._order], half[self._order]
