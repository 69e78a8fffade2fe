"""Random sets of neurons drawn anew for every layer and tile, as the released code's control is; else as corrected.

Shapes: F fractions, D draws, U neurons of a layer, S = D F sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.config import CumulativeConfig
from vestige.data.loader import Tile
from vestige.measurement.ablation.blocks import Blocks
from vestige.measurement.ablation.cumulative import ALL
from vestige.measurement.ablation.sets import Sets
from vestige.measurement.network import Network
from vestige.measurement.ranking import Ranking
from vestige.models.layers import Layer, stages


def ablate_redrawn(network: Network, tiles: Blocks, *, ranking: Ranking, config: CumulativeConfig) -> pl.DataFrame:
    """The curves of the order "random" alone, a set drawn anew for every layer, point and tile.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images to ablate on.
      ranking: gives the means that the value mean writes.
      config: scopes, draws, fractions and values.

    Returns:
      the table "cumulative" without the identity of the run.

    Raises:
      ModelError: the network has diverged, or it cannot be replayed from the middle.
    """
    scopes = [s for wanted in config.scopes for s in (stages(network.layers) if wanted == "stages" else (ALL,))]
    fractions = [step / (config.fractions - 1) for step in range(config.fractions)]
    controls = [
        _Control(network, scope, value, ranking, fractions, config.draws) for scope in scopes for value in config.values
    ]
    sums = [torch.zeros(2, config.draws * len(fractions), dtype=torch.float64) for _ in controls]
    images = 0
    resampled = "resample" in config.values
    for block in tiles:
        for tile, donors in block.with_donors() if resampled else ((tile, None) for tile in block.tiles()):
            images += tile.valid
            for control, total in zip(controls, sums, strict=True):
                total += control.add(tile, donors)
    return pl.concat([control.table(total / images) for control, total in zip(controls, sums, strict=True)])


@dataclass(frozen=True)
class _Control:
    network: Network
    scope: str
    value: str
    ranking: Ranking
    fractions: Sequence[float]
    draws: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.network.layers if self.scope in (ALL, layer.stage))

    def add(self, tile: Tile, donors: Any) -> Tensor:
        """Sums of loss and of correct answers over a tile's images under each set, (2, S) float64."""
        chosen = {layer.name: self._chosen(layer, tile.number) for layer in self.layers}
        sets = Sets(self.network, self.layers, chosen, dict.fromkeys(chosen, self.value), self.ranking.mean)
        found = sets.outcomes(tile, donors)
        return torch.stack([found.loss.sum(1), found.correct.double().sum(1)]).cpu()

    def table(self, means: Tensor) -> pl.DataFrame:
        loss_S, top1_S = means.numpy()
        return pl.DataFrame(
            {
                "order": "random",
                "scope": self.scope,
                "value": self.value,
                "draw": pl.Series(np.repeat(range(self.draws), len(self.fractions)), dtype=pl.Int32),
                "fraction": [*self.fractions] * self.draws,
                "top1": top1_S,
                "loss": loss_S,
            }
        )

    def _chosen(self, layer: Layer, tile: int) -> Tensor:
        """1 for the neurons that are replaced, (S, U) float64."""
        chosen_SU = torch.zeros(self.draws * len(self.fractions), layer.units, dtype=torch.float64)
        rows = iter(chosen_SU)
        for draw in range(self.draws):
            generator = np.random.default_rng([draw, tile, crc32(layer.name.encode())])
            for fraction in self.fractions:
                size = int(fraction * layer.units + 0.5)
                next(rows)[torch.from_numpy(generator.permutation(layer.units)[:size])] = 1
        return chosen_SU
