"""What every measurement gets: a copy of the model made ready to be looked into, its layers, its classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from vestige.errors import DataError, ModelError
from vestige.formulas.linearity import ROUNDING as ROUNDING_OF_FLOAT64
from vestige.models.eager import Eager
from vestige.models.graph import Graph
from vestige.models.layers import Layer, find_layers
from vestige.models.observing import logits_of, observe

Dtype = Literal["float32", "bfloat16", "float64"]
ROUNDING: Mapping[str, float] = {
    "float32": 8 * torch.finfo(torch.float32).eps,
    "bfloat16": torch.finfo(torch.bfloat16).eps,
    "float64": ROUNDING_OF_FLOAT64,
}
"""Relative to their size, by so much values that should be equal differ; sums within bfloat16 are of float32."""
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Network:
    """A network ready to be measured.

    Args:
      graph: a measurement copy: eval mode, no gradients; traced where that is possible.
      layers: where its neurons are.
      classes: width of its logits, C.
      dtype: that it computes in; "bfloat16" under autocast, the others being what its weights are.
    """

    graph: Graph | Eager
    layers: tuple[Layer, ...]
    classes: int
    dtype: Dtype = "float32"

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        sample: Any,
        layers: Sequence[str | Layer] | None = None,
        *,
        dtype: Dtype = "float32",
    ) -> "Network":
        """Copy a model and name its layers.

        Args:
          model: any classifier; it is left as it is. Batch-norm statistics are used as they stand.
          sample: a few inputs, (N, channels, height, width), or whatever else the model takes.
          layers: see `vestige.models.layers.find_layers`.
          dtype: see the class.

        Raises:
          ModelError: the model cannot take the sample, has no layer, or its output is not (N, classes).
        """
        sample = moved(sample, pattern(model))
        graph = observe(model, sample)
        found = find_layers(graph, sample, layers)
        with torch.no_grad():
            logits = logits_of(graph.observing({})(sample)[0])
        n = len(next(leaf for leaf in tree_leaves(sample) if isinstance(leaf, Tensor)))
        if logits.ndim != 2 or len(logits) != n:
            shapes = [tuple(leaf.shape) for leaf in tree_leaves(sample) if isinstance(leaf, Tensor)]
            raise ModelError(
                f"measuring a {type(model).__name__}",
                found=f"inputs of shape {', '.join(map(str, shapes))} give shape {tuple(logits.shape)}",
                remedy="Give a classifier whose output is one row of logits an input, (N, classes)",
            )
        return cls(graph, found, logits.shape[1], dtype)

    def forward(self, inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a tile of inputs, and the output of each layer by the layer's name."""
        logits, captured = self.captured(inputs, [layer.node for layer in self.layers])
        return logits, {layer.name: captured[layer.node] for layer in self.layers}

    def captured(self, inputs: Any, nodes: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a tile of inputs, and the values of some nodes of the traced network."""
        inputs = self.on_device(inputs)
        with torch.no_grad(), self.autocast(inputs):
            output, captured = self.graph.capturing(nodes)(inputs)
        return logits_of(output), captured

    def reading(
        self, readers: Mapping[str, Callable[[Tensor], _Read]]
    ) -> Callable[[Any], tuple[Tensor, dict[str, _Read]]]:
        """A forward in which readers see the outputs of layers at the moment they are made.

        Args:
          readers: by layer name; they must neither keep nor change what they are given.

        Returns:
          a function of the inputs, giving the logits and what each reader returned by layer name.
        """
        of_node: dict[str, list[str]] = {}  # two layers may read one node, along other axes
        for layer in self.layers:
            if layer.name in readers:
                of_node.setdefault(layer.node, []).append(layer.name)

        def together(names: list[str]) -> Callable[[Tensor], dict[str, _Read]]:
            return lambda activation: {name: readers[name](activation) for name in names}

        forward = self.graph.observing({node: together(names) for node, names in of_node.items()})

        def read(inputs: Any) -> tuple[Tensor, dict[str, _Read]]:
            inputs = self.on_device(inputs)
            with torch.no_grad(), self.autocast(inputs):
                output, found = forward(inputs)
            return logits_of(output), {name: value for each in found.values() for name, value in each.items()}

        return read

    @property
    def device(self) -> torch.device:
        """Where it is."""
        like = pattern(self.graph.module)
        return torch.device("cpu") if like is None else like.device

    @property
    def rounding(self) -> float:
        """Relative differences up to this are of its arithmetic, and not of its inputs."""
        return ROUNDING[self.dtype]

    @property
    def traced(self) -> Graph:
        """The graph, to replay its end.

        Raises:
          ModelError: the network is observed as it runs.
        """
        if isinstance(self.graph, Graph):
            return self.graph
        raise ModelError(
            "replaying the end of a network for ablation",
            found=self.graph.note.rstrip("."),
            remedy="Leave ablation out (measurements.ablation and measurements.cumulative: null)",
        )

    def on_device(self, inputs: Any) -> Any:
        """Inputs where the weights are, floating-point ones in their dtype."""
        return moved(inputs, pattern(self.graph.module))

    def without_relus(self) -> "Network":
        """The anchor of linearity: the same weights and statistics, every ReLU replaced by the identity."""
        return replace(self, graph=self.graph.without_relus())

    def autocast(self, inputs: Any) -> torch.autocast:
        """What its forwards run under."""
        device = next(leaf.device.type for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")


def pattern(model: nn.Module) -> Tensor | None:
    """A floating-point parameter or buffer, which tells the device and the dtype of a model's inputs."""
    return next((t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point()), None)


def moved(inputs: Any, like: Tensor | None) -> Any:
    """Inputs on a tensor's device, floating-point ones in its dtype."""

    def move(leaf: Any) -> Any:
        if like is None or not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(like.device, like.dtype if leaf.is_floating_point() else leaf.dtype)

    return tree_map(move, inputs)


def check_labels(labels_N: Tensor, classes: int, *, doing: str) -> None:
    """Labels must be the model's classes, 0..C-1.

    Raises:
      DataError: there is no label, or one outside 0..C-1.
    """
    if not len(labels_N):
        raise DataError(doing, found="there are no images", remedy="Give at least one image of two classes")
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < 0 or high >= classes:
        raise DataError(
            doing,
            found=f"labels from {low} to {high}, but the model's classes are 0 to {classes - 1}",
            remedy="Use the data that the model was trained for, or map the labels to its class indices",
        )


def check_finite(values: Tensor, where: str, *, doing: str) -> None:
    """Activations must be numbers.

    Raises:
      ModelError: some are NaN or infinite.
    """
    if not values.isfinite().all():
        raise ModelError(
            doing,
            found=f"{where} gives values that are not finite: the network has diverged",
            remedy="Measure an earlier checkpoint, or train with a smaller learning rate",
        )
