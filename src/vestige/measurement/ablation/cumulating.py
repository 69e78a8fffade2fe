"""`vestige.ablate_cumulatively`: growing sets of neurons of anybody's classifier replaced, in several orders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import ValidationError
from torch import nn

from vestige.config import AblationValue, CumulativeConfig, Protocol
from vestige.errors import ConfigError
from vestige.measurement.ablation.ablating import in_turn
from vestige.measurement.ablation.budget import memory_bytes
from vestige.measurement.ablation.cumulative import DOING, Curves, all_curves, points_of
from vestige.measurement.ablation.effect_tables import joined
from vestige.measurement.ablation.faithful_cumulative import FaithfulCurves, faithful_areas
from vestige.measurement.ablation.material import Material, added, block_name, digest, make_ready, places
from vestige.measurement.ablation.pieces import Piece
from vestige.measurement.ablation.telling import Progress, Telling
from vestige.measurement.network import Dtype
from vestige.measurement.preparing import Preparation, warn_of
from vestige.measurement.recalibrating import BatchNorm
from vestige.models.layers import Layer, stages
from vestige.runs.store import write_table
from vestige.stats.effects import normalised_area

ORDERS = ("csi-desc", "activity-matched", "random")


@dataclass(frozen=True)
class CumulativeResult:
    """What replacing growing sets of neurons does.

    Attributes:
      table: one row a scope, value, order, draw and fraction, the columns of the schema "cumulative" but for the
        identity of the run.
      areas: one row a curve, with its area: 1 where ablation harms nothing, 0 where all is lost at once, NaN where
        the intact network is too close to chance to be judged. Faithful: the released code's sum.
      intact: top1, loss (nats) and n (images) of the network as it is.
      layers: where the neurons are.
      notes: what must be known to read the numbers rightly, a sentence each.
      settings: what made them, ready for JSON.
    """

    table: pl.DataFrame
    areas: pl.DataFrame
    intact: Mapping[str, float]
    layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_parquet(self, folder: Path | str) -> None:
        """Write both tables into a folder, atomically, settings, scores and notes in their metadata under "vestige"."""
        about = {**self.settings, **self.intact, "notes": list(self.notes)}
        metadata = {"vestige": json.dumps(about, sort_keys=True)}
        for name, table in (("cumulative", self.table), ("cumulative_areas", self.areas)):
            write_table(Path(folder) / f"{name}.parquet", table, metadata)


def ablate_cumulatively(
    model: nn.Module,
    data: Any,
    layers: Sequence[str | Layer] | None = None,
    *,
    protocol: Protocol = "corrected",
    orders: Sequence[str] = ORDERS,
    scopes: Sequence[str] = ("stages", "all"),
    values: AblationValue | Sequence[AblationValue] | None = None,
    fractions: int = 17,
    draws: int = 5,
    ranking_data: Any = None,
    held_out: bool = True,
    batch_norm: BatchNorm = "recalibrate",
    training_data: Any = None,
    dtype: Dtype = "float32",
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    memory: float | str | None = None,
    folder: Path | str | None = None,
    class_map: Sequence[int] | Mapping[int, int] | None = None,
    progress: Progress | None = None,
) -> CumulativeResult:
    """Replace growing sets of neurons of a classifier, the same fraction of every layer of a scope.

    Args:
      model, layers, batch_norm, training_data, device, workers, class_map: as in `vestige.measure`.
      dtype: as in `vestige.ablate`.
      data, batch_size, memory, folder: as in `vestige.ablate`.
      protocol: "faithful" does what the paper's released code does, and takes no orders, scopes, values, fractions or
        held-out images: the top n by CSI (of class sums, with stored batch-norm statistics) are zeroed in every layer
        of a stage at once, on the images that they were ranked on; n grows by 15 to half the width, then by 40; the
        control is redrawn for every layer and batch.
      orders: "csi-desc", "csi-asc", "random" (fixed seeded orders), "activity-matched" (csi-desc shuffled within
        deciles of mean activation).
      scopes: "stages": each alone; "all": all layers at once.
      values: as `value` of `vestige.ablate`.
      fractions: so many equal steps from 0 to 1, both included.
      draws: seeded orders of "random" and "activity-matched": a band.
      ranking_data: images to rank on; None: a half of `data`.
      held_out: rank on one half of `data`, alternate images of each class, and ablate on the other.
      progress: called with the number of ablations done (of one set, for one image) and of all.

    Returns:
      See `CumulativeResult`.

    Raises:
      ConfigError: an argument that does not make sense.
      DataError, ModelError, StoreError: as `vestige.ablate`.

    References:
      Morcos et al. (2018), On the importance of single directions for generalization; Ranadive et al. (2023), On the
      special role of class-selective neurons in early training.
    """
    faithful, wanted = protocol == "faithful", in_turn(values) or (None,)
    config = _config(orders, scopes, fractions, draws)
    how = Preparation(model, layers, batch_norm, training_data, dtype, device, batch_size, workers, class_map, DOING)
    material = make_ready(
        how.under(protocol),
        data,
        ranking_data=None if faithful else ranking_data,
        held_out=held_out and ranking_data is None and not faithful,
        memory=memory_bytes(memory),
        folder=folder,
    )
    intact, telling = material.intact(), Telling(material.pieces, progress)
    if faithful:
        table = _faithful(material, draws, telling)
        areas = faithful_areas(table)
    else:
        table = _corrected(material, config, wanted, telling)
        areas = _areas(table, material.network.classes)
    warn_of(material.notes)
    settings = {
        **material.settings,
        "protocol": protocol,
        "orders": ["csi-desc", "random"] if faithful else list(config.orders),
        "scopes": ["stages"] if faithful else list(config.scopes),
        "values": sorted(set(table["value"])),
        "fractions": None if faithful else fractions,
        "draws": draws,
    }
    notes = (*material.notes, f"Neurons were ranked on {material.ranked}.")
    return CumulativeResult(joined([table], "cumulative"), areas, intact, material.network.layers, notes, settings)


def _config(orders: Sequence[str], scopes: Sequence[str], fractions: int, draws: int) -> CumulativeConfig:
    try:
        return CumulativeConfig.model_validate(
            {"orders": tuple(orders), "scopes": tuple(scopes), "fractions": fractions, "draws": draws}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            DOING,
            found=f"{first['loc'][0]} has {first['input']!r}",
            remedy=str(first["msg"]).replace("Input should", "It should"),
        ) from error


def _corrected(
    material: Material, config: CumulativeConfig, values: Sequence[str | None], telling: Telling
) -> pl.DataFrame:
    points = list(points_of(config))
    curves = all_curves(material.network, material.ranking(), config, values)
    wanted = digest(config.model_dump(mode="json", exclude={"values", "protocols"}))
    names = [f"cumulative/{curve.value}/{curve.scope}-{wanted}-{_where(curve)}" for curve in curves]
    found = _summed(material, dict(zip(names, curves, strict=True)), [curve.sets.count for curve in curves], telling)
    return pl.concat(
        [
            curve.table(points, found[name]["sums"], int(found[name]["images"]))
            for name, curve in zip(names, curves, strict=True)
        ]
    )


def _faithful(material: Material, draws: int, telling: Telling) -> pl.DataFrame:
    network, ranking = material.network, material.ranking("faithful")
    of_scope = {
        scope: tuple(layer for layer in network.layers if layer.stage == scope) for scope in stages(network.layers)
    }
    curves = {
        f"cumulative-faithful/{scope}-{draws}-{digest(places(layers))}": FaithfulCurves(
            network, scope, layers, ranking, draws
        )
        for scope, layers in of_scope.items()
    }
    found = _summed(material, curves, [len(c.sizes) * (1 + draws) for c in curves.values()], telling)
    return pl.concat([curve.table(found[name]) for name, curve in curves.items()])


def _summed(
    material: Material, curves: Mapping[str, Curves | FaithfulCurves], sets: Sequence[int], telling: Telling
) -> dict[str, Piece]:
    """Sums over all blocks for each of some curves; block after block."""
    counts = dict(zip(curves, sets, strict=True))
    jobs = {block_name(name, block): (name, block) for block in material.blocks for name in curves}
    telling.expect({job: counts[name] * block.images for job, (name, block) in jobs.items()})

    def make(job: str) -> Piece:
        name, block = jobs[job]
        return curves[name].piece(block)

    found: dict[str, Piece] = {}
    for job, piece in zip(jobs, material.pieces.all(list(jobs), make), strict=True):
        name = jobs[job][0]
        found[name] = added([found[name], piece]) if name in found else piece
        telling.at()
    return found


def _where(curve: Curves) -> str:
    sets = curve.sets
    return digest([places(sets.layers), [sets.values[layer.name] for layer in sets.layers]])


def _areas(table: pl.DataFrame, classes: int) -> pl.DataFrame:
    keys = ["scope", "value", "order", "draw"]
    curves = table.group_by(keys, maintain_order=True).agg("fraction", "top1")
    areas = [
        normalised_area(fractions, top1, classes) for fractions, top1 in curves.select("fraction", "top1").iter_rows()
    ]
    return curves.select(keys).with_columns(area=pl.Series(areas, dtype=pl.Float64))
