"""What penalties on neurons share: loss = CE - alpha * mean over stages of (mean over neurons of an index).

Legend: N images, U neurons of all penalised layers side by side, C classes.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vestige.errors import DataError
from vestige.formulas.selectivity import class_means, csi, eta2
from vestige.models.layers import Layer, pooled
from vestige.training.events import Intervention, LoopState
from vestige.training.runtime import stateless_seed


class ActivationPenalty(Intervention, ABC):
    """A penalty on an index of every neuron, estimated on the batch.

    A batch with fewer than two classes has no index: it adds nothing to the loss.

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: those penalised; every stage among them has the same weight, and every neuron of a stage.
      alpha: below 0 against the index, above 0 for it.
      labels: `true`, or `permuted`: reshuffled within each batch, a function of (seed, step).
    """

    quantities = ("penalty", "csi", "eta2", "closed")

    def __init__(
        self,
        name: str,
        window: tuple[int, int],
        layers: Sequence[Layer],
        *,
        alpha: float,
        labels: Literal["true", "permuted"] = "true",
    ):
        super().__init__(name, window, tuple(layer.node for layer in layers))
        assert alpha != 0, "the builder refuses a penalty without effect"
        assert layers, "the builder refuses a penalty without layers"
        self.layers, self.alpha, self.labels = tuple(layers), alpha, labels
        self._by_stage_U = _share(layers, [layer.stage for layer in layers])
        self._by_layer_U = _share(layers, [layer.name for layer in layers])
        self._logged: dict[str, Tensor | float] = {}

    @abstractmethod
    def index(self, activations_NU: Tensor, labels_N: Tensor, classes: int) -> Tensor:
        """The index of every neuron (U), differentiable in the activations."""

    def penalty(self, state: LoopState) -> Tensor | None:
        """The term added to the loss, a scalar; None where the batch has fewer than two classes."""
        if not bool((state.labels_cpu != state.labels_cpu[0]).any()):
            self._logged = {"penalty": 0.0, "closed": self._closed(state)}
            return None
        with torch.autocast(state.device.type, enabled=False):
            activations_NU = torch.cat([_pool(state.activations[layer.node], layer) for layer in self.layers], 1)
            try:
                index_U = self.index(activations_NU, self._labels(state), state.classes)
                described = self._describe(activations_NU.detach(), state)
            except DataError:  # two classes are there: the activations are NaN, and the loss shall say so
                self._logged = {}
                return activations_NU.sum() * torch.nan
            self._by_stage_U = self._by_stage_U.to(index_U)
            penalty = -self.alpha * (index_U * self._by_stage_U).sum()
            self._logged = {"penalty": penalty.detach(), **described}
        return penalty

    def log(self) -> dict[str, Tensor | float]:
        """Of the batch: the term; csi and eta2 (true labels, class means) and closed, means over layers."""
        return self._logged

    @torch.no_grad()
    def _describe(self, activations_NU: Tensor, state: LoopState) -> dict[str, Tensor | float]:
        self._by_layer_U = self._by_layer_U.to(activations_NU)
        means_CU = class_means(activations_NU, state.labels, state.classes)
        eta2_U = eta2(activations_NU, state.labels, state.classes)
        return {
            "csi": (csi(means_CU) * self._by_layer_U).sum(),
            "eta2": (eta2_U * self._by_layer_U).sum(),
            "closed": self._closed(state),
        }

    @torch.no_grad()
    def _closed(self, state: LoopState) -> Tensor:
        maps = [state.activations[layer.node] for layer in self.layers]
        return torch.stack([1 - m.count_nonzero() / m.numel() for m in maps]).mean()

    def _labels(self, state: LoopState) -> Tensor:
        return state.labels if self.labels == "true" else permuted_labels(state)


def permuted_labels(state: LoopState) -> Tensor:
    """The labels of the batch, reshuffled among its images: a function of (seed, step) only."""
    generator = torch.Generator().manual_seed(stateless_seed("permuted labels", state.seed, state.step))
    order = torch.randperm(len(state.labels_cpu), generator=generator)
    return state.labels_cpu[order].to(state.labels.device)


def _pool(activations: Tensor, layer: Layer) -> Tensor:
    """Spatial means (N, units of the layer), in float32 at least."""
    return pooled(activations, layer.axis, dtype=torch.promote_types(activations.dtype, torch.float32))


def _share(layers: Sequence[Layer], groups: Sequence[str]) -> Tensor:
    """Weights of all neurons that average within each group, then over groups (U, sum 1)."""
    units: Counter[str] = Counter()
    for layer, group in zip(layers, groups, strict=True):
        units[group] += layer.units
    return torch.cat(
        [
            torch.full((layer.units,), 1 / (units[group] * len(units)))
            for layer, group in zip(layers, groups, strict=True)
        ]
    )
