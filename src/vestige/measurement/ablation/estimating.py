"""Estimates of what replacing every neuron does on every image, held for sampling: in memory, or in a file beside it.

Shapes: N images of all, T of a tile, U neurons of a job.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.formulas.linearised import Estimates
from vestige.measurement.ablation.blocks import Block, Blocks
from vestige.measurement.ablation.pieces import Piece, Pieces
from vestige.measurement.ablation.replacing import Donors, Replacement, constant
from vestige.measurement.ablation.screening import Screen
from vestige.measurement.ablation.telling import Telling
from vestige.measurement.network import Network, check_labels
from vestige.measurement.ranking import Ranking
from vestige.models.layers import Layer
from vestige.runs.store import value_hash

DOING = "estimating what ablating neurons does"
SCREENING_COST = 20
"""Estimates of a neuron that are told as one ablation."""


@dataclass(frozen=True)
class Job:
    """Some neurons of one layer, and what replaces each of them.

    Attributes:
      layer: where they are.
      value: zero, mean or resample.
      units: which, ascending; None: all.
    """

    layer: Layer
    value: str
    units: Tensor | None = None

    @property
    def neurons(self) -> Tensor:
        """Which, int64, (U,)."""
        return torch.arange(self.layer.units) if self.units is None else self.units

    @property
    def key(self) -> list[Any]:
        """What it is, ready for JSON."""
        layer, units = self.layer, None if self.units is None else self.units.tolist()
        return [self.value, layer.name, layer.node, layer.axis, layer.units, units]


@dataclass(frozen=True)
class Estimated:
    """What all images gave.

    Attributes:
      labels: (N,) int64.
      margins: of the intact network: the label's logit minus the highest other one, (N,).
      places: of each image in evaluation order, (N,) int64.
      tiles: by the number of each tile, where its images are among the N.
      jobs: of each job, (U, N) float32 each.
    """

    labels: Tensor
    margins: Tensor
    places: np.ndarray
    tiles: Mapping[int, slice]
    jobs: Sequence[Estimates]


def replacement_of(job: Job, mean_U: Tensor, maps_TU: Tensor, donor_maps: Mapping[str, Tensor]) -> Replacement:
    """What replaces a layer's neurons on a tile.

    Args:
      job: neurons of one layer.
      mean_U: what the value mean writes.
      maps_TU: the layer's activations, (T, U, *positions).
      donor_maps: by node name, activations for the donors, where there are any.
    """
    if job.value == "resample":
        return Donors(donor_maps[job.layer.node].movedim(job.layer.axis, 1).to(maps_TU))
    return constant(job.value, mean_U.to(maps_TU.device), maps_TU)


def donated(network: Network, jobs: Sequence[Job], donors: Any) -> dict[str, Tensor]:
    """Activations for the donors of a tile, by node name."""
    nodes = list(dict.fromkeys(job.layer.node for job in jobs if job.value == "resample"))
    return network.captured(donors, nodes)[1] if nodes else {}


def tiles_of(block: Block, jobs: Sequence[Job]) -> Iterator[tuple[Tile, Any]]:
    """Tiles of a block with their donors, where a job needs those."""
    return block.with_donors() if any(job.value == "resample" for job in jobs) else ((t, None) for t in block.tiles())


def estimate_block(screen: Screen, block: Block, jobs: Sequence[Job], ranking: Ranking) -> Piece:
    """Estimates for the images of a block, by field and number of the job: (U, T) each, labels and margins beside.

    Raises:
      DataError: labels outside the model's classes.
      ModelError: the network has diverged.
    """
    parts: dict[str, list[Tensor]] = {}
    layers = [job.layer for job in jobs]
    for tile, donors in tiles_of(block, jobs):
        check_labels(tile.labels[: tile.valid], screen.network.classes, doing=DOING)
        run, donor_maps = screen.run(tile), donated(screen.network, jobs, donors)
        replacements = [
            replacement_of(job, ranking.mean[job.layer.name], run.maps[job.layer.name], donor_maps) for job in jobs
        ]
        found = screen.estimates(run, list(zip(layers, replacements, strict=True)))
        for number, (job, estimates) in enumerate(zip(jobs, found, strict=True)):
            for field, value_TU in estimates._asdict().items():
                parts.setdefault(f"{field}/{number}", []).append(value_TU[:, job.neurons.to(value_TU.device)].T.cpu())
        parts.setdefault("margins", []).append(run.margin.cpu())
        parts.setdefault("labels", []).append(tile.labels[: tile.valid].cpu())
        parts.setdefault("places", []).append(torch.from_numpy(tile.indices[: tile.valid].copy()))
        parts.setdefault("tiles", []).append(torch.tensor([[tile.number, tile.valid]]))
    return {name: torch.cat(tensors, 0 if name == "tiles" else -1) for name, tensors in parts.items()}


@contextmanager
def estimated(
    network: Network,
    blocks: Blocks,
    jobs: Sequence[Job],
    *,
    ranking: Ranking,
    pieces: Pieces,
    opponents: int,
    memory: float = inf,
    telling: Telling | None = None,
) -> Iterator[Estimated]:
    """Estimates for all images, while they are needed.

    Args:
      network: traced or not.
      blocks: of the images.
      jobs: the neurons.
      ranking: what the value mean writes.
      pieces: where finished blocks are kept.
      opponents: see `Screen`.
      memory: bytes that the estimates may take; more lie in a temporary file. Changes no number.
      telling: who is told how far it is.

    Raises:
      DataError: no images, or labels outside the model's classes.
      ModelError: the network has diverged.
    """
    screen = Screen(network, list({job.layer.name: job.layer for job in jobs}.values()), opponents)
    prefix = f"screen/{value_hash([opponents, *(job.key for job in jobs)])[:12]}"
    named = {f"{prefix}/block-{block.number:04d}": block for block in blocks}
    neurons = sum(len(job.neurons) for job in jobs)
    if telling is not None:
        telling.expect({name: 1 + neurons * block.images // SCREENING_COST for name, block in named.items()})
    with _room(len(Estimates._fields) * neurons * blocks.images, memory) as flat:
        found = _Gathered(jobs, flat, blocks.images)
        for piece in pieces.all(list(named), lambda name: estimate_block(screen, named[name], jobs, ranking)):
            if telling is not None:
                telling.at()
            if piece:  # else no image of the block could be read
                found.add(piece)
        check_labels(torch.cat(found.labels) if found.labels else torch.empty(0), network.classes, doing=DOING)
        yield found.estimated()


class _Gathered:
    """Pieces of blocks, put together as they come.

    Args:
      jobs: the neurons.
      flat: room for all estimates.
      images: N at most.
    """

    def __init__(self, jobs: Sequence[Job], flat: Tensor, images: int):
        shapes = [(len(Estimates._fields), len(job.neurons), images) for job in jobs]
        parts = flat.split([math.prod(shape) for shape in shapes])
        self._held = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        self._margins: list[Tensor] = []
        self._places: list[np.ndarray] = []
        self._tiles: dict[int, slice] = {}
        self._done = 0
        self.labels: list[Tensor] = []

    def add(self, piece: Piece) -> None:
        """The next block."""
        images = slice(self._done, self._done + len(piece["labels"]))
        for number, of_job in enumerate(self._held):
            for field, name in enumerate(Estimates._fields):
                of_job[field, :, images] = piece[f"{name}/{number}"]
        self.labels.append(piece["labels"])
        self._margins.append(piece["margins"])
        self._places.append(piece["places"].numpy())
        for tile, valid in piece["tiles"].tolist():
            self._tiles[tile] = slice(self._done, self._done + valid)
            self._done += valid

    def estimated(self) -> Estimated:
        """All of them."""
        estimates = [Estimates(*of_job[:, :, : self._done]) for of_job in self._held]
        labels_N, margins_N = torch.cat(self.labels), torch.cat(self._margins)
        return Estimated(labels_N, margins_N, np.concatenate(self._places), self._tiles, estimates)


@contextmanager
def _room(numbers: int, memory: float) -> Iterator[Tensor]:
    """Room for float32 numbers."""
    if 4 * numbers <= memory:
        yield torch.empty(numbers)
        return
    with TemporaryDirectory(prefix="vestige-", ignore_cleanup_errors=True) as folder:
        yield torch.from_file(str(Path(folder) / "estimates"), shared=True, size=numbers)
