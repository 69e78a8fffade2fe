"""The processes of `torchrun`: joining them, and what the first of them has or all of them say."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed


@contextmanager
def joined(device: torch.device) -> Iterator[bool]:
    """Join the processes of `torchrun`, where it started this one; yields whether this is the first of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        yield world() == 1 or distributed.get_rank() == 0
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield distributed.get_rank() == 0
    finally:
        distributed.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own_device(name: str) -> str:
    """The device of this process: under `torchrun` a GPU of its own."""
    if name in ("auto", "cuda") and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return name


def from_first(value: Any) -> Any:
    """What the first process has."""
    if world() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def of_all(lines: Sequence[str]) -> list[str]:
    """The lines of all processes, each once."""
    if world() == 1:
        return list(lines)
    parts: list[Any] = [None] * world()
    distributed.all_gather_object(parts, list(lines))
    return sorted({line for part in parts for line in part})
