"""Which of the processes of `torch.distributed` this one is."""

from dataclasses import dataclass
from typing import Self

from torch import distributed


@dataclass(frozen=True)
class Ranks:
    """Processes that share some work.

    Attributes:
      rank: of this process, from 0.
      world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Self:
        """All processes of torch.distributed where it is initialised; else this one alone."""
        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()
