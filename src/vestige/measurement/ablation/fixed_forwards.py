"""Replays cut into forwards of one fixed size, and how they did put together again.

Shapes: R replays, P of them in one forward.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vestige.formulas.effects import Outcomes, outcomes


def affordable(bytes_each: int, budget: int, fewest: int, most: int) -> int:
    """P: the power of two whose largest activations stay within a budget, between a fewest and a most.

    It follows from these and the shapes alone, never from the memory there is: the last bits of numbers depend on it.
    """
    fitting = max(1, budget // bytes_each)
    return min(max(1 << (fitting.bit_length() - 1), fewest), most)


def forwards(replays: int, rows: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Which of R replays each forward is for, and the places of its P rows: the last is filled up with its last."""
    for start in range(0, replays, rows):
        places_P = torch.arange(start, start + rows, device=device).clamp(max=replays - 1)
        yield slice(start, min(start + rows, replays)), places_P


def how_they_did(logits: Iterable[Tensor], labels_R: Tensor) -> Outcomes:
    """Outcomes of R replays: `loss` float64 and `correct`, (R,).

    Args:
      logits: of successive replays, without those that fill up.
      labels_R: of all.
    """
    parts, done = [], 0
    for logits_PC in logits:
        parts.append(outcomes(logits_PC, labels_R[done : done + len(logits_PC)]))
        done += len(logits_PC)
    if not parts:
        parts = [outcomes(labels_R.new_zeros((0, 1), dtype=torch.float32), labels_R[:0])]
    return Outcomes(*(torch.cat(column) for column in zip(*parts, strict=True)))
