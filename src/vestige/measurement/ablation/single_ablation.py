"""Single neurons of some layers ablated, each alone, exactly or by estimates corrected on some images.

Shapes: N images, U neurons of a layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch

from vestige.config import AblationMode
from vestige.formulas.effects import Totals
from vestige.measurement.ablation.blocks import Blocks
from vestige.measurement.ablation.controlled import controlled, screened
from vestige.measurement.ablation.effect_tables import Task, joined
from vestige.measurement.ablation.material import block_name
from vestige.measurement.ablation.per_input import write_changes
from vestige.measurement.ablation.pieces import MemoryPieces, Piece, Pieces
from vestige.measurement.ablation.singles import Singles, as_totals, replay_of
from vestige.measurement.ablation.telling import Telling
from vestige.measurement.network import Network
from vestige.measurement.ranking import Ranking

DOING = "ablating neurons"
CHECKED_NEURONS, CHECKED_IMAGES = 64, 512
"""On so many neurons and images estimates are compared with exact ablation."""


class Ablated(NamedTuple):
    """What ablating neurons, each alone, does.

    Attributes:
      table: of "ablation", without the identity of the run: a row a neuron and value.
      by_class: of "ablation-by-class", likewise: a row a neuron, value and class that has images.
      checked: by value, the rank correlation of estimated and exact changes of loss, over a sample of neurons; empty
        unless the mode is "screen".
    """

    table: pl.DataFrame
    by_class: pl.DataFrame
    checked: dict[str, float]


def ablate_singly(
    network: Network,
    blocks: Blocks,
    tasks: Sequence[Task],
    *,
    ranking: Ranking,
    pieces: Pieces,
    mode: AblationMode = "exact",
    precision: float = 1.1,
    seed: int = 0,
    memory: float = inf,
    per_input: Path | None = None,
    telling: Telling | None = None,
) -> Ablated:
    """Ablate neurons, each alone; for the arguments see `vestige.ablate`.

    Args:
      network: with the batch-norm statistics to measure with.
      blocks: the images to ablate on.
      tasks: the neurons, and what replaces them.
      ranking: means and preferred classes.
      pieces: where finished work is kept.
      mode: exact, controlled or screen.
      precision: of controlled.
      seed: of the images that controlled draws.
      memory: bytes that estimates may take.
      per_input: the folder to write each image's changes into, in exact mode; None: nowhere.
      telling: who is told how far it is.

    Returns:
      See `Ablated`.

    Raises:
      DataError: no images, or labels outside the model's classes.
      ModelError: the network has diverged, or it cannot be replayed from the middle.
    """
    telling, checked = telling or Telling(pieces, None), {}
    variances: Sequence[torch.Tensor | None] = [None] * len(tasks)
    of = {"ranking": ranking, "pieces": pieces, "telling": telling}
    if mode == "exact":
        sums = _exact(network, blocks, tasks, ranking, pieces, per_input, telling)
    elif mode == "controlled":
        found = controlled(network, blocks, tasks, precision=precision, seed=seed, memory=memory, **of)
        sums, variances = [one.sums for one in found], [one.variance for one in found]
    else:
        sums = screened(network, blocks, tasks, memory=memory, **of)
        variances = [torch.full((task.count,), torch.nan) for task in tasks]  # of the estimates nothing is known
        checked = check_screening(network, blocks, tasks, seed=seed, **of)
    made = zip(tasks, sums, variances, strict=True)
    frames = [task.frames(total, ranking, mode, variance) for task, total, variance in made]
    table, by_class = ([frame[place] for frame in frames] for place in (0, 1))
    return Ablated(joined(table, "ablation"), joined(by_class, "ablation-by-class"), checked)


def _exact(
    network: Network,
    blocks: Blocks,
    tasks: Sequence[Task],
    ranking: Ranking,
    pieces: Pieces,
    per_input: Path | None,
    telling: Telling,
    kind: str = "",
) -> list[Totals]:
    """Sums over all blocks for each task; block after block, so that each is read once for all tasks."""
    kind = "-per-input" if per_input else kind
    replays: dict[str, Any] = {}
    jobs = {block_name(f"{task.prefix}{kind}", block): (task, block) for block in blocks for task in tasks}
    telling.expect({name: task.count * block.images for name, (task, block) in jobs.items()})

    def make(name: str) -> Piece:
        task, block = jobs[name]
        if task.layer.name not in replays:
            replays.clear()  # one at a time: each holds a copy of the weights
            replays[task.layer.name] = replay_of(network, task.layer)
        mean_U, replay = ranking.mean[task.layer.name], replays[task.layer.name]
        single = Singles(network, task.layer, task.value, mean_U, task.units, replay)
        return single.piece(block, per_input=bool(per_input), tell=telling.within(name, task.count))

    found: dict[str, Totals] = {}
    for name, piece in zip(jobs, pieces.all(list(jobs), make), strict=True):
        task, more = jobs[name][0], as_totals(piece)
        found[task.prefix] = found[task.prefix] + more if task.prefix in found else more
        telling.at()
    for task in tasks if per_input else ():
        assert per_input is not None
        names = [block_name(f"{task.prefix}{kind}", block) for block in blocks]
        write_changes(per_input, task.value, task.layer.name, pieces.all(names, make))
    return [found[task.prefix] for task in tasks]


def check_screening(
    network: Network,
    blocks: Blocks,
    tasks: Sequence[Task],
    *,
    ranking: Ranking,
    pieces: Pieces,
    seed: int,
    telling: Telling,
) -> dict[str, float]:
    """Rank correlation, by value, of estimates with what exact ablation gives: some neurons, on some images.

    For the arguments see `ablate_singly`.
    """
    fewer, correlations = blocks.thinned(CHECKED_IMAGES), {}
    for value in dict.fromkeys(task.value for task in tasks):
        some = list(_sample([task for task in tasks if task.value == value], seed))
        exact = _exact(network, fewer, some, ranking, pieces, None, telling, f"-checked-{fewer.images}")
        estimates = screened(network, fewer, some, ranking=ranking, pieces=MemoryPieces())
        columns = [torch.cat([sums.loss.sum(1) for sums in found]).numpy() for found in (exact, estimates)]
        frame = pl.DataFrame({"exact": columns[0], "estimate": columns[1]})
        correlations[value] = frame.select(pl.corr("exact", "estimate", method="spearman")).item()
    return correlations


def _sample(tasks: Sequence[Task], seed: int) -> Iterator[Task]:
    """Some of the neurons of all tasks, drawn alike, by layer."""
    generator = np.random.default_rng([seed, 0])
    owner = np.repeat(np.arange(len(tasks)), [task.count for task in tasks])
    drawn = np.sort(generator.permutation(len(owner))[:CHECKED_NEURONS])
    for place, task in enumerate(tasks):
        mine = drawn[owner[drawn] == place] - int(np.searchsorted(owner, place))
        if len(mine):
            yield replace(task, units=task.neurons[torch.from_numpy(mine)])
