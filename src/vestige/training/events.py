"""The training loop, drawn once, and the events at which interventions hook into it.

    RUN_START
    for step in range(start, total):
        inputs, labels, lr = functions of (seed, step)
        BATCH_START
        logits = model(inputs)                    # and the activations that active interventions ask for
        FORWARD_END
        loss = cross_entropy(logits, labels) + sum of the active interventions' penalties
        LOSS_END
        gradients = backward(loss)
        BACKWARD_END
        weights = sgd(weights, gradients, lr)
        STEP_END                                  # state.step still names the step that was just taken
        if step + 1 is planned: evaluate, keep weights, state and history; CHECKPOINT
    RUN_END

Within a step an intervention hears events only while its window is open; `RUN_START`, `CHECKPOINT` and
`RUN_END` always.
"""

from dataclasses import dataclass, field
from enum import StrEnum, auto

import torch
from torch import Tensor, nn


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
      lr: learning rate of this step.
      inputs: N x channels x height x width.
      labels: N class indices.
      labels_cpu: the same, where looking at them does not wait for the device.
      logits: N x C.
      activations: by fx node, the layers that an active intervention asked for; empty where none is active.
      cross_entropy: the scalar without penalties.
      loss: the scalar that is minimised.
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
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    activations: dict[str, Tensor] = field(default_factory=dict)
    cross_entropy: Tensor = field(default_factory=lambda: torch.zeros(()))
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))

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
    """

    quantities: tuple[str, ...] = ()
    """What it logs."""

    def __init__(self, name: str, window: tuple[int, int], nodes: tuple[str, ...] = ()):
        self.name, self.window, self.nodes = name, window, nodes

    def active(self, step: int) -> bool:
        """Whether it acts on the update from `step` to `step + 1`."""
        return self.window[0] <= step < self.window[1]

    def on(self, event: Event, state: LoopState) -> None:
        """Hear an event; most interventions only give a penalty."""

    def penalty(self, state: LoopState) -> Tensor | None:  # noqa: ARG002
        """The scalar added to the loss of this batch; None for an intervention that has none."""
        return None

    def log(self) -> dict[str, Tensor | float]:
        """Scalars of the last batch; the history has their means over the steps since a row."""
        return {}
