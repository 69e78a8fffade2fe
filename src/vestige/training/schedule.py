"""When things happen in training: learning rate, checkpoints and windows as functions of the optimiser step.

No torch here: planning a study needs these.
"""

import math
from collections.abc import Iterable

from vestige.config import InterventionConfig, RecipeConfig, ScheduleConfig, Window
from vestige.errors import ConfigError


def steps_in_epoch(images: int, batch_size: int) -> int:
    """Optimiser steps an epoch; the last batch may be smaller."""
    return math.ceil(images / batch_size)


def learning_rate(recipe: RecipeConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of the update that leads from `step` to `step + 1`.

    Linear warmup ends at the full rate: (step + 1) / warmup steps. `step`: divided by 10 at the start of each
    of `step_epochs`. `cosine`: from the full rate after warmup to 0 at the end of training.

    References:
      Loshchilov & Hutter 2017 (cosine), https://arxiv.org/abs/1608.03983; Goyal et al. 2017 (warmup),
      https://arxiv.org/abs/1706.02677.
    """
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    if recipe.schedule == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in recipe.step_epochs)
        return recipe.lr / 10**passed
    if recipe.schedule == "cosine":
        share = (step - warmup) / (recipe.epochs * steps_per_epoch - warmup)
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    return recipe.lr


def checkpoint_steps(schedule: ScheduleConfig, steps_per_epoch: int, epochs: int) -> list[int]:
    """The steps at which weights are kept, ascending; step 0 and the last step are always among them.

    Args:
      schedule: how densely.
      steps_per_epoch: optimiser steps an epoch.
      epochs: length of training.
    """
    total = epochs * steps_per_epoch
    steps = {0, total}
    if schedule.log_spaced:
        steps |= _log_spaced(schedule.log_spaced, steps_per_epoch)
    per = schedule.per_young_epoch
    steps |= {round(k * steps_per_epoch / per) for k in range(1, schedule.young_epochs * per + 1)}
    old = range(schedule.young_epochs + 1, epochs + 1)
    steps |= {epoch * steps_per_epoch for epoch in old if epoch % schedule.every_epochs == 0}
    steps |= {epoch * steps_per_epoch for epoch in range(max(epochs - 2, 1), epochs + 1)}
    return sorted(step for step in steps if step <= total)


def window_steps(window: Window, steps_per_epoch: int, total: int) -> tuple[int, int]:
    """The optimiser steps [start, stop) of a window.

    Args:
      window: in steps or epochs (rounded to the nearest step).
      steps_per_epoch: optimiser steps an epoch.
      total: steps of the whole training.

    Raises:
      ConfigError: the window starts or ends after the last step, or holds no step.
    """
    start, stop = window.in_steps(steps_per_epoch, total)
    shown = f"[{window.start:g}, {'end' if window.stop is None else format(window.stop, 'g')}) {window.unit}"
    length = f"training has {total} steps ({total / steps_per_epoch:g} epochs)"
    if start >= total:
        raise ConfigError(
            f"placing the window {shown}",
            found=f"it starts at step {start}, but {length}",
            remedy="Start the window earlier, or train longer (recipe.epochs)",
        )
    if stop > total:
        raise ConfigError(
            f"placing the window {shown}",
            found=f"it ends at step {stop}, but {length}",
            remedy="End it earlier (without `stop`: the end of training), or train longer (recipe.epochs)",
        )
    if stop <= start:
        raise ConfigError(
            f"placing the window {shown}",
            found=f"it holds no step: it starts at step {start} and ends at step {stop}",
            remedy=f"Make it longer: an epoch has {steps_per_epoch} steps",
        )
    return start, stop


def acting_steps(intervention: InterventionConfig, steps_per_epoch: int, total: int) -> tuple[int, int]:
    """The optimiser steps [start, stop) at which an intervention changes something; its window, but for some kinds.

    Raises:
      ConfigError: see `window_steps`.
    """
    return intervention.acting(window_steps(intervention.window, steps_per_epoch, total))


def onset(interventions: Iterable[InterventionConfig], steps_per_epoch: int, total: int) -> int | None:
    """The first step at which any intervention acts (until then the run is its baseline); None without any.

    Raises:
      ConfigError: a window does not lie within training.
    """
    starts = [acting_steps(one, steps_per_epoch, total)[0] for one in interventions]
    return min(starts, default=None)


def _log_spaced(count: int, last: int) -> set[int]:
    """Up to `count` whole numbers 1, ..., `last`, evenly spaced in their logarithm."""
    if count == 1:
        return {1}
    return {round(last ** (k / (count - 1))) for k in range(count)}
