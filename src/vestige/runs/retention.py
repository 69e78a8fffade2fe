"""Which checkpoints of a run keep what is too large to keep at all: class means and the inputs that excite neurons."""

import math
from collections.abc import Sequence


def kept_steps(steps: Sequence[int], most: int) -> tuple[int, ...]:
    """At most so many steps: the first and the last, and between them those nearest to equal ratios of the step.

    The rule sees the steps of a schedule alone, so that what other runs or seeds do changes nothing.

    Args:
      steps: of the checkpoints.
      most: 2 or more; 1 keeps the last.
    """
    ordered = sorted(set(steps))
    if most >= len(ordered):
        return tuple(ordered)
    if most == 1:
        return (ordered[-1],)
    inner = [step for step in ordered[1:-1] if step > 0]
    kept = {ordered[0], ordered[-1]}
    low, high = math.log(max(ordered[1], 1)), math.log(ordered[-1])
    for place in range(1, most - 1):
        aim = low + (high - low) * place / (most - 1)
        free = [step for step in inner if step not in kept]
        kept.add(min(free, key=lambda step: (abs(math.log(step) - aim), step)))
    return tuple(sorted(kept))
