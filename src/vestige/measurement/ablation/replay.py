"""Replay the end of a network on many edited copies of what images made of it, in forwards of one fixed size.

Shapes: T images of a tile, R replays (each of one of its images, under one edit), P of them in one forward.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from vestige.data.loader import Tile
from vestige.errors import ModelError
from vestige.formulas.effects import Outcomes
from vestige.measurement.ablation.agreeing import agree
from vestige.measurement.ablation.fixed_forwards import affordable, forwards, how_they_did
from vestige.measurement.network import Dtype
from vestige.models.graph import Graph
from vestige.models.layers import Layer
from vestige.models.map_layouts import Layout, index_images, laid_out
from vestige.models.observing import logits_of

Edits = Mapping[str, Callable[[Tensor], Tensor]]
"""For a node's name, what its value (P replays first) is replaced by."""

# On a CPU one activation of P replays stays in a core's cache.
FORWARD_BYTES = {"cpu": 2 << 20}
FORWARD_BYTES_ELSEWHERE = 256 << 20
FEWEST, MOST = 8, 1024


@dataclass(frozen=True)
class Held:
    """What the network made of one tile of images.

    Attributes:
      values: the live values at the cut, T images each, by node name.
      logits: of the whole network, (T, C).
      labels: of all T images, the padding included.
      valid: so many of the T images count.
    """

    values: Mapping[str, Any]
    logits: Tensor
    labels: Tensor
    valid: int


class Replay:
    """The part of a network after its first edited layer.

    Args:
      graph: a measurement copy.
      layers: those that can be edited.
      dtype: that it computes in.
    """

    def __init__(self, graph: Graph, layers: Sequence[Layer], dtype: Dtype = "float32"):
        self._dtype: Dtype = dtype
        order = {node.name: place for place, node in enumerate(graph.module.graph.nodes)}
        self.node = min((layer.node for layer in layers), key=order.__getitem__)
        self._suffix = graph.suffix(self.node)
        self._capture = graph.capturing(self._suffix.live)
        self._per_image = _depending_on_input(graph)
        self._device = next((p.device for p in graph.module.parameters()), torch.device("cpu"))

    def hold(self, tile: Tile) -> Held:
        """Run the whole network on a tile and keep the values that the replays start from."""
        output, captured = self._capture(tile.inputs.to(self._device))
        logits_TC = logits_of(output)
        values = {name: _laid_out(captured[name]) for name in self._suffix.live}
        return Held(values, logits_TC, tile.labels.to(logits_TC.device), tile.valid)

    def outcomes(self, held: Held, images_R: Tensor, edits: Callable[[Tensor], Edits]) -> Outcomes:
        """How R replays did; arguments and errors as for `logits`."""
        return how_they_did(self.logits(held, images_R, edits), held.labels[images_R])

    def logits(self, held: Held, images_R: Tensor, edits: Callable[[Tensor], Edits]) -> Iterator[Tensor]:
        """Replay images of a tile, each under an edit of its own.

        Args:
          held: the tile.
          images_R: which of its images each replay is of, int64; the first `held.valid` replays are of those
            images in order and unedited.
          edits: the edits of some replays, given their places in `images_R`; they may overwrite the value at
            the cut.

        Yields:
          logits of the next replays.

        Raises:
          ModelError: the unedited replays do not give the network's own logits.
        """
        for these, places_P in forwards(len(images_R), self._rows(held), images_R.device):
            logits_PC = self._run(held, images_R[places_P], edits(places_P))[: these.stop - these.start]
            intact_PC = held.logits[: held.valid][these]
            self._check(logits_PC[: len(intact_PC)], intact_PC)
            yield logits_PC

    def _run(self, held: Held, images_P: Tensor, edits: Edits) -> Tensor:
        values = [_taken(value, images_P) if name in self._per_image else value for name, value in held.values.items()]
        if edits.keys() == {self.node}:
            return logits_of(self._suffix.module(edits[self.node](values[0]), *values[1:]))
        return logits_of(_Editing(self._suffix.module, edits).run(*values))

    def _rows(self, held: Held) -> int:
        """P."""
        value = held.values[self.node]
        budget = FORWARD_BYTES.get(value.device.type, FORWARD_BYTES_ELSEWHERE)
        return affordable(value[0].numel() * value.element_size(), budget, FEWEST, MOST)

    def _check(self, replayed: Tensor, whole: Tensor) -> None:
        # Batches are taken to run along the first axis of every live value; a network may do otherwise.
        if replayed.numel() and not agree(replayed, whole, self._dtype):
            raise ModelError(
                f"replaying the network from {self.node!r}",
                found="the unedited replay does not give the network's own logits",
                remedy="Give a model that treats each input of a batch alone, with the batch as the first "
                "axis throughout",
            )


class _Editing(fx.Interpreter):
    """A suffix in which some values are edited as they are computed."""

    def __init__(self, module: fx.GraphModule, edits: Edits):
        super().__init__(module)
        self._edits = edits

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return self._edits[n.name](value) if n.name in self._edits else value


def _depending_on_input(graph: Graph) -> set[str]:
    found: set[fx.Node] = set()
    for node in graph.module.graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return {node.name for node in found}


def _laid_out(value: Any) -> Any:
    """Maps as channels-last: convolutions are faster on it."""
    return laid_out(value, Layout.CHANNELS_LAST) if isinstance(value, Tensor) and value.ndim == 4 else value


def _taken(value: Any, images_P: Tensor) -> Any:
    if isinstance(value, tuple | list):
        return [_taken(item, images_P) for item in value]
    return index_images(value, images_P) if value.ndim == 4 else value.index_select(0, images_P)
