"""Cumulative ablation as the paper's released code does it: the same images, odd steps, a control redrawn every batch.

Shapes: G sizes of the ablated set, D draws of the control, U neurons of a layer, S = G (1 + D) sets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.measurement.ablation.blocks import Block, Blocks
from vestige.measurement.ablation.material import added
from vestige.measurement.ablation.pieces import Piece
from vestige.measurement.ablation.sets import Sets
from vestige.measurement.network import Network
from vestige.measurement.ranking import Ranking
from vestige.models.layers import Layer, stages
from vestige.stats.released import released_area, released_sizes


@dataclass(frozen=True)
class FaithfulCurves:
    """Zeroing the top n by CSI in every layer of one stage at once, and n neurons drawn anew for each layer and tile.

    Args:
      network: with the stored batch-norm statistics.
      scope: the stage.
      layers: of it.
      ranking: from the same images, by class sums.
      draws: of the control, D.
    """

    network: Network
    scope: str
    layers: tuple[Layer, ...]
    ranking: Ranking
    draws: int

    @property
    def sizes(self) -> list[int]:
        """How many neurons of every layer are ablated, at each point."""
        return released_sizes(self.width)

    @property
    def width(self) -> int:
        """Neurons of the widest of the layers."""
        return max(layer.units for layer in self.layers)

    def piece(self, block: Block) -> Piece:
        """Sums over a block: loss and correct answers, (2, S) float64, those by CSI first; and its images."""
        sums, images = torch.zeros(2, len(self.sizes) * (1 + self.draws), dtype=torch.float64), 0
        for tile in block.tiles():
            found = self._sets(tile.number).outcomes(tile)
            sums += torch.stack([found.loss.sum(1), found.correct.double().sum(1)]).cpu()
            images += tile.valid
        return {"sums": sums, "images": torch.tensor(images)}

    def table(self, piece: Piece) -> pl.DataFrame:
        """The columns of the schema "cumulative" but for the identity of the run."""
        loss_S, top1_S = (piece["sums"] / piece["images"]).numpy()
        return pl.DataFrame(
            {
                "order": ["csi-desc"] * len(self.sizes) + ["random"] * (len(self.sizes) * self.draws),
                "scope": self.scope,
                "value": "zero",
                "draw": pl.Series(np.repeat([0, *range(self.draws)], len(self.sizes)), dtype=pl.Int32),
                "fraction": [size / self.width for size in self.sizes] * (1 + self.draws),
                "top1": top1_S,
                "loss": loss_S,
            }
        )

    def _sets(self, tile: int) -> Sets:
        chosen = {layer.name: torch.cat(list(self._chosen(layer, tile))) for layer in self.layers}
        return Sets(self.network, self.layers, chosen, dict.fromkeys(chosen, "zero"), self.ranking.mean)

    def _chosen(self, layer: Layer, tile: int) -> Iterator[Tensor]:
        """(G, U) of the top by CSI, then of each draw of the control."""
        yield self._first(torch.from_numpy(np.argsort(-self.ranking.csi[layer.name].numpy(), kind="stable")))
        for draw in range(self.draws):
            generator = np.random.default_rng([draw, tile, crc32(layer.name.encode())])
            yield torch.cat(
                [self._first(torch.from_numpy(generator.permutation(layer.units)), [n]) for n in self.sizes]
            )

    def _first(self, order_U: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        rows = torch.zeros(len(sizes or self.sizes), len(order_U), dtype=torch.float64)
        for row, size in zip(rows, sizes or self.sizes, strict=True):
            row[order_U[:size]] = 1
        return rows


def ablate_faithfully(network: Network, images: Blocks, *, ranking: Ranking, draws: int) -> pl.DataFrame:
    """The curves of every stage; arguments as in `FaithfulCurves`, returns the columns of its table.

    Raises:
      ModelError: the network has diverged, or it cannot be replayed from the middle.
    """
    curves = [
        FaithfulCurves(network, scope, tuple(layer for layer in network.layers if layer.stage == scope), ranking, draws)
        for scope in stages(network.layers)
    ]
    return pl.concat([curve.table(added(curve.piece(block) for block in images)) for curve in curves])


def faithful_areas(table: pl.DataFrame) -> pl.DataFrame:
    """The released code's "area" of each curve: the sum of acc / max(curve) * 100 over its uneven points."""
    keys = ["scope", "value", "order", "draw"]
    curves = table.group_by(keys, maintain_order=True).agg("top1")
    areas = [released_area(top1) for top1 in curves["top1"].to_list()]
    return curves.select(keys).with_columns(area=pl.Series(areas, dtype=pl.Float64))
