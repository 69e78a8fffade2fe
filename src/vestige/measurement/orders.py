"""The order in which a user's DataLoader reads, where it is fixed, and how processes share it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from vestige.errors import DataError
from vestige.measurement.pairs import DOING

DROPS_LAST = "the DataLoader leaves out its last {} inputs (drop_last=True): they are not measured"
DRAWN = (
    "the DataLoader's order is drawn by its {}: which images fall into which half, or are chosen, follows that order, "
    "and changes from run to run unless it is seeded"
)
SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


@dataclass(frozen=True)
class IndexLists:
    """The indices of each batch, in order.

    Attributes:
      lists: one list a batch.
    """

    lists: list[list[int]]

    @cached_property
    def starts(self) -> np.ndarray:
        """Place in evaluation order of the first input of each batch."""
        return np.cumsum([0, *map(len, self.lists)])[:-1]

    @cached_property
    def order(self) -> np.ndarray:
        """Indices of all inputs in evaluation order, int64."""
        return np.array([i for part in self.lists for i in part], dtype=np.int64)

    @property
    def length(self) -> int:
        """How many inputs there are."""
        return sum(map(len, self.lists))

    def of(self, share: tuple[int, int]) -> list[list[int]]:
        """The batches of one process."""
        return self.lists[share[0] :: share[1]]


def check_not_shared(loader: DataLoader) -> None:
    """A loader may not itself share the data out among processes: such samplers repeat inputs to make shares even.

    Raises:
      DataError: its sampler does.
    """
    inner = getattr(loader.batch_sampler, "sampler", None)
    for sampler in (loader.sampler, loader.batch_sampler, inner):
        processes = getattr(sampler, "num_replicas", None) or getattr(sampler, "num_processes", None) or 1
        if isinstance(processes, int) and processes > 1:
            raise DataError(
                DOING,
                found=f"the DataLoader's {type(sampler).__name__} shares the data out among {processes} processes, "
                "and repeats inputs to make the shares even",
                remedy="Give the DataLoader without it (shuffle=False): vestige shares the batches out itself",
            )


def fixed_order(loader: DataLoader) -> tuple[IndexLists | None, tuple[str, ...]]:
    """The batches of a map-style loader, or None where their order may change; and what must be said of them."""
    sampler, batch_sampler = loader.sampler, loader.batch_sampler
    plain, notes = type(batch_sampler) is BatchSampler, ()
    if isinstance(batch_sampler, BatchSampler) and batch_sampler.drop_last and hasattr(sampler, "__len__"):
        dropped = len(sampler) % batch_sampler.batch_size  # pyright: ignore[reportArgumentType]
        notes = (DROPS_LAST.format(dropped),) if dropped else ()
    listed = isinstance(sampler, list | tuple | range | np.ndarray)
    if isinstance(batch_sampler, list | tuple) or (plain and (type(sampler) is SequentialSampler or listed)):
        return _lists(batch_sampler), notes
    return None, (*notes, DRAWN.format(type(sampler if plain else batch_sampler).__name__))


def same_order_everywhere(loader: DataLoader) -> IndexLists:
    """The batches of a loader with a sampler of the user's, for several processes, which must draw the same.

    Raises:
      DataError: it shuffles.
    """
    first = _lists(loader.batch_sampler)
    if isinstance(loader.sampler, SHUFFLING) or _lists(loader.batch_sampler).lists != first.lists:
        plain = type(loader.batch_sampler) is BatchSampler
        raise DataError(
            DOING,
            found=f"the DataLoader's {type(loader.sampler if plain else loader.batch_sampler).__name__} shuffles: "
            "each process would read other inputs, some twice and some never",
            remedy="Give a DataLoader with shuffle=False",
        )
    return first


def _lists(batch_sampler: Any) -> IndexLists:
    return IndexLists([[int(i) for i in part] for part in batch_sampler])
