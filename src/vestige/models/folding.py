"""Weights as replays want them: batch norms folded in, in one dtype."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_weights


def folded(module: nn.Module, norm: nn.Module | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution or linear layer, with the batch norm behind it folded in."""
    assert isinstance(module, nn.Conv2d | nn.Linear)
    weight, bias = module.weight, module.bias
    if norm is not None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    return weight.detach().to(dtype), None if bias is None else bias.detach().to(dtype)


def scale_and_shift(norm: _BatchNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """y = scale * x + shift of a batch norm in eval mode, (U,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_U = (norm.running_var.double() + norm.eps).rsqrt()
    scale_U = scale_U if norm.weight is None else scale_U * norm.weight.double()
    shift_U = -norm.running_mean.double() * scale_U
    shift_U = shift_U if norm.bias is None else shift_U + norm.bias.double()
    return scale_U.detach().to(dtype), shift_U.detach().to(dtype)


def converted(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with floating-point weights in a dtype; itself where they are."""
    if all(t.dtype == dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()):
        return module
    return copy.deepcopy(module).to(dtype)
