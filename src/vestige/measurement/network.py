"""What every measurement gets: a traced copy of the model, its layers, its classes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vestige.errors import DataError, ModelError
from vestige.models.graph import Graph
from vestige.models.layers import Layer, find_layers


@dataclass(frozen=True)
class Network:
    """A network ready to be measured.

    Args:
      graph: a measurement copy: eval mode, no in-place ReLU, no gradients.
      layers: where its neurons are.
      classes: width of its logits, C.
    """

    graph: Graph
    layers: tuple[Layer, ...]
    classes: int

    @classmethod
    def prepare(cls, model: nn.Module, sample: Tensor) -> "Network":
        """Trace a copy of a model and name its layers.

        Args:
          model: any classifier; it is left as it is. Batch-norm statistics are used as they stand.
          sample: a few inputs, (N, channels, height, width).

        Raises:
          ModelError: the model cannot be traced, cannot take the sample, has no layer, or its output is not
            (N, classes).
        """
        graph = Graph.trace(model)
        layers = find_layers(graph, sample)
        with torch.no_grad():
            logits = graph.module(sample)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(sample):
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"measuring a {type(model).__name__}",
                found=f"inputs of shape {tuple(sample.shape)} give {found}",
                remedy="Give a classifier whose output is one row of logits an input, (N, classes)",
            )
        return cls(graph, layers, logits.shape[1])

    def forward(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a tile of inputs, and the output of each layer by the layer's name."""
        device = next((p.device for p in self.graph.module.parameters()), inputs.device)
        nodes = [layer.node for layer in self.layers]
        with torch.no_grad():
            logits, captured = self.graph.capturing(nodes)(inputs.to(device))
        return logits, {layer.name: captured[layer.node] for layer in self.layers}

    def without_relus(self) -> "Network":
        """The anchor of linearity: the same weights and statistics, every ReLU replaced by the identity."""
        return replace(self, graph=self.graph.without_relus())


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
