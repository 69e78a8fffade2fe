"""The gradient of a step: of the whole loss at once, or of its terms one by one where they are looked at or rescaled.

With `share` s a penalty's gradient g becomes s * ||g_CE|| / ||g|| * g; norms are over all parameters. Where processes
share the batch each gradient is averaged over them before anything else is done with it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from vestige.training.events import Intervention, LoopState

Terms = Sequence[tuple[Intervention, Tensor]]


def backward(state: LoopState, active: Sequence[Intervention], terms: Terms) -> None:
    """Put the gradient of the step into the parameters.

    Looking at a gradient changes no bit of it: only where one is rescaled, or compared with the cross-entropy's, are
    terms computed apart and added.

    Args:
      state: its `cross_entropy` and `loss`; `gradient_norm` is set where an intervention compares.
      active: the interventions of the step.
      terms: the penalties of those that have one.
    """
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    apart = any(one.compares or one.share is not None for one in active)
    own: list[tuple[Intervention, list[Tensor | None]]] = []
    for one, penalty in terms:
        if apart or one.looks(state.step):
            gradient = torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True)
            own.append((one, state.processes.average(gradient, parameters)))
    if not apart:
        state.loss.backward()
        _average(state, parameters)
        for one, gradient in own:
            one.seen(norm(gradient))
        return
    state.cross_entropy.backward()
    _average(state, parameters)
    state.gradient_norm = norm([p.grad for p in parameters])
    for one, gradient in own:
        _add(state, parameters, one, gradient)


def norm(tensors: Sequence[Tensor | None]) -> Tensor:
    """Euclidean norm over all tensors together, float64."""
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return torch.zeros((), dtype=torch.float64)
    return get_total_norm(present).double()


def add_scaled(parameters: Sequence[Tensor], tensors: Sequence[Tensor | None], scale: Tensor) -> None:
    """Add scaled tensors to the parameters' gradients."""
    for parameter, tensor in zip(parameters, tensors, strict=True):
        if tensor is not None:
            change = tensor * scale.to(tensor)
            parameter.grad = change if parameter.grad is None else parameter.grad.add_(change)


def _average(state: LoopState, parameters: Sequence[Tensor]) -> None:
    if state.processes.world > 1:
        averages = state.processes.average([p.grad for p in parameters], parameters)
        for parameter, gradient in zip(parameters, averages, strict=True):
            parameter.grad = gradient


def _add(state: LoopState, parameters: Sequence[Tensor], one: Intervention, gradient: Sequence[Tensor | None]) -> None:
    own = norm(gradient)
    scale = torch.ones_like(own)
    if one.share is not None:  # a gradient of 0 has no direction to be scaled along
        scale = torch.where(own > 0, one.share * state.gradient_norm / own.clamp(min=torch.finfo(own.dtype).tiny), 0.0)
    add_scaled(parameters, gradient, scale)
    one.seen(own * scale)
