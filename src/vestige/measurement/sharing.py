"""One measurement shared out among the processes of `torchrun`: each reads its own batches, all get the same result."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from vestige.ranks import Ranks

_Thing = TypeVar("_Thing")


class Group(Ranks):
    """The processes that share a measurement."""

    def gather(self, thing: _Thing) -> list[_Thing]:
        """What every process gives, in the order of their ranks; each must call it equally often."""
        if self.world == 1:
            return [thing]
        things: list[Any] = [None] * self.world
        distributed.all_gather_object(things, thing)
        return things

    def rows_at(self, owner: int, rows: Tensor) -> Tensor | None:
        """The rows of all processes, one rank's behind the other's, at one of them; None at the others."""
        if self.world == 1:
            return rows
        parts: list[Any] | None = [None] * self.world if self.rank == owner else None
        distributed.gather_object(rows.numpy(), parts, dst=owner)
        return None if parts is None else torch.cat([torch.from_numpy(part) for part in parts])

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each of some CPU tensors by its sum over the processes."""
        if self.world == 1:
            return
        device = torch.device("cuda") if distributed.get_backend() == "nccl" else torch.device("cpu")
        for tensor in tensors:
            moved = tensor.to(device)
            distributed.all_reduce(moved)
            tensor.copy_(moved)
