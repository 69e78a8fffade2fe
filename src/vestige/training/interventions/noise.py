"""A random gradient: n * s * ||g_CE|| / ||n|| is added at each step, n normal over all parameters, s the share."""

from collections.abc import Sequence

import torch

from vestige.models.layers import Layer
from vestige.training.events import Event, LoopState
from vestige.training.gradients import add_scaled, norm
from vestige.training.interventions.watching import Watching
from vestige.training.runtime import stateless_seed


class Noise(Watching):
    """Noise of a share of the norm of the cross-entropy's gradient: a function of (seed, step).

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: of which csi, eta2 and closed are logged.
      share: of the norm.
    """

    compares = True

    def __init__(self, name: str, window: tuple[int, int], layers: Sequence[Layer], *, share: float):
        super().__init__(name, window, layers)
        self.noise_share = share

    def on(self, event: Event, state: LoopState) -> None:
        """Add the noise after the backward pass."""
        super().on(event, state)
        if event is not Event.BACKWARD_END:
            return
        generator = torch.Generator(state.device).manual_seed(stateless_seed(self.name, state.seed, state.step))
        parameters = [p for p in state.model.parameters() if p.requires_grad]
        noise = [torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype) for p in parameters]
        size = self.noise_share * state.gradient_norm
        add_scaled(parameters, noise, size / norm(noise))
        self.dose.add(state.lr, size)
