"""Sums over the processes of torch.distributed, in losses of people's own training loops."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup


class _Sum(torch.autograd.Function):
    """The sum over processes; so is its gradient, since the sum is part of the loss of each."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.group = group
        return summed(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return summed(gradients[0], ctx.group), None


def joined_sum(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """The differentiable sum over the processes."""
    return _Sum.apply(tensor, group) if is_shared() else tensor  # pyright: ignore[reportReturnType]


def summed(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum over the processes, without a gradient."""
    if not is_shared():
        return tensor
    total = tensor.contiguous().clone()
    distributed.all_reduce(total, group=group)
    return total


def is_shared() -> bool:
    """Whether torch.distributed is at work."""
    return distributed.is_available() and distributed.is_initialized()
