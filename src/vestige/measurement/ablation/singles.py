"""Single neurons of a layer replaced on a block of images, exactly: the sums from which every effect follows.

Shapes: T images of a tile (its valid ones), N of a block, U neurons of a layer, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.formulas.effects import Outcomes, Totals, totals
from vestige.measurement.ablation.blocks import Block
from vestige.measurement.ablation.full_forwards import FullForwardNeurons, Run
from vestige.measurement.ablation.neuron_replay import Held, NeuronReplay
from vestige.measurement.ablation.pieces import Piece
from vestige.measurement.ablation.replacing import Donors, Replacement, constant
from vestige.measurement.network import Network, check_labels
from vestige.models.graph import Graph
from vestige.models.layers import Layer

_DOING = "ablating neurons"


@dataclass(frozen=True)
class Chosen:
    """A replacement of some neurons; the others are left as they are.

    Args:
      replacement: of all.
      chosen_U: which are replaced, bool.
    """

    replacement: Replacement
    chosen_U: Tensor

    def of(self, images_P: Tensor, units_P: Tensor) -> Tensor:
        """See `Replacement.of`."""
        return self.replacement.of(images_P, units_P)

    def changed(self, maps_TU: Tensor) -> Tensor:
        """See `Replacement.changed`."""
        return self.replacement.changed(maps_TU) & self.chosen_U.to(maps_TU.device)


class Singles:
    """The neurons of one layer, each replaced alone.

    Args:
      network: with the batch-norm statistics to measure with.
      layer: one of its layers.
      value: zero, mean or resample.
      mean_U: what the value mean writes.
      units: those to replace, ascending; None: all.
      replay: of this layer, if there is one already.
    """

    def __init__(
        self,
        network: Network,
        layer: Layer,
        value: str,
        mean_U: Tensor,
        units: Tensor | None,
        replay: NeuronReplay | FullForwardNeurons | None = None,
    ):
        self.network, self.layer, self.value, self.mean_U = network, layer, value, mean_U
        self.units = torch.arange(layer.units) if units is None else units
        self._chosen_U = torch.zeros(layer.units, dtype=torch.bool)
        self._chosen_U[self.units] = True
        self._replay: Any = replay or replay_of(network, layer)

    def piece(self, block: Block, *, per_input: bool, tell: Callable[[int], None]) -> Piece:
        """Sums over a block of images.

        Args:
          block: of images.
          per_input: keep each image's change of loss too.
          tell: called with the number of images done.

        Returns:
          See `as_totals`; with `per_input` also `changes`, (U, N) float32.
        """
        sums: Totals | None = None
        changes, done = [], 0
        tiles = block.with_donors() if self.value == "resample" else ((tile, None) for tile in block.tiles())
        for tile, donors in tiles:
            check_labels(tile.labels[: tile.valid], self.network.classes, doing=_DOING)
            intact, ablated = self.outcomes(tile, donors)
            labels_T = tile.labels[: tile.valid].to(intact.loss.device)
            more = Totals(*(column.cpu() for column in totals(intact, ablated, labels_T, self.network.classes)))
            sums = more if sums is None else sums + more
            if per_input:
                changes.append((ablated.loss - intact.loss).float().cpu())
            done += tile.valid
            tell(done)
        classes = self.network.classes
        none = torch.zeros(len(self.units), classes, dtype=torch.float64)
        piece = as_piece(sums or Totals(none, none, none, none, torch.zeros(classes, dtype=torch.float64)))
        if per_input:
            piece["changes"] = torch.cat(changes, 1) if changes else torch.empty(len(self.units), 0)
        return piece

    @torch.no_grad()
    def outcomes(self, tile: Tile, donors: Any = None) -> tuple[Outcomes, Outcomes]:
        """Outcomes of the intact network, (T,), and with each of the chosen neurons replaced, (U, T).

        An image on which a replacement changes nothing, bit for bit, is not run again: its outcome stays.
        """
        held = self._replay.hold(tile)
        maps_TU = held.maps[: held.valid]
        replacement = Chosen(self._replacement(held, donors), self._chosen_U)
        changed_TU = replacement.changed(maps_TU)
        images_R, units_R = changed_TU.nonzero(as_tuple=True)
        found = self._replay.outcomes(held, images_R, units_R, replacement)  # pyright: ignore[reportArgumentType]
        units = self.units.to(changed_TU.device)
        return held.intact, Outcomes(
            *(
                _placed(intact_T, column, changed_TU)[:, units].T
                for intact_T, column in zip(held.intact, found, strict=True)
            )
        )

    def _replacement(self, held: "Held | Run", donors: Any) -> Replacement:
        if self.value != "resample":
            return constant(self.value, self.mean_U, held.maps)
        captured = self.network.captured(donors, [self.layer.node])[1][self.layer.node]
        return Donors(captured.movedim(self.layer.axis, 1).to(held.maps))


def replay_of(network: Network, layer: Layer) -> NeuronReplay | FullForwardNeurons:
    """What replays a layer's neurons."""
    return NeuronReplay(network, layer) if isinstance(network.graph, Graph) else FullForwardNeurons(network, layer)


def as_piece(sums: Totals) -> Piece:
    """Sums as they are stored: counts in the narrowest type that holds them, squares not by class."""
    lost, gained = (column.to(torch.int32) for column in (sums.lost, sums.gained))
    return {
        "loss": sums.loss,
        "squares": sums.squares.sum(1, keepdim=True),
        "lost": lost,
        "gained": gained,
        "counts": sums.counts,
    }


def as_totals(piece: Piece) -> Totals:
    """Sums as they were; `squares` is (U, 1)."""
    return Totals(*(piece[name].double() for name in Totals._fields))


def _placed(intact_T: Tensor, replayed_R: Tensor, changed_TU: Tensor) -> Tensor:
    """Outcomes of replays where there was one, of the intact network elsewhere, (T, U)."""
    placed_TU = intact_T[:, None].expand_as(changed_TU).clone()
    placed_TU[changed_TU] = replayed_R
    return placed_TU
