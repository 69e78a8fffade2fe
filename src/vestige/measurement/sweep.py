"""The one pass over the images: what it reads off every layer, adds up, and keeps.

Shapes: N images, T of a tile, U neurons (units) of a layer, C classes, P permutations of the labels.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vestige.data.loader import Tile
from vestige.measurement.keeping import Kept, Place
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.measurement.reading import Reading, read
from vestige.measurement.sharing import Group
from vestige.measurement.sums import ClassCounts, LayerSums
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
      classes: C.
      counts: of the images of all processes.
      sums: by layer name.
      null_sums: sums under each permutation, (P, C, U), by layer name.
      null_counts: images of each class under each permutation, (P, C).
      kept_labels, kept_halves: of the images that are kept, in evaluation order.
      order: of the kept rows, where several processes have them; else None.
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
        self._network, self._absolute, self._place, self._kept, self._group = network, absolute, place, kept, group
        self._null_PN = null_PN
        self.classes = classes = network.classes
        self.counts = ClassCounts.none(classes)
        self.sums = {layer.name: LayerSums.none(classes, layer.units) for layer in network.layers}
        self.null_sums: dict[str, Tensor] = {}
        if null_PN is not None:
            self.null_counts = torch.zeros(len(null_PN), classes, dtype=torch.float64)
            self.null_sums = {
                layer.name: torch.zeros(len(null_PN), classes, layer.units, dtype=torch.float64)
                for layer in network.layers
            }
        none_yet = torch.empty(0, dtype=torch.int64)
        self._kept_places, self._kept_labels, self._kept_halves = [none_yet], [none_yet], [none_yet]
        self._forward = network.reading({layer.name: partial(self._read, layer) for layer in network.layers})
        self._valid = 0
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
        return float(self._scores[2] / self._scores[3]) if self._network.classes > 5 else None

    def class_means(self, name: str) -> Tensor:
        """class_means_CU of a layer, NaN where a class has no image."""
        means_CU = self.sums[name].sums_HCU.sum(0) / self.counts.counts_C.clamp(min=1)[:, None]
        return torch.where(self.counts.counts_C[:, None] > 0, means_CU, torch.nan)

    def run(self, tiles: Iterable[Tile], progress: Callable[[int], None] | None = None) -> None:
        """Pass over the images, of which other processes take other tiles: one each in turn.

        Raises:
          DataError: no images, or labels outside the model's classes.
          ModelError: the network has diverged.
        """
        mine = iter(tiles)
        seen = done = 0
        while True:
            tile = next(mine, None)
            labels = None if tile is None else self._labels(tile)
            round_labels = self._group.gather(labels)
            if all(other is None for other in round_labels):
                break
            for rank, labels_T in enumerate(round_labels):
                if labels_T is None:
                    continue
                half_T = self.counts.take(labels_T)
                places_T = torch.arange(seen, seen + len(labels_T))
                seen += len(labels_T)
                if rank == self._group.rank:
                    assert tile is not None
                    self._add(tile, labels_T, half_T, places_T)
                    done += len(labels_T)
                    if progress:
                        progress(done)
        if not seen:
            check_labels(torch.empty(0), self._network.classes, doing=DOING)
        self._join()

    def kept(self, layer: Layer, owner: int) -> Tensor | None:
        """Activations of the images that were kept, of all processes, at one of them: (N, U) in evaluation order."""
        rows = self._group.rows_at(owner, self._kept.take(layer.name))
        if rows is None or self.order is None:
            return rows
        return rows[self.order]

    def _read(self, layer: Layer, activation: Tensor) -> Reading:
        return read(activation, layer, self._valid)

    def _labels(self, tile: Tile) -> Tensor:
        labels_T = tile.labels[: tile.valid].cpu()
        check_labels(labels_T, self._network.classes, doing=DOING)
        return labels_T

    def _add(self, tile: Tile, labels_T: Tensor, half_T: Tensor, places_T: Tensor) -> None:
        self._valid = tile.valid
        logits_TC, readings = self._forward(tile.inputs)
        self._score(logits_TC[: tile.valid].double().cpu(), labels_T)
        chosen_T = self._place.chosen(places_T.numpy())
        keep_all = bool(chosen_T.all())
        for name, a_TU in self._add_up(readings, labels_T, half_T):
            if self._null_PN is not None:
                self._add_permuted(name, a_TU.double(), places_T)
            if keep_all:
                self._kept.add(name, a_TU)
            elif chosen_T.any():
                self._kept.add(name, a_TU[chosen_T])
        if self._null_PN is not None:
            for counts_C, labels in zip(self.null_counts, self._null_PN[:, places_T], strict=True):
                counts_C += labels.bincount(minlength=len(counts_C))
        self._kept_places.append(places_T[chosen_T])
        self._kept_labels.append(labels_T[chosen_T])
        self._kept_halves.append(half_T[chosen_T])

    def _add_up(self, readings: Mapping[str, Reading], labels_T: Tensor, half_T: Tensor):
        for name, reading in readings.items():
            yield name, self.sums[name].add(reading, labels_T, half_T, rectify=self._absolute[name])

    def _add_permuted(self, name: str, a_TU: Tensor, places_T: Tensor) -> None:
        assert self._null_PN is not None
        for sums_CU, labels_N in zip(self.null_sums[name], self._null_PN, strict=True):
            sums_CU.index_add_(0, labels_N[places_T], a_TU)

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
        tensors = [self._scores, *self.null_sums.values()]
        for sums in self.sums.values():
            tensors += [sums.sums_HCU, sums.squares_U, sums.raw_U, sums.zeros_U, sums.positions]
        if self._null_PN is not None:
            tensors.append(self.null_counts)
        self._group.add_up(tensors)
        for layer in self._network.layers:
            check_finite(self.sums[layer.name].squares_U, f"layer {layer.name}", doing=DOING)
        places, labels, halves = (
            torch.cat(self._group.gather(torch.cat(own)))
            for own in (self._kept_places, self._kept_labels, self._kept_halves)
        )
        order = places.argsort()
        self.order = None if self._group.world == 1 else order
        self.kept_labels, self.kept_halves = labels[order], halves[order]
