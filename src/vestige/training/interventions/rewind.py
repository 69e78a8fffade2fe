"""Rewinding: at the window's start the weights of some layers become those of an earlier checkpoint again."""

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor

from vestige.errors import ConfigError, StoreError, nearest
from vestige.models.layers import Layer
from vestige.runs.store import RunFolder, read_tensors
from vestige.training.events import Event, LoopState
from vestige.training.gradients import norm
from vestige.training.interventions.watching import Watching


class Rewind(Watching):
    """Restores parameters and buffers of modules, and forgets their momentum, before its first step.

    Its dose is the distance in weights that this moves the network.

    Args:
      name: unique in the run.
      window: its first step counts.
      layers: of which csi, eta2 and closed are logged.
      modules: paths, or patterns of paths, of modules.
      step: of the checkpoint.
      runs: where it is looked for, one after the other.
    """

    def __init__(
        self,
        name: str,
        window: tuple[int, int],
        layers: Sequence[Layer],
        *,
        modules: Sequence[str],
        step: int,
        runs: Sequence[RunFolder] = (),
    ):
        super().__init__(name, window, layers)
        self.modules, self.step, self.runs = tuple(modules), step, tuple(runs)

    def on(self, event: Event, state: LoopState) -> None:
        """Restore before the batch."""
        super().on(event, state)
        if event is Event.RUN_START:
            self._chosen(state)  # an error now, and not in mid-training
        elif event is Event.BATCH_START:
            self._restore(state)

    @torch.no_grad()
    def _restore(self, state: LoopState) -> None:
        kept, moved = self._checkpoint(), []
        for key, tensor in self._chosen(state).items():
            if key not in kept:  # a buffer that is not kept with the weights
                continue
            if tensor.is_floating_point() and isinstance(tensor, torch.nn.Parameter):
                moved.append(tensor - kept[key].to(tensor.device))
                if tensor in state.optimizer.state:
                    state.optimizer.state[tensor].pop("momentum_buffer", None)
            tensor.copy_(kept[key])
        self.dose.add(1.0, norm(moved))

    def _chosen(self, state: LoopState) -> dict[str, Tensor]:
        tensors = dict(state.model.named_parameters()) | dict(state.model.named_buffers())
        chosen: dict[str, Tensor] = {}
        for pattern in self.modules:
            paths = [path for path, _ in state.model.named_modules() if path and fnmatch.fnmatch(path, pattern)]
            found = {key: t for key, t in tensors.items() if any(key.startswith(f"{path}.") for path in paths)}
            if not found:
                raise ConfigError(
                    f"setting up the intervention {self.name!r}",
                    found=f"no module with weights is called {pattern!r}",
                    remedy=nearest(pattern, [path for path, _ in state.model.named_modules() if path]),
                )
            chosen |= found
        return chosen

    def _checkpoint(self) -> dict[str, Tensor]:
        for run in self.runs:
            if run.checkpoint(self.step).exists():
                return read_tensors(run.checkpoint(self.step))[0]
        raise StoreError(
            f"rewinding in the intervention {self.name!r}",
            found=f"there is no checkpoint of step {self.step}",
            remedy="Name a step at which weights are kept (`to`); `vestige status` tells what is there",
        )
