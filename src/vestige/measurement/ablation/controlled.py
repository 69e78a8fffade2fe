"""Single neurons ablated on some images, and estimated on all: sums as exact as a precision asks for, at a known error.

A pilot of each neuron, drawn in proportion to what the estimate could be off by, says how far to trust the estimate and
how many more images it takes; those are then drawn, their number fixed. See docs/explanation/control-variates.md.

Shapes: N images, T of a tile or block, U neurons of a job, R pairs of an image and a neuron, C classes.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.data.transforms import uniform
from vestige.formulas.effects import Totals
from vestige.measurement.ablation.blocks import Block, Blocks
from vestige.measurement.ablation.estimating import Estimated, Job, donated, estimated, replacement_of, tiles_of
from vestige.measurement.ablation.full_forwards import FullForwardNeurons
from vestige.measurement.ablation.neuron_replay import NeuronReplay, hold_all
from vestige.measurement.ablation.pieces import Piece, Pieces
from vestige.measurement.ablation.sampling import Controlled, Plan, Truths, final_plan, pilot_plan, predictions, summed
from vestige.measurement.ablation.screening import RIVALS
from vestige.measurement.ablation.telling import Telling
from vestige.measurement.network import Network
from vestige.measurement.ranking import Ranking
from vestige.models.graph import Graph
from vestige.runs.store import value_hash

PILOT_IMAGES = 2048
"""So many, in whole tiles, are what pilots are drawn from."""
FEW_CLASSES, RIVALS_OF_MANY = 16, 7
"""Up to so many classes each gets a backward of its own for every image; of more, so many of the likeliest."""
_PILOT_STREAM, _SAMPLE_STREAM, _TILE_STREAM = 101, 102, 103


def screened(
    network: Network,
    blocks: Blocks,
    jobs: Sequence[Job],
    *,
    ranking: Ranking,
    pieces: Pieces,
    opponents: int = RIVALS,
    memory: float = inf,
    telling: Telling | None = None,
) -> list[Totals]:
    """What ablating neurons is estimated to do on all images, nothing being run exactly: sums of each job.

    For the arguments and errors see `controlled`.
    """
    settings = {"opponents": opponents, "memory": memory, "telling": telling}
    with estimated(network, blocks, jobs, ranking=ranking, pieces=pieces, **settings) as found:
        return [
            predictions(found, of_job, torch.ones(len(job.neurons), dtype=torch.float64), 0.0, network.classes)
            for job, of_job in zip(jobs, found.jobs, strict=True)
        ]


def controlled(
    network: Network,
    blocks: Blocks,
    jobs: Sequence[Job],
    *,
    ranking: Ranking,
    precision: float,
    pieces: Pieces,
    seed: int = 0,
    opponents: int | None = None,
    memory: float = inf,
    telling: Telling | None = None,
) -> list[Controlled]:
    """Ablate neurons on as many images as a precision asks for, each alone.

    Args:
      network: with the batch-norm statistics to measure with.
      blocks: of the images.
      jobs: the neurons.
      ranking: what the value mean writes.
      precision: the standard error of loss_delta is to be at most so many times what it is with all images run.
      pieces: where finished blocks are kept.
      seed: of the images drawn.
      opponents: see `Screen`; None: all other classes where they are few, so that estimates are exact in the last
        layers whatever class gains.
      memory: bytes that the estimates may take in memory.
      telling: who is told how far it is.

    Returns:
      of each job.

    Raises:
      DataError: no images, or labels outside the model's classes.
      ModelError: the network has diverged, or cannot be replayed from a layer.

    References:
      Cochran (1977), Sampling techniques, chapters 7 and 9A; Särndal, Swensson, Wretman (1992), Model assisted survey
      sampling, chapter 6 (the difference estimator).
    """
    if opponents is None:
        opponents = network.classes - 1 if network.classes <= FEW_CLASSES else RIVALS_OF_MANY
    settings = {"opponents": opponents, "memory": memory, "telling": telling}
    with estimated(network, blocks, jobs, ranking=ranking, pieces=pieces, **settings) as found:
        exact = Exact(network, blocks, jobs, ranking, pieces, found, seed, telling)
        among_N = _pilot_images(found, seed)
        pilots = [pilot_plan(found, of_job, among_N) for of_job in found.jobs]
        known = exact.truths("pilot", pilots, _PILOT_STREAM)
        made = [final_plan(plan, truths, precision) for plan, truths in zip(pilots, known, strict=True)]
        drawn = exact.truths(f"drawn-{value_hash(precision)[:12]}", [plan for plan, _, _ in made], _SAMPLE_STREAM)
        return [
            summed(found, *of_job, pilot, sample, network.classes)
            for of_job, pilot, sample in zip(made, known, drawn, strict=True)
        ]


class Exact:
    """Runs the pairs that plans draw."""

    def __init__(
        self,
        network: Network,
        blocks: Blocks,
        jobs: Sequence[Job],
        ranking: Ranking,
        pieces: Pieces,
        found: Estimated,
        seed: int,
        telling: Telling | None,
    ):
        self.network, self.blocks, self.jobs, self.ranking = network, blocks, jobs, ranking
        self._pieces, self._found, self._seed, self._telling = pieces, found, seed, telling
        self._traced = isinstance(network.graph, Graph)
        kind = NeuronReplay if self._traced else FullForwardNeurons
        self._replays: dict[str, Any] = {job.layer.name: kind(network, job.layer) for job in jobs}
        self._prefix = value_hash([seed, *(job.key for job in jobs)])[:12]

    def truths(self, kind: str, plans: Sequence[Plan], stream: int) -> list[Truths]:
        """What happens in all pairs that plans draw, of each job."""
        named = {f"{kind}/{self._prefix}/block-{block.number:04d}": block for block in self.blocks}
        pairs = {name: self._pairs(block, plans, stream) for name, block in named.items()}
        if self._telling is not None:
            self._telling.expect({name: sum(len(p[0]) for p in of_block) for name, of_block in pairs.items()})
        parts: list[list[Truths]] = [[] for _ in self.jobs]
        for name, piece in zip(
            named, self._pieces.all(list(named), lambda name: self._run(named[name], pairs[name])), strict=True
        ):
            for number, (units_R, images_R, chances_R) in enumerate(pairs[name]):
                outcome = (piece[f"{field}/{number}"] for field in ("change", "before", "after"))
                parts[number].append(Truths(units_R, images_R, chances_R, *outcome))
            if self._telling is not None:
                self._telling.at()
        return [Truths(*(torch.cat(column) for column in zip(*of_job, strict=True))) for of_job in parts]

    def _pairs(self, block: Block, plans: Sequence[Plan], stream: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Neurons, images and chances of the pairs drawn in a block, image after image."""
        tiles = [self._found.tiles[number] for number in block.numbers if number in self._found.tiles]
        images = slice(tiles[0].start, tiles[-1].stop) if tiles else slice(0, 0)
        drawn = []
        for job, plan in zip(self.jobs, plans, strict=True):
            chances_UT = plan.chances(slice(0, len(job.neurons)), images)
            draws_TU = self._draws(job, stream, self._found.places[images])
            images_R, units_R = (draws_TU < chances_UT.T).nonzero(as_tuple=True)
            drawn.append((units_R, images_R + images.start, chances_UT[units_R, images_R]))
        return drawn

    def _draws(self, job: Job, stream: int, places: np.ndarray) -> Tensor:
        """Uniform numbers of each image and neuron that depend on them, their layer, the value and the seed alone."""
        what = crc32(f"{job.value} {job.layer.name}".encode())
        pairs = places[:, None] * job.layer.units + job.neurons.numpy()
        return torch.from_numpy(uniform(self._seed, what, pairs, stream)).view(pairs.shape)

    @torch.no_grad()
    def _run(self, block: Block, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Piece:
        """Run the pairs of a block: change of loss, and right before and after, of each job."""
        parts: dict[str, list[Tensor]] = {}
        for tile, donors in tiles_of(block, self.jobs):
            where = self._found.tiles[tile.number]
            inside = [(images >= where.start) & (images < where.stop) for _, images, _ in pairs]
            wanted = [number for number, inside_R in enumerate(inside) if inside_R.any()]
            held = self._held(tile, [self.jobs[number] for number in wanted])
            donor_maps = donated(self.network, [self.jobs[number] for number in wanted], donors)
            for number in wanted:
                job, (units_R, images_R, _) = self.jobs[number], pairs[number]
                of_tile = held[job.layer.name]
                replacement = replacement_of(job, self.ranking.mean[job.layer.name], of_tile.maps, donor_maps)
                rows_R = (images_R[inside[number]] - where.start).to(of_tile.maps.device)
                neurons_R = job.neurons[units_R[inside[number]]].to(of_tile.maps.device)
                after = self._replays[job.layer.name].outcomes(of_tile, rows_R, neurons_R, replacement)
                loss_R, right_R = (column[rows_R] for column in of_tile.intact)
                parts.setdefault(f"change/{number}", []).append((after.loss - loss_R).cpu())
                parts.setdefault(f"before/{number}", []).append(right_R.cpu())
                parts.setdefault(f"after/{number}", []).append(after.correct.cpu())
        empty = {"change": torch.empty(0, dtype=torch.float64), "before": torch.empty(0, dtype=torch.bool)}
        empty["after"] = empty["before"]
        names = [(field, f"{field}/{number}") for number in range(len(self.jobs)) for field in empty]
        return {name: torch.cat(parts[name]) if name in parts else empty[field] for field, name in names}

    def _held(self, tile: Tile, jobs: Sequence[Job]) -> Mapping[str, Any]:
        """The tile as each layer's replays need it, the network run once."""
        names = list(dict.fromkeys(job.layer.name for job in jobs))
        replays = [self._replays[name] for name in names]
        if self._traced:
            return dict(zip(names, hold_all(replays, tile) if names else [], strict=True))
        return {name: replay.hold(tile) for name, replay in zip(names, replays, strict=True)}


def _pilot_images(found: Estimated, seed: int) -> Tensor:
    """Which images the pilots are drawn from: some tiles, so that not every tile need be run twice; (N,) bool."""
    numbers = np.array(sorted(found.tiles))
    order = np.argsort(uniform(seed, 0, numbers, _TILE_STREAM), kind="stable")
    among_N = torch.zeros(len(found.labels), dtype=torch.bool)
    for number in numbers[order]:
        if among_N.sum() >= PILOT_IMAGES:
            break
        among_N[found.tiles[number]] = True
    return among_N
