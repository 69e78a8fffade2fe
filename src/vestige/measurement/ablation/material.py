"""What ablation works on, made ready: the network, the images to ablate on, the ranking, the pieces made so far."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import TensorDataset

from vestige.config import Protocol
from vestige.data.imageset import ImageSet
from vestige.data.loader import Tile
from vestige.errors import ConfigError, DataError
from vestige.formulas.effects import outcomes
from vestige.measurement.ablation.blocks import BLOCK_IMAGES, Block, Blocks, blocks
from vestige.measurement.ablation.full_forwards import NOTE
from vestige.measurement.ablation.pieces import FolderPieces, MemoryPieces, Piece, Pieces
from vestige.measurement.ablation.quickening import quickest
from vestige.measurement.inputs import batches, is_pair
from vestige.measurement.network import Network, check_finite, check_labels
from vestige.measurement.preparing import Preparation, Prepared, prepare
from vestige.measurement.ranking import Ranking, rank, split_halves
from vestige.models.layers import Layer
from vestige.models.weights import weights_hash
from vestige.runs.store import value_hash

NUMBERS_VERSION = 4
"""Raised when the same model, images and settings would give other pieces."""
TILE_BYTES = 64 << 20
MOST_IN_TILE = 256
Ranked = Literal["the same images", "ranking_data", "the other half of the images"]


@dataclass(frozen=True)
class Material:
    """A network and its images, ready to be ablated.

    Attributes:
      network: a copy of the user's.
      blocks: of the images to ablate on.
      to_rank: of those to rank on.
      ranked: what those are.
      pieces: made so far.
      notes: what must be said aloud.
      settings: what made the numbers, ready for JSON.
    """

    network: Network
    blocks: Blocks
    to_rank: Blocks
    ranked: Ranked
    pieces: Pieces
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    _skipped: Callable[[], list[str]] = field(repr=False)

    @property
    def skipped(self) -> tuple[str, ...]:
        """What is wrong with each image that was left out as unreadable."""
        return tuple(self._skipped())

    def ranking(self, protocol: Protocol = "corrected") -> Ranking:
        """Every neuron's index, mean and preferred class.

        Raises:
          DataError: images of fewer than two classes, or labels outside the model's classes.
          ModelError: the network has diverged.
        """
        names = [layer.name for layer in self.network.layers]

        def make(_: str) -> Piece:
            found = rank(self.network, self.to_rank.tiles(), protocol=protocol)
            columns = {"csi": found.csi, "mean": found.mean, "preferred": found.preferred}
            return {f"{column}/{name}": of[name] for column, of in columns.items() for name in names}

        (piece,) = self.pieces.all([f"ranking/{protocol}-{digest(places(self.network.layers))}"], make)
        return Ranking(
            *({name: piece[f"{column}/{name}"] for name in names} for column in ("csi", "mean", "preferred"))
        )

    def intact(self) -> dict[str, float]:
        """Accuracy and loss of the intact network on the images to ablate on, and how many those are.

        Raises:
          DataError: there are none, or labels outside the model's classes.
          ModelError: the network has diverged.
        """

        def make(name: str) -> Piece:
            sums = torch.zeros(3, dtype=torch.float64)
            for tile in self.blocks[int(name.rpartition("-")[2])].tiles():
                check_labels(tile.labels[: tile.valid], self.network.classes, doing="ablating neurons")
                logits = self.network.captured(tile.inputs, [])[0][: tile.valid]
                check_finite(logits, "its output", doing="ablating neurons")
                found = outcomes(logits, tile.labels[: tile.valid].to(logits.device))
                sums += torch.tensor([found.correct.sum(), found.loss.sum(), tile.valid], dtype=torch.float64)
            return {"sums": sums}

        top1, loss, n = self.summed("intact", make)["sums"].tolist()
        if not n:
            check_labels(torch.empty(0), self.network.classes, doing="ablating neurons")
        return {"top1": top1 / n, "loss": loss / n, "n": int(n)}

    def summed(self, prefix: str, make: Callable[[str], Piece]) -> Piece:
        """The sum of the pieces `prefix/block-0000` and so on over all blocks, in their order."""
        return added(self.pieces.all([block_name(prefix, block) for block in self.blocks], make))


def block_name(prefix: str, block: Block) -> str:
    """Of a piece of one block."""
    return f"{prefix}/block-{block.number:04d}"


def added(pieces: Iterable[Piece]) -> Piece:
    """The sum of pieces, tensor by tensor, in their order."""
    total: Piece = {}
    for piece in pieces:
        total = {name: total[name] + value if name in total else value for name, value in piece.items()}
    return total


def digest(value: Any) -> str:
    """A few characters that stand for a value."""
    return value_hash(value)[:12]


def places(layers: Iterable[Layer]) -> list[list[Any]]:
    """What settles the numbers of layers, which may share a name and lie elsewhere; ready for JSON."""
    return [[layer.name, layer.node, layer.axis, layer.units] for layer in layers]


def make_ready(
    how: Preparation, data: Any, *, ranking_data: Any, held_out: bool, memory: float, folder: Path | str | None
) -> Material:
    """Make everything ready that ablation needs.

    Args:
      how: the model, and how it is to be prepared.
      data: see `vestige.ablate`, also for the rest.
      ranking_data: images to rank on.
      held_out: rank on one half of the images.
      memory: bytes.
      folder: of pieces; None: they are kept in memory.

    Raises:
      VestigeError: something does not make sense, or together.
    """
    if held_out and ranking_data is not None:
        raise ConfigError(how.doing, found="both ranking_data and held_out=True", remedy="Give one of them")
    feed = batches(data, batch_size=how.batch_size or 16, workers=how.workers)
    blocks(feed)  # refuses data that can be read only once
    first = next(iter(feed), None)
    if first is None:
        raise DataError(how.doing, found="there are no images", remedy="Give at least one image of two classes")
    how, quickened = quickest(how)
    ready = prepare(how, first.inputs)
    tile = how.batch_size or tile_size(ready.network, first.inputs)
    options: dict[str, Any] = {"tile": tile, "relabel": ready.relabelled, "held": memory / 2}
    to_ablate = blocks(feed, **options)
    to_rank, ranked = to_ablate, "the same images"
    if ranking_data is not None:
        other = batches(ranking_data, batch_size=tile, workers=how.workers)
        to_rank, ranked = blocks(other, **options), "ranking_data"
    elif held_out:
        known = np.flatnonzero(to_ablate.labels >= 0)
        ranking_half, ablation_half = split_halves(to_ablate.labels[known])
        to_rank = blocks(feed, places=known[ranking_half], **options)
        to_ablate = blocks(feed, places=known[ablation_half], **options)
        ranked = "the other half of the images"
    key = _key(how, ready, tile) | {
        "intact": _intact(ready.network, to_ablate),
        "data": _identity(data, to_ablate),
        "ranked_on": ranked,
        "ranking_data": (
            None if to_rank is to_ablate else _identity(data if ranking_data is None else ranking_data, to_rank)
        ),
    }
    pieces = MemoryPieces() if folder is None else FolderPieces(Path(folder) / "pieces", key)
    notes = (*feed.notes, *quickened, *ready.notes, *([] if ready.network.graph.traced else [NOTE]))
    settings = {**key, **ready.settings}
    return Material(ready.network, to_ablate, to_rank, ranked, pieces, notes, settings, lambda: feed.skipped)


def tile_size(network: Network, inputs: Any) -> int:
    """Images a tile: a power of two, from the shapes alone, so that no number depends on the memory there is."""
    few = [leaf[:1] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    largest = max(leaf.numel() * leaf.element_size() for leaf in few)
    seen = network.forward(_first(inputs))[1].values()
    largest = max([largest, *(activation.numel() * activation.element_size() for activation in seen)])
    return min(1 << max(0, int(TILE_BYTES // largest).bit_length() - 1), MOST_IN_TILE)


def _first(inputs: Any) -> Any:
    return tree_map(lambda leaf: leaf[:1], inputs)


def _key(how: Preparation, ready: Prepared, tile: int) -> dict[str, Any]:
    """Everything but the images that can change a piece."""
    network, made_by = ready.network, ready.settings["versions"]
    return {
        "version": NUMBERS_VERSION,
        "model": ready.settings["model"],
        "weights": ready.settings["weights"],
        "weights_and_statistics": weights_hash(network.graph.module.state_dict()),
        "buffers": weights_hash(dict(how.model.named_buffers())),  # state_dict has no non-persistent ones
        "class_map": None if ready.class_table is None else ready.class_table.tolist(),
        "dtype": network.dtype,
        "device": network.device.type,
        "threads": torch.get_num_threads() if network.device.type == "cpu" else None,
        "batch_size": tile,
        "block_images": BLOCK_IMAGES,
        "versions": {name: made_by[name] for name in ("vestige", "torch")},
    }


def _identity(data: Any, of: Blocks) -> dict[str, Any]:
    """What tells some images from others: all that are in memory or must be read in order, else a spread sample."""
    hashes: dict[int, Any] = {}
    labels = hashlib.sha256()
    for tile in _read(data, of):
        tensors = [leaf for leaf in tree_leaves(tile.inputs) if isinstance(leaf, Tensor)]
        for number, rows in enumerate(leaf[: tile.valid] for leaf in tensors if leaf.ndim):
            if number not in hashes:  # once: how batches are cut changes nothing
                hashes[number] = hashlib.sha256(f"{rows.dtype} {tuple(rows.shape[1:])}".encode())
            hashes[number].update(_bytes(rows))
        labels.update(_bytes(tile.labels[: tile.valid]))
    if of.feed.labels is not None:
        labels.update(of.feed.labels.tobytes())
    inputs = value_hash([hashed.hexdigest() for hashed in hashes.values()])[:16]
    return {"name": of.feed.name, "images": of.images, "inputs": inputs, "labels": labels.hexdigest()[:16]}


def _read(data: Any, of: Blocks) -> Iterator[Tile]:
    """The images that stand for all of them."""
    held = data[0] if isinstance(data, tuple) and data else data
    in_memory = (
        not held.streamed if isinstance(held, ImageSet) else isinstance(data, TensorDataset) or is_pair(data, True)
    )
    if in_memory or not of.feed.jumps:
        yield from of.feed
        return
    tiles = len(of.parts)
    for number in sorted({0, tiles // 2, tiles - 1} & set(range(tiles))):
        yield from of.read(range(number, number + 1))


def _intact(network: Network, of: Blocks) -> str | None:
    """What the network makes of the first tile: tells of its code, which weights do not."""
    tile = next(of.tiles(), None)
    if tile is None:
        return None
    return hashlib.sha256(_bytes(network.captured(tile.inputs, [])[0][: tile.valid].float())).hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
