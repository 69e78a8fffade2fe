"""The dose of an intervention: the sum over its steps of learning rate times the norm of what it adds to the gradient.

A norm that costs a backward pass of its own is looked at in the first four steps of a window, then ever more rarely,
in the end every 64th step; between two looks it counts as the mean of both.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

DENSE = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
SPARSE = 64


def is_due(step: int) -> bool:
    """Whether the norm is looked at, so many steps after a window's start."""
    return step in DENSE or (step >= DENSE[-1] and step % SPARSE == 0)


class Dose:
    """Adds up; exact where the norm is looked at in every step."""

    def __init__(self):
        self._settled: Tensor | float = 0.0
        self._norm: Tensor | float = 0.0
        self._rates, self._steps = 0.0, 0

    def add(self, lr: float, norm: Tensor | None) -> None:
        """Add a step.

        Args:
          lr: its learning rate.
          norm: of what was added to the gradient; None where it was not looked at.
        """
        if norm is not None:
            norm = norm.detach().double().nan_to_num(0.0, 0.0, 0.0)  # a run that diverges still tells its dose
            between = (self._norm + norm) / 2 if self._steps > 1 else self._norm
            self._settled = self._settled + self._rates * between
            self._norm, self._rates, self._steps = norm, 0.0, 0
        self._rates, self._steps = self._rates + lr, self._steps + 1

    @property
    def total(self) -> Tensor | float:
        """The dose so far."""
        return self._settled + self._rates * self._norm

    def keep(self) -> Tensor:
        """All of it, float64."""
        return torch.tensor([float(self._settled), float(self._norm), self._rates, self._steps], dtype=torch.float64)

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Take up `keep`, under the name `dose`; where a run goes on that did not keep it, the dose is not known."""
        values = kept["dose"].tolist() if "dose" in kept else [float("nan"), 0.0, 0.0, 0.0]
        self._settled, self._norm, self._rates = values[:3]
        self._steps = int(values[3])
