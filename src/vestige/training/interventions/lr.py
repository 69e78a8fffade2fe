"""Another learning rate within the window: the schedule's times a factor."""

from collections.abc import Sequence

from vestige.models.layers import Layer
from vestige.training.events import Event, LoopState
from vestige.training.gradients import norm
from vestige.training.interventions.watching import Watching


class LearningRate(Watching):
    """lr = factor * scheduled lr. Its dose is the sum of |lr - scheduled lr| * ||gradient||.

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: of which csi, eta2 and closed are logged.
      factor: not 1.
    """

    def __init__(self, name: str, window: tuple[int, int], layers: Sequence[Layer], *, factor: float):
        super().__init__(name, window, layers)
        self.factor, self._change = factor, 0.0

    def on(self, event: Event, state: LoopState) -> None:
        """Change the rate before the step; note what that came to after the backward pass."""
        super().on(event, state)
        if event is Event.BATCH_START:
            scheduled = state.lr
            state.lr = scheduled * self.factor
            self._change = abs(state.lr - scheduled)
        elif event is Event.BACKWARD_END:
            self.dose.add(self._change, norm([p.grad for p in state.model.parameters()]))
