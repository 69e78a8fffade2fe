"""Rewinding: at the window's start the weights of some layers become those of an earlier checkpoint again."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vestige.errors import ConfigError, nearest
from vestige.models.layers import Layer
from vestige.runs.manifest import checked_weights
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
      run: whose it is; None where the intervention is only looked at.
      own: whether the run makes it itself, before the window: else it is there when training begins.

    Raises:
      StoreError: at the run's start, or where it is its own at the window's: the checkpoint is gone, or another than
        was written.
    """

    def __init__(
        self,
        name: str,
        window: tuple[int, int],
        layers: Sequence[Layer],
        *,
        modules: Sequence[str],
        step: int,
        run: RunFolder | None = None,
        own: bool = True,
    ):
        super().__init__(name, window, layers)
        self.modules, self.step, self.run, self.own = tuple(modules), step, run, own

    def on(self, event: Event, state: LoopState) -> None:
        """Restore before the batch."""
        super().on(event, state)
        if event is Event.RUN_START:
            self._chosen(state)  # an error now, and not in mid-training
            if not self.own:
                self._checkpoint()
        elif event is Event.BATCH_START:
            self._restore(state)

    @torch.no_grad()
    def _restore(self, state: LoopState) -> None:
        kept, moved = read_tensors(self._checkpoint())[0], []
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

    def _checkpoint(self) -> Path:
        """Where it is: whole, by its hash."""
        assert self.run is not None, "a run that is trained has a folder"
        return checked_weights(self.run, self.step)
