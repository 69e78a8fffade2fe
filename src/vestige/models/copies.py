"""The copy of a network that is measured: unwrapped, in eval mode, without gradients; the network is left as it is."""

import copy

import torch
from torch import nn

from vestige.errors import ModelError


def measurement_copy(model: nn.Module) -> nn.Module:
    """A copy of a network, made for measuring.

    Raises:
      ModelError: it cannot be copied.
    """
    model = unwrapped(model)
    try:
        with torch.no_grad():  # a scripted module's copy would be computed from it
            copied = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"copying a {type(model).__name__} to measure it",
            found=f"{type(error).__name__}: {error}",
            remedy="Give a model that copy.deepcopy can copy",
        ) from error
    for parameter in copied.parameters():
        parameter.grad = None
        parameter.requires_grad = False
    return copied.eval()


def laid_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Give parameters and buffers a memory format, in place, those of four axes: it is of no others."""

    def lay(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(memory_format=memory_format) if tensor.ndim == 4 else tensor

    module._apply(lay)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile and (distributed) data parallel wrappers."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
