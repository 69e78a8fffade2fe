"""Clamping: some neurons are held at zero, their layers' activations times a mask."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from vestige.models.layers import Layer
from vestige.training.events import Event, LoopState
from vestige.training.gradients import norm
from vestige.training.interventions.dose import is_due
from vestige.training.interventions.watching import Watching
from vestige.training.runtime import seed_step


class Clamp(Watching):
    """Holds neurons at zero; they get no gradient meanwhile.

    Its dose is the sum of lr * ||gradient of the cross-entropy with - without it||.

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: those with neurons to clamp.
      neurons: by layer name, the indices of its neurons.
    """

    def __init__(
        self, name: str, window: tuple[int, int], layers: Sequence[Layer], *, neurons: Mapping[str, Sequence[int]]
    ):
        super().__init__(name, window, layers, edits=tuple(layer.node for layer in layers))
        self.neurons = {layer: tuple(indices) for layer, indices in neurons.items()}
        self._masks = {layer.node: self._mask(layer) for layer in layers}
        self._norm: Tensor | None = None

    def edit(self, node: str, activation: Tensor) -> Tensor:
        """The activation without these neurons."""
        mask = self._masks[node].to(activation)
        self._masks[node] = mask
        return activation * mask.view(mask.shape[: activation.ndim])

    def on(self, event: Event, state: LoopState) -> None:
        """Look at the gradient now and then, and note the dose."""
        super().on(event, state)
        if event is Event.FORWARD_END:
            self._norm = self._change(state) if is_due(state.step - self.window[0]) else None
        elif event is Event.STEP_END:
            self.dose.add(state.lr, self._norm)

    def _change(self, state: LoopState) -> Tensor:
        """Norm of the difference that it makes to the gradient; buffers and random numbers are as in the step."""
        parameters = [p for p in state.model.parameters() if p.requires_grad]
        with_it = functional.cross_entropy(state.logits, state.labels)
        seed_step(state.device, state.seed, state.step)
        buffers = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
        with state.processes.drawing_apart(state.device, state.seed, state.step):
            logits = functional_call(state.model, buffers, (state.inputs,))
        without = functional.cross_entropy(state.whole(logits), state.labels)
        with torch.autocast(state.device.type, enabled=False):
            clamped = torch.autograd.grad(with_it, parameters, retain_graph=True, allow_unused=True)
            plain = torch.autograd.grad(without, parameters, allow_unused=True)
        pairs = zip(parameters, clamped, plain, strict=True)
        zeros = [[torch.zeros_like(p) if g is None else g for g in (a, b)] for p, a, b in pairs]
        return norm(state.processes.average([a - b for a, b in zeros], parameters))

    def _mask(self, layer: Layer) -> Tensor:
        """1, and 0 for these neurons, along the layer's axis."""
        mask_U = torch.ones(layer.units)
        mask_U[list(self.neurons[layer.name])] = 0.0
        return mask_U.view(*[1] * layer.axis, -1, *[1] * 3)
