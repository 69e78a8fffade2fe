"""The full state of training: with it, and nothing else, a run goes on as if it had never stopped.

Data order, augmentation, dropout and permuted labels are functions of (seed, step), so that weights, buffers,
momentum, the sums of the running history row, the history so far, the step and what interventions remember are all
there is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vestige.runs.store import damaged, read_tensors, write_tensors
from vestige.training.events import Intervention
from vestige.training.history import Row

STATE_VERSION = 1


@dataclass
class Progress:
    """What of the state is no tensor.

    Attributes:
      step: optimiser steps taken.
      rows: the history so far.
      sums: by quantity, total and weight since the last row: see `history.Meter`.
    """

    step: int = 0
    rows: list[Row] = field(default_factory=list)
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)


def write_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    acting: Sequence[Intervention] = (),
) -> None:
    """Write the full state; the same state gives the same bytes."""
    tensors = {f"parameter.{name}": tensor for name, tensor in model.named_parameters()}
    tensors |= {f"buffer.{name}": tensor for name, tensor in model.named_buffers()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    for one in acting:
        if one.window[0] < progress.step:
            tensors |= {f"intervention.{one.name}.{name}": tensor for name, tensor in one.keep().items()}
    # One entry, for safetensors does not order several.
    write_tensors(path, tensors, {"state": json.dumps({"version": STATE_VERSION, **vars(progress)})})


def read_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, acting: Sequence[Intervention] = ()
) -> Progress:
    """Put a state back into the network and its optimiser, in their memory layout and on their device.

    Raises:
      StoreError: the file is damaged, or is the state of another network; nothing was changed then.
    """
    tensors, metadata = read_tensors(path)
    targets = {f"parameter.{name}": tensor for name, tensor in model.named_parameters()}
    targets |= {f"buffer.{name}": tensor for name, tensor in model.named_buffers()}
    momenta = {name: tensor for name, tensor in tensors.items() if name.startswith("momentum.")}
    others = ("momentum.", "intervention.")
    stored = {name: tensor.shape for name, tensor in tensors.items() if not name.startswith(others)}
    if stored != {name: tensor.shape for name, tensor in targets.items()}:
        raise damaged(path, "it holds the state of another network")
    try:
        content = json.loads(metadata["state"])
        version = content.pop("version")
        progress = Progress(**content)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"its metadata are not a training state: {error}") from error
    if version != STATE_VERSION:
        raise damaged(path, f"it has version {version}, not {STATE_VERSION}")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
        for name, parameter in model.named_parameters():
            if f"momentum.{name}" in momenta:
                buffer = torch.empty_like(parameter).copy_(momenta[f"momentum.{name}"])
                optimizer.state[parameter]["momentum_buffer"] = buffer
    for one in acting:
        if one.window[0] < progress.step:
            prefix = f"intervention.{one.name}."
            one.restore({n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)})
    return progress


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The network's state dict, every tensor with its own memory (safetensors refuses shared)."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
