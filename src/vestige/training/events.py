"""The training loop, drawn once, and the events at which interventions hook into it::

    RUN_START
    for step in range(start, total):
        inputs, labels, lr = functions of (seed, step)
        BATCH_START
        logits = model(inputs)                    # and the activations that active interventions ask for or edit
        FORWARD_END
        loss = cross_entropy(logits, labels) + sum of the active interventions' penalties
        LOSS_END
        gradients = backward(loss)                # or of its terms one by one: see `gradients`
        BACKWARD_END
        weights = sgd(weights, gradients, lr)
        STEP_END                                  # state.step still names the step that was just taken
        if step + 1 is planned: evaluate, keep weights, state and history; CHECKPOINT
    RUN_END

Within a step an intervention hears events only while its window is open; `RUN_START`, `CHECKPOINT` and
`RUN_END` always.

Where processes share a run, `inputs` and `activations` are of this process's part of the batch; all else is of the
whole batch, from `BACKWARD_END` on the gradients too: see `processes`. For an empty part `activations` have no rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto

import numpy as np
import torch
from torch import Tensor, nn

from vestige.training.processes import Processes


class Event(StrEnum):
    """A named place in the loop."""

    RUN_START = auto()
    BATCH_START = auto()
    FORWARD_END = auto()
    LOSS_END = auto()
    BACKWARD_END = auto()
    STEP_END = auto()
    CHECKPOINT = auto()
    RUN_END = auto()


@dataclass
class LoopState:
    """What stands at an event; every hook may read it, and change what it documents to change.

    Attributes:
      model: the network, in train mode.
      optimizer: its optimiser.
      device: where both live.
      seed: of the run.
      classes: C, outputs of the network.
      steps_per_epoch: optimiser steps an epoch.
      step: optimiser steps taken before this one.
      lr: learning rate of this step; at `BATCH_START` it may be changed.
      inputs: N x channels x height x width; where processes share the batch those of one's part, or any one where that
        is empty.
      labels: N class indices.
      labels_cpu: the same, where looking at them does not wait for the device.
      indices: of the N images in the training set.
      training_labels: of the whole training set.
      logits: N x C.
      activations: by fx node, the layers that an active intervention asked for; empty where none is active.
      cross_entropy: the scalar without penalties.
      loss: the scalar that is minimised.
      gradient_norm: of the cross-entropy's gradient over all parameters; only in a step in which an active
        intervention `compares`.
      processes: those that share the run.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    seed: int
    classes: int
    steps_per_epoch: int
    step: int = 0
    lr: float = 0.0
    inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    labels_cpu: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    indices: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    training_labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    activations: dict[str, Tensor] = field(default_factory=dict)
    cross_entropy: Tensor = field(default_factory=lambda: torch.zeros(()))
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    gradient_norm: Tensor = field(default_factory=lambda: torch.zeros(()))
    processes: Processes = field(default_factory=Processes)

    def whole(self, rows: Tensor) -> Tensor:
        """The rows of all N images from those of this process's part; differentiable."""
        return self.processes.whole(rows, len(self.labels))

    @property
    def epoch(self) -> float:
        """Epochs of training before this step."""
        return self.step / self.steps_per_epoch


class Intervention:
    """Something that acts on training within a window of steps.

    Args:
      name: unique in the run; prefix of its history columns.
      window: steps [start, stop) in which it acts.
      nodes: fx nodes whose activations it needs while it acts.
      edits: fx nodes whose activations it replaces while it acts, by `edit`.

    Attributes:
      share: the norm of its penalty's gradient is made so large a share of the cross-entropy's; None: as it is.
      compares: whether it needs the norm of the cross-entropy's gradient, `state.gradient_norm`, at `BACKWARD_END`.
    """

    quantities: tuple[str, ...] = ()
    """What it logs."""
    cumulative: tuple[str, ...] = ()
    """Those of which the history has the value at a row, and not the mean since the row before."""
    share: float | None = None
    compares: bool = False

    def __init__(self, name: str, window: tuple[int, int], nodes: tuple[str, ...] = (), edits: tuple[str, ...] = ()):
        self.name, self.window, self.nodes, self.edits = name, window, nodes, edits

    def active(self, step: int) -> bool:
        """Whether it acts on the update from `step` to `step + 1`."""
        return self.window[0] <= step < self.window[1]

    def on(self, event: Event, state: LoopState) -> None:
        """Hear an event; most interventions only give a penalty."""

    def edit(self, node: str, activation: Tensor) -> Tensor:  # noqa: ARG002
        """What stands in the place of a node's activation."""
        return activation

    def penalty(self, state: LoopState) -> Tensor | None:  # noqa: ARG002
        """The scalar added to the loss of this batch; None for an intervention that has none.

        It is that of the whole batch, in every process the same: activations are joined by `state.whole`.
        """
        return None

    def looks(self, step: int) -> bool:  # noqa: ARG002
        """Whether, at this step, it wants to know the norm of its penalty's gradient."""
        return False

    def seen(self, norm: Tensor) -> None:
        """Hear the norm of its penalty's gradient, as it is added to the cross-entropy's, before `BACKWARD_END`."""

    def log(self) -> dict[str, Tensor | float]:
        """Scalars of the last batch; the history has their means over the steps since a row."""
        return {}

    def keep(self) -> dict[str, Tensor]:
        """What it must remember for an interrupted run to go on as if it had not been; CPU tensors by name."""
        return {}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Take up what `keep` gave; empty where a run goes on whose state was kept before this was remembered."""
