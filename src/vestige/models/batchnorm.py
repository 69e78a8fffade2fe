"""Recomputing batch-norm statistics: the average over batches of each batch's mean and unbiased variance."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from vestige.errors import ModelError
from vestige.models.operations import call, own

_FUNCTIONS = (functional.batch_norm, torch.batch_norm)


def recalibrate(module: nn.Module, batches: Iterable[Any]) -> None:
    """Recompute the running statistics of every batch norm as a cumulative average.

    Every batch counts the same, so they should be of nearly equal size. Only the batch norms are in train
    mode meanwhile; modes and momenta are put back. Nothing happens where there is no batch norm that keeps
    statistics; one that the forward does not reach keeps its own.

    Args:
      module: changed in place.
      batches: inputs, on the device of the module: tensors; tuples or lists of arguments; dicts of named ones.

    Raises:
      ModelError: there are no batches, one is too small for a variance, or tracing has looked into a batch
        norm and fixed its mode; the statistics are as they were.
    """
    if isinstance(module, fx.GraphModule) and any(n.target in _FUNCTIONS for n in module.graph.nodes):
        found = "the traced model normalises by a function, fixed in the mode it was traced in"
        raise _unusable(found, "Recompute them in the model before it is traced")
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    modes = [(m, m.training) for m in module.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    done = 0
    try:
        module.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative
            norm.training = True  # it alone: timm's hold dropout
        with torch.no_grad():
            for inputs in batches:
                call(module, own(inputs))
                done += 1
        if not done:
            raise _unusable("there are no images", "Give at least one batch")
    except BaseException as error:
        for norm, buffers in zip(norms, before, strict=True):
            _put_back(norm, buffers)
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            found = "a batch gives a channel a single value, which has no variance"
            raise _unusable(found, "Give more images, or larger batches") from error
        raise
    finally:
        for m, mode in modes:
            m.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for norm, buffers in zip(norms, before, strict=True):
        if not norm.num_batches_tracked:
            _put_back(norm, buffers)


def _unusable(found: str, remedy: str) -> ModelError:
    return ModelError("recomputing batch-norm statistics", found=found, remedy=remedy)


def _put_back(norm: _BatchNorm, buffers: dict[str, Tensor]) -> None:
    for name, buffer in norm.named_buffers():
        buffer.copy_(buffers[name])
