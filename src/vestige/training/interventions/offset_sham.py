"""The sham of a penalty that opens gates: batch-norm biases set once, so that `closed` and CSI are another run's.

In every layer each neuron gets an offset before its ReLU, such that the layer's means of `closed` and of CSI are those
of the target's table: the smallest ones, in standard deviations of what comes before the ReLU. Nothing that was learnt
is lost by it: harm from this is not lost learning.
"""

import copy
import logging
from collections.abc import Sequence
from functools import partial

import polars as pl
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vestige.data.datasets import balanced_indices
from vestige.data.loader import recalibration_batches, tiles
from vestige.errors import ConfigError, TrainingError
from vestige.models.batchnorm import recalibrate
from vestige.models.graph import Graph
from vestige.models.layers import Layer
from vestige.training.events import Event, LoopState
from vestige.training.gradients import norm
from vestige.training.interventions.given import Given
from vestige.training.interventions.offsets import Openings, fit
from vestige.training.interventions.watching import Watching

TOLERANCE = 0.05
"""How far closed and CSI, means over the layers, may be off the target's, relatively."""
ROUNDS = 3
"""Offsets of a layer change the layers behind it, and recomputed statistics those of its own block."""
logger = logging.getLogger("vestige")


class OffsetSham(Watching):
    """Sets the biases at the end of its only step. Its dose is the distance in weights.

    Measured as the study's corrected selectivity is: recomputed batch-norm statistics, the same images.

    Args:
      name: unique in the run.
      window: its only step.
      layers: those matched; each ends in a ReLU whose input a batch norm gives or adds to.
      given: the target's selectivity table, and the images.
    """

    def __init__(self, name: str, window: tuple[int, int], layers: Sequence[Layer], *, given: Given):
        super().__init__(name, window, layers)
        self.given = given

    def on(self, event: Event, state: LoopState) -> None:
        """Set the biases after the step."""
        super().on(event, state)
        if event is Event.RUN_START:
            graph = Graph.trace(state.model)
            for layer in self.layers:
                self._bias(graph, layer)
        elif event is Event.STEP_END:
            self._set(state)

    @torch.no_grad()
    def _set(self, state: LoopState) -> None:
        model = copy.deepcopy(state.model).eval()
        target = self._target()
        graph = Graph.trace(model, copy=False)
        for number in range(ROUNDS):
            for layer in self.layers:
                self._recalibrate(model, state)
                openings = self._openings(graph, layer, state)
                closed, csi = target[layer.name]
                offsets_U = fit(openings, closed, csi)
                bias = graph.module.get_parameter(f"{self._bias(graph, layer)}.bias")
                bias.add_(offsets_U.to(bias))
            if self._off(model, graph, state, target) < TOLERANCE / 5 or number == ROUNDS - 1:
                break
        self._recalibrate(model, state)
        if (off := self._off(model, graph, state, target)) > TOLERANCE:
            raise TrainingError(
                f"setting batch-norm biases in the intervention {self.name!r}",
                found=f"closed or csi is still {off:.0%} off the target's",
                remedy="Name fewer stages, or another target",
            )
        moved = []
        own = dict(state.model.named_parameters())
        for name, parameter in model.named_parameters():
            if not torch.equal(parameter, own[name]):
                moved.append(parameter - own[name])
                own[name].copy_(parameter)
        self.dose.add(1.0, norm(moved))

    def _target(self) -> dict[str, tuple[float, float]]:
        """closed and csi, means over neurons, by layer."""
        table = self.given.tables[self.name].group_by("layer").agg(pl.col("closed", "csi").cast(pl.Float64).mean())
        return {name: (closed, csi) for name, closed, csi in table.select("layer", "closed", "csi").rows()}

    def _off(self, model: nn.Module, graph: Graph, state: LoopState, target: dict[str, tuple[float, float]]) -> float:
        """The larger relative difference of closed and csi, means over layers, from the target's."""
        self._recalibrate(model, state)
        zero = torch.zeros(1, dtype=torch.float64)
        found, aims = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for layer in self.layers:
            openings = self._openings(graph, layer, state, zero)
            found += openings.both(torch.zeros(layer.units, dtype=torch.float64))
            aims += torch.tensor(target[layer.name], dtype=torch.float64)
        return float(((found - aims).abs() / aims.clamp(min=1e-3)).max())

    def _openings(self, graph: Graph, layer: Layer, state: LoopState, grid: Tensor | None = None) -> Openings:
        """What the layer's closed and class means are at every offset of a grid."""
        study = self.given.study
        assert study is not None
        assert study.measurements.selectivity is not None
        settings = study.measurements.selectivity
        source = _relu_input(graph, layer)
        images = self.given.images[settings.split]
        chosen = balanced_indices(images.labels, settings.images)
        forward = graph.capturing([source])

        def batches():
            for tile in tiles(images, chosen, study.data, study.measurements.tile):
                inputs = tile.inputs.to(state.device, memory_format=torch.channels_last)
                values = forward(inputs)[1][source][: tile.valid].movedim(layer.axis, 1)
                yield values.flatten(2), tile.labels[: tile.valid].to(state.device)

        return Openings.of(batches, state.classes, grid)

    def _recalibrate(self, model: nn.Module, state: LoopState) -> None:
        study = self.given.study
        assert study is not None
        settings = study.measurements
        train = self.given.images["train"]
        batches = recalibration_batches(train, settings.batch_norm.images, study.data, settings.tile)
        recalibrate(model, (batch.to(state.device) for batch in batches))

    def _bias(self, graph: Graph, layer: Layer) -> str:
        """Path of the batch norm whose bias shifts what comes before the layer's ReLU.

        Raises:
          ConfigError: there is none.
        """
        node = graph.node(_relu_input(graph, layer) if _is_relu(graph, layer) else layer.node)
        found = _norm_behind(graph, node, layer.units) if _is_relu(graph, layer) else None
        if found is None:
            raise ConfigError(
                f"setting up the intervention {self.name!r}",
                found=f"the layer {layer.name!r} is no ReLU of what a batch norm gives or adds to",
                remedy="Name the stages of such layers (stages)",
            )
        return found


def _is_relu(graph: Graph, layer: Layer) -> bool:
    return layer.node in graph.relus


def _relu_input(graph: Graph, layer: Layer) -> str:
    return graph.node(layer.node).all_input_nodes[0].name


def _norm_behind(graph: Graph, node: fx.Node, units: int) -> str | None:
    """The batch norm that a value is, or is a sum with: of the main branch, whose batch norm comes last."""
    if node.op == "call_module":
        module = graph.submodule(node)
        if isinstance(module, _BatchNorm) and module.affine and module.num_features == units:
            return str(node.target)
        return None
    name = getattr(node.target, "__name__", str(node.target))
    if name not in ("add", "iadd", "add_"):
        return None
    found = filter(None, map(partial(_norm_behind, graph, units=units), node.all_input_nodes))
    return next(found, None)
