"""What penalties on neurons share: loss = CE - alpha * mean over stages of (mean over neurons of an index).

Legend: N images, U neurons of all penalised layers side by side, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vestige.acting import LabelMode
from vestige.errors import DataError
from vestige.models.layers import Layer
from vestige.training.events import Event, LoopState
from vestige.training.interventions.dose import is_due
from vestige.training.interventions.watching import Watching, weights
from vestige.training.runtime import stateless_seed


class ActivationPenalty(Watching, ABC):
    """A penalty on an index of every neuron, estimated on the batch.

    A batch with fewer than two classes has no index: it adds nothing to the loss.

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: those penalised; every stage among them has the same weight, and every neuron of a stage.
      alpha: below 0 against the index, above 0 for it.
      labels: `true`; `permuted`: reshuffled within each batch, a function of (seed, step); `partition`:
        reshuffled once over the training images, a function of the seed.
      share: the norm of the penalty's gradient is made so large a share of the cross-entropy's; None: as it is.
    """

    quantities = ("penalty", *Watching.quantities)

    def __init__(
        self,
        name: str,
        window: tuple[int, int],
        layers: Sequence[Layer],
        *,
        alpha: float,
        labels: LabelMode = "true",
        share: float | None = None,
    ):
        super().__init__(name, window, layers)
        assert alpha != 0, "the builder refuses a penalty without effect"
        assert layers, "the builder refuses a penalty without layers"
        self.alpha, self.labels, self.share = alpha, labels, share
        self._by_stage_U = weights(layers, [layer.stage for layer in layers])
        self._value: Tensor | float = 0.0
        self._norm: Tensor | None = None
        self._partitioned, self._partition = -1, np.empty(0, dtype=np.int64)

    @abstractmethod
    def index(self, activations_NU: Tensor, labels_N: Tensor, classes: int) -> Tensor:
        """The index of every neuron (U), differentiable in the activations."""

    def is_defined(self, labels_N: Tensor) -> bool:
        """Whether the index is defined for a batch with these labels, which lie on the CPU."""
        return bool((labels_N != labels_N[0]).any())

    def learn(self, state: LoopState, labels_N: Tensor) -> None:
        """Look at a batch for which the index is not defined."""

    def penalty(self, state: LoopState) -> Tensor | None:
        """The term added to the loss, a scalar; None where the index is not defined for the batch."""
        labels_N = self._labels(state)
        self._norm = None
        if not self.is_defined(labels_N):
            self.learn(state, labels_N)
            self._value, self._described = 0.0, self.described(state)
            self._norm = torch.zeros(()) if self.looks(state.step) else None
            return None
        with torch.autocast(state.device.type, enabled=False):
            activations_NU = self.activations(state)
            self._described = self.described(state, activations_NU.detach())
            try:
                index_U = self.index(activations_NU, labels_N.to(state.labels.device), state.classes)
            except DataError:  # two classes are there: the activations are NaN, and the loss shall say so
                return activations_NU.sum() * torch.nan
            self._by_stage_U = self._by_stage_U.to(index_U)
            value = -self.alpha * (index_U * self._by_stage_U).sum()
        self._value = value.detach()
        return value

    def on(self, event: Event, state: LoopState) -> None:
        """The activations are looked at together with the penalty; the dose is noted at the end."""
        if event is Event.STEP_END:
            self.dose.add(state.lr, self._norm)

    def looks(self, step: int) -> bool:
        """Now and then: it costs a backward pass. Where the gradient is rescaled there is one in any case."""
        return self.share is not None or is_due(step - self.window[0])

    def seen(self, norm: Tensor) -> None:
        """Keep it for the dose."""
        self._norm = norm

    def log(self) -> dict[str, Tensor | float]:
        """Of the batch: the term, csi and eta2 (true labels, class means) and closed; the dose so far."""
        return {"penalty": self._value, **super().log()} if self._described else {"dose": self.dose.total}

    def _labels(self, state: LoopState) -> Tensor:
        """The labels that it goes by, on the CPU."""
        if self.labels == "permuted":
            return permuted_labels(state)
        if self.labels == "partition":
            if self._partitioned != state.seed:
                self._partitioned, self._partition = state.seed, partition(state.training_labels, state.seed)
            return torch.from_numpy(self._partition[state.indices])
        return state.labels_cpu


def permuted_labels(state: LoopState) -> Tensor:
    """The labels of the batch, reshuffled among its images: a function of (seed, step) only."""
    generator = torch.Generator().manual_seed(stateless_seed("permuted labels", state.seed, state.step))
    order = torch.randperm(len(state.labels_cpu), generator=generator)
    return state.labels_cpu[order]


def partition(training_labels: np.ndarray, seed: int) -> np.ndarray:
    """Random classes of the training images, as large as the true ones: a function of the seed only."""
    generator = torch.Generator().manual_seed(stateless_seed("partition labels", seed))
    return training_labels[torch.randperm(len(training_labels), generator=generator).numpy()]
