"""Groups of neurons, each replaced together, exactly, on the same images.

Shapes: S groups, N images, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from vestige.formulas.effects import Outcomes, Totals, neuron_effects, totals
from vestige.measurement.ablation.blocks import Block
from vestige.measurement.ablation.choosing import NeuronGroup
from vestige.measurement.ablation.material import Material, block_name, digest, places
from vestige.measurement.ablation.pieces import Piece
from vestige.measurement.ablation.sets import Sets, value_of
from vestige.measurement.ablation.singles import as_piece, as_totals
from vestige.measurement.ablation.telling import Telling
from vestige.measurement.ranking import Ranking
from vestige.models.layers import Layer

TOGETHER = 64
"""Groups of a piece, at most."""
_EFFECTS = ("loss_delta", "loss_delta_se", "top1_delta", "right_to_wrong", "wrong_to_right")


@dataclass(frozen=True)
class _Part:
    """Some groups that are replayed together.

    Attributes:
      groups: by their places in the table.
      value: as the user says it; None: by layer.
      sets: the empty set, then each group.
    """

    groups: dict[int, NeuronGroup]
    value: str | None
    sets: Sets

    @property
    def prefix(self) -> str:
        """Of the names of its pieces."""
        members = [{name: units.tolist() for name, units in group.units.items()} for group in self.groups.values()]
        made_by = [members, places(self.sets.layers), dict(self.sets.values)]
        return f"groups/{self.value or 'auto'}/{digest(made_by)}"

    def piece(self, block: Block, tell: Callable[[int], None]) -> Piece:
        """Sums over a block."""
        classes, done = self.sets.network.classes, 0
        none = torch.zeros(len(self.groups), classes, dtype=torch.float64)
        sums = Totals(none, none, none, none, torch.zeros(classes, dtype=torch.float64))
        tiles = block.with_donors() if self.sets.resampled else ((tile, None) for tile in block.tiles())
        for tile, donors in tiles:
            found = self.sets.outcomes(tile, donors)
            intact, ablated = Outcomes(found.loss[0], found.correct[0]), Outcomes(found.loss[1:], found.correct[1:])
            labels_T = tile.labels[: tile.valid].to(found.loss.device)
            sums += Totals(*(column.cpu() for column in totals(intact, ablated, labels_T, classes)))
            done += tile.valid
            tell(done)
        return as_piece(sums)


def ablate_groups(
    material: Material,
    groups: Sequence[NeuronGroup],
    values: Sequence[str] | None,
    ranking: Ranking,
    telling: Telling,
) -> pl.DataFrame:
    """Replace the neurons of each group together.

    Args:
      material: network and images.
      groups: of neurons.
      values: what they are replaced by; None: by layer, zero or (where activations can be negative) mean.
      ranking: the means.
      telling: how far it is.

    Returns:
      a row a group and value: group, neurons (how many), value, loss_delta, loss_delta_se, top1_delta, right_to_wrong,
      wrong_to_right.
    """
    parts = [part for value in values or (None,) for part in _parts(material, groups, value, ranking)]
    jobs = {block_name(part.prefix, block): (part, block) for block in material.blocks for part in parts}
    telling.expect({name: len(part.groups) * block.images for name, (part, block) in jobs.items()})

    def make(name: str) -> Piece:
        part, block = jobs[name]
        return part.piece(block, telling.within(name, len(part.groups)))

    sums: dict[str, Totals] = {}
    for name, piece in zip(jobs, material.pieces.all(list(jobs), make), strict=True):
        prefix, more = jobs[name][0].prefix, as_totals(piece)
        sums[prefix] = sums[prefix] + more if prefix in sums else more
        telling.at()
    frames = [_frame(part, sums[part.prefix]) for part in parts]
    order = {value: place for place, value in enumerate(values or ())}
    return (
        pl.concat(frames)
        .with_columns(pl.col("asked").replace_strict(order, default=0).alias("asked"))
        .sort("asked", "place")
        .drop("asked", "place")
    )


def _parts(material: Material, groups: Sequence[NeuronGroup], value: str | None, ranking: Ranking) -> Iterator[_Part]:
    """Groups that begin at the same layer share their replays."""
    layers = material.network.layers
    order = {layer.name: place for place, layer in enumerate(layers)}
    firsts = [order[next(iter(group.units))] for group in groups]
    for first in sorted(set(firsts)):
        there = [place for place, at in enumerate(firsts) if at == first]
        for start in range(0, len(there), TOGETHER):
            some = {place: groups[place] for place in there[start : start + TOGETHER]}
            yield _Part(some, value, _sets(material, some, value, ranking))


def _sets(material: Material, groups: dict[int, NeuronGroup], value: str | None, ranking: Ranking) -> Sets:
    used = {name for group in groups.values() for name in group.units}
    layers = [layer for layer in material.network.layers if layer.name in used]
    chosen = {layer.name: _chosen(layer, list(groups.values())) for layer in layers}
    values = {layer.name: value or value_of(layer) for layer in layers}
    return Sets(material.network, layers, chosen, values, ranking.mean)


def _chosen(layer: Layer, groups: Sequence[NeuronGroup]) -> Tensor:
    chosen_SU = torch.zeros(1 + len(groups), layer.units, dtype=torch.float64)
    for row, group in enumerate(groups, 1):
        if layer.name in group.units:
            chosen_SU[row, group.units[layer.name]] = 1
    return chosen_SU


def _frame(part: _Part, sums: Totals) -> pl.DataFrame:
    effects = neuron_effects(sums, torch.zeros(len(part.groups), dtype=torch.int64))
    signed = {layer.name: value_of(layer) for layer in part.sets.layers}
    return pl.DataFrame(
        {
            "asked": [part.value or ""] * len(part.groups),
            "place": list(part.groups),
            "group": [group.name for group in part.groups.values()],
            "neurons": pl.Series([group.size for group in part.groups.values()], dtype=pl.Int32),
            "value": [
                part.value or "+".join(sorted({signed[name] for name in group.units})) for group in part.groups.values()
            ],
            **{name: effects[name].numpy() for name in _EFFECTS},
        }
    ).with_columns(pl.col(name).cast(pl.Float32) for name in _EFFECTS)
