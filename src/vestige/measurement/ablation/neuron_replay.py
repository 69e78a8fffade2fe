"""Replaying a layer's single neurons on tiles of images, in forwards of one fixed size.

Shapes: T images of a tile, U neurons of a layer, R replays (pairs of an image and a neuron), P of them in one forward.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from vestige.data.loader import Tile
from vestige.errors import ModelError
from vestige.formulas.effects import Outcomes, outcomes
from vestige.measurement.ablation.agreeing import agree
from vestige.measurement.ablation.fixed_forwards import affordable, forwards, how_they_did
from vestige.measurement.ablation.replacing import Constant, Replacement
from vestige.measurement.network import Network, check_finite
from vestige.models.layers import Layer
from vestige.models.observing import logits_of
from vestige.models.operations import first_line, only_tensor
from vestige.models.pairs import Pairs
from vestige.models.replaying import Replayer

# Of the largest value of P replays. On a CPU: what glibc gives from its heap; more it maps and clears each time anew.
FORWARD_BYTES = {"cpu": 32 << 20}
FORWARD_BYTES_ELSEWHERE = 1 << 30
FEWEST, MOST = 16, 4096
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_CHECKED = 4  # images
_DOING = "ablating single neurons"


@dataclass(frozen=True)
class Held:
    """What the network made of one tile of images.

    Attributes:
      values: the intact values that replays start from.
      maps: the layer's activation, neurons moved to the second axis, (T, U, *positions).
      logits: of the whole network, (T, C).
      labels: of all T images, the padding included.
      valid: so many of the T images count.
      intact: outcomes of the valid images, replayed as the ablated ones are: a change of loss is then not the
        rounding of another kernel.
    """

    values: Mapping[str, Tensor]
    maps: Tensor
    logits: Tensor
    labels: Tensor
    valid: int
    intact: Outcomes


class NeuronReplay:
    """Single neurons of one layer, replaced and replayed.

    Args:
      network: with the batch-norm statistics to measure with.
      layer: one of its layers.
    """

    def __init__(self, network: Network, layer: Layer):
        self.network, self.layer = network, layer
        self._replayer: Replayer | None = None
        self._made_for: list[torch.Size] | None = None

    def hold(self, tile: Tile) -> Held:
        """Run the whole network on a tile and keep what replays start from.

        Raises:
          ModelError: the network has diverged, or cannot be replayed from this layer.
        """
        return hold_all([self], tile)[0]

    def outcomes(self, held: Held, images_R: Tensor, units_R: Tensor, replacement: Replacement | None) -> Outcomes:
        """How replays did, each of one image with one neuron replaced: `loss` float64 and `correct`, (R,).

        Args:
          held: the tile.
          images_R: the image of each, int64; those of one image should follow each other.
          units_R: the neuron of each, int64.
          replacement: what is written; None: nothing.
        """
        return how_they_did(self.logits(held.values, images_R, units_R, replacement), held.labels[images_R])

    @torch.no_grad()
    def logits(
        self, values: Mapping[str, Tensor], images_R: Tensor, units_R: Tensor, replacement: Replacement | None
    ) -> Iterator[Tensor]:
        """Logits of successive replays; arguments as for `outcomes`."""
        assert self._replayer is not None, "a tile must have been held"
        rows = min(self.rows, max(FEWEST, 1 << (len(images_R) - 1).bit_length()))
        for these, places_P in forwards(len(images_R), rows, images_R.device):
            pairs = Pairs.of(images_R[places_P], units_R[places_P])

            def replace(own_P: Tensor, pairs: Pairs = pairs) -> Tensor:
                return own_P if replacement is None else replacement.of(pairs.images, pairs.units)

            yield self._replayer.logits(values, pairs, replace)[: these.stop - these.start]

    @property
    def rows(self) -> int:
        """P at most, a power of two."""
        assert self._replayer is not None, "a tile must have been held"
        budget = FORWARD_BYTES.get(self.network.device.type, FORWARD_BYTES_ELSEWHERE)
        return affordable(self._replayer.widest * DTYPES[self.network.dtype].itemsize, budget, FEWEST, MOST)

    def replayer(self, inputs: Any) -> Replayer:
        """What replays inputs of this size from this layer on; checked against full forwards of some of them.

        Raises:
          ModelError: replays do not give what full forwards do.
        """
        sizes = [leaf.shape[1:] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        if self._replayer is None or sizes != self._made_for:
            self._made_for = None
            inputs = tree_map(lambda value: value[:_CHECKED], self.network.on_device(inputs))
            wrong = self._wrong(inputs, shortcuts=True)
            if wrong:
                again = self._wrong(inputs, shortcuts=False)
                if again:
                    self._replayer = None
                    raise _refusal(self.layer, again)
                warnings.warn(f"{_doing(self.layer)} takes longer, without shortcuts: {wrong}.", UserWarning, 2)
            self._made_for = sizes
        assert self._replayer is not None
        return self._replayer

    def _wrong(self, inputs: Any, *, shortcuts: bool) -> str:
        """Make the replayer; what is wrong with it, or nothing."""
        try:
            self._replayer = self._made(inputs, shortcuts)
            right = self._replays_are_forwards(inputs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, AttributeError, KeyError, IndexError) as error:
            return f"it fails with {type(error).__name__} ({first_line(error)})"
        return "" if right else "a replayed neuron does not give what a full forward with it replaced does"

    def held(self, tile: Tile, logits_TC: Tensor, captured: Mapping[str, Tensor]) -> Held:
        """Lay out what the network made of a tile.

        Raises:
          ModelError: it cannot be replayed from this layer.
        """
        values = self.replayer(tile.inputs).laid_out(captured)
        labels_T = tile.labels.to(logits_TC.device)
        valid_V = torch.arange(tile.valid, device=logits_TC.device)
        replayed_VC = torch.cat(list(self.logits(values, valid_V, torch.zeros_like(valid_V), None)))
        if not agree(replayed_VC, logits_TC[: tile.valid], self.network.dtype):
            raise _refusal(self.layer, "the unedited replay does not give the network's own logits")
        maps = values[self.layer.node].movedim(self.layer.axis, 1)
        intact = outcomes(replayed_VC, labels_T[: tile.valid])
        return Held(values, maps, logits_TC, labels_T, tile.valid, intact)

    def _made(self, inputs: Any, shortcuts: bool) -> Replayer:
        graph, layer, dtype = self.network.traced, self.layer, DTYPES[self.network.dtype]
        operations = graph.record(inputs).operations
        return Replayer(graph, layer.node, layer.axis, operations, dtype=dtype, shortcuts=shortcuts)

    def _replays_are_forwards(self, inputs: Any) -> bool:
        """Whether replays of a few neurons replaced by one are full forwards with them replaced."""
        assert self._replayer is not None
        node, axis = self.layer.node, self.layer.axis
        logits_TC, captured = self.network.captured(inputs, self._replayer.captured)
        values = self._replayer.laid_out(captured)
        images_T = torch.arange(len(logits_TC), device=logits_TC.device)
        forward = self.network.traced.editing([node])
        ones = Constant(torch.ones(self.layer.units).to(values[node]), values[node].ndim - 2)
        for unit in sorted({0, self.layer.units // 2, self.layer.units - 1}):

            def write(value: Tensor, unit: int = unit) -> Tensor:
                value = value.clone()
                value.movedim(axis, 1)[:, unit] = 1
                return value

            with torch.no_grad(), self.network.autocast(inputs):
                expected_TC = logits_of(forward(only_tensor(inputs), {node: write}))
            found = self.logits(values, images_T, torch.full_like(images_T, unit), ones)
            if not agree(torch.cat(list(found)), expected_TC, self.network.dtype):
                return False
        return True


def hold_all(replays: Sequence[NeuronReplay], tile: Tile) -> list[Held]:
    """Run the whole network once on a tile, for several layers of it.

    Raises:
      ModelError: the network has diverged, or cannot be replayed from one of them.
    """
    names = dict.fromkeys(name for replay in replays for name in replay.replayer(tile.inputs).captured)
    logits_TC, captured = replays[0].network.captured(tile.inputs, tuple(names))
    check_finite(logits_TC[: tile.valid], "its output", doing=_DOING)
    return [replay.held(tile, logits_TC, captured) for replay in replays]


def _doing(layer: Layer) -> str:
    return f"replaying the network from {layer.name!r}"


def _refusal(layer: Layer, found: str) -> ModelError:
    return ModelError(
        _doing(layer),
        found=found,
        remedy="Give a model that treats each input of a batch alone, with the batch as the first axis throughout",
    )
