"""Sums of ablations made into tables: a row a neuron, and a row a neuron and class.

Shapes: U neurons of a layer, C classes.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vestige.formulas.effects import Totals, class_effects, neuron_effects
from vestige.measurement.ablation.estimating import Job
from vestige.measurement.ablation.material import digest, places
from vestige.measurement.ranking import Ranking
from vestige.models.layers import Layer
from vestige.runs.tables import IDENTITY, SCHEMAS


class Task(Job):
    """A job, and the tables of what it gives."""

    @property
    def count(self) -> int:
        """How many neurons."""
        return len(self.neurons)

    @property
    def prefix(self) -> str:
        """Of the names of its pieces."""
        some = "" if self.units is None else f"/some-{digest(self.units.tolist())}"
        return f"exact/{self.value}/{self.layer.name}-{digest(places([self.layer]))}{some}"

    def frames(
        self, sums: Totals, ranking: Ranking, mode: str, variance_U: Tensor | None = None
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """A row a neuron, and a row a neuron and class.

        Args:
          sums: over all images.
          ranking: the preferred classes.
          mode: how they were made.
          variance_U: of the sum of changes of loss, where it is an estimate; None: it is exact.
        """
        units = self.neurons
        preferred_U = ranking.preferred[self.layer.name].cpu()[units]
        effects = neuron_effects(sums, preferred_U)
        approximation_U = torch.zeros(len(units), dtype=torch.float64)
        if variance_U is not None:
            approximation_U = variance_U.double().sqrt() / sums.counts.sum()
            effects["loss_delta_se"] = torch.hypot(effects["loss_delta_se"], approximation_U)
        neurons = self._named(units.numpy(), mode).with_columns(
            preferred_class=preferred_U.numpy(),
            approximation_se=approximation_U.numpy(),
            **{name: effect.numpy() for name, effect in effects.items()},
        )
        classes = class_effects(sums)
        present_C = (classes["class_n"] > 0).nonzero()[:, 0]
        columns = {"class": present_C} | {name: effect[..., present_C] for name, effect in classes.items()}
        by_class = self._named(np.repeat(units.numpy(), len(present_C)), mode).with_columns(
            pl.Series(name, column.expand(len(units), -1).flatten().numpy()) for name, column in columns.items()
        )
        return neurons, by_class

    def _named(self, neurons: np.ndarray, mode: str) -> pl.DataFrame:
        return pl.DataFrame({"neuron": neurons.astype(np.int32)}).select(
            pl.lit(self.layer.stage).alias("stage"),
            pl.lit(self.layer.name).alias("layer"),
            "neuron",
            pl.lit(self.value).alias("value"),
            pl.lit(mode).alias("mode"),
        )


def ranking_table(ranking: Ranking, layers: Sequence[Layer]) -> pl.DataFrame:
    """A row a neuron."""
    frames = [
        pl.DataFrame(
            {
                "layer": layer.name,
                "neuron": np.arange(layer.units, dtype=np.int32),
                "csi": ranking.csi[layer.name].cpu().numpy(),
                "mean": ranking.mean[layer.name].cpu().numpy(),
                "preferred_class": ranking.preferred[layer.name].cpu().numpy().astype(np.int32),
            }
        )
        for layer in layers
    ]
    return pl.concat(frames)


def joined(frames: Sequence[pl.DataFrame], kind: str) -> pl.DataFrame:
    """The rows of all layers as a table of the schema, without the identity of the run."""
    schema = {name: dtype for name, dtype in SCHEMAS[kind].items() if name not in IDENTITY}
    if not frames:
        return pl.DataFrame(schema=schema)
    return pl.concat(frames).select(pl.col(name).cast(dtype) for name, dtype in schema.items())
