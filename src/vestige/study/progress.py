"""How the work goes on: bars with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vestige.errors import VestigeError
from vestige.study.execute import Listener
from vestige.study.plan import Plan, Unit

Stage = Literal["train", "measure"]
AMOUNTS = {"train": "steps", "measure": "checkpoints"}
LINE_SECONDS = 10.0


class _Counting(Listener, ABC):
    """Adds up how much of each stage is done: training in steps, measuring in checkpoints."""

    def __init__(self, plan: Plan, units: Sequence[Unit]):
        self._plan = plan
        self._share: dict[Unit, float] = {}
        self.totals = {"train": 0.0, "measure": 0.0}
        for unit in units:
            self.totals[_stage(unit)] += self._size(unit)
        self.done = dict.fromkeys(self.totals, 0.0)
        self._said_waiting = False

    def advanced(self, unit: Unit, done: int, total: int) -> None:
        self._set(unit, done / total if total else 1.0)

    def finished(self, unit: Unit) -> None:
        self._set(unit, 1.0)

    def failed(self, unit: Unit, error: VestigeError) -> None:
        self.say(f"failed: {unit.name} ({type(error).__name__}); the other runs go on")

    def waiting(self, unit: Unit) -> None:
        if not self._said_waiting:
            self._said_waiting = True
            self.say(f"another vestige is at work on this study (now on {unit.name}); sharing the work with it")

    @abstractmethod
    def say(self, text: str) -> None:
        """Print one line."""

    @abstractmethod
    def show(self, stage: str) -> None:
        """Show how far a stage is."""

    def _size(self, unit: Unit) -> float:
        if unit.step is not None:
            return 1.0
        begun = self._plan.onset(unit.condition) if self._plan.parent(unit.condition) else 0
        return self._plan.total_steps - begun

    def _set(self, unit: Unit, share: float) -> None:
        gained = max(0.0, share - self._share.get(unit, 0.0))
        self._share[unit] = max(share, self._share.get(unit, 0.0))
        self.done[_stage(unit)] += gained * self._size(unit)
        self.show(_stage(unit))


class _Bars(_Counting):
    def __init__(self, plan: Plan, units: Sequence[Unit], progress: Progress):
        super().__init__(plan, units)
        self._progress = progress
        self._tasks = {
            stage: progress.add_task(
                {"train": "training", "measure": "measuring"}[stage], total=total, amount=AMOUNTS[stage]
            )
            for stage, total in self.totals.items()
            if total
        }

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def show(self, stage: str) -> None:
        self._progress.update(self._tasks[stage], completed=self.done[stage])


class _Lines(_Counting):
    def __init__(self, plan: Plan, units: Sequence[Unit]):
        super().__init__(plan, units)
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(self, stage: str) -> None:
        now = time.monotonic()
        began = self._began.setdefault(stage, now)
        done, total = self.done[stage], self.totals[stage]
        ended = done >= total - 1e-6
        if not ended and now - self._said.get(stage, began) < LINE_SECONDS:
            return
        self._said[stage] = now
        rate = done / max(now - began, 1e-9)
        left = clock((total - done) / rate) if rate and not ended else "done"
        name = {"train": "training", "measure": "measuring"}[stage]
        self.say(f"{name} {done:.0f}/{total:.0f} {AMOUNTS[stage]}, {rate:.3g} a second, time left {left}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} {task.fields['amount']}/s" if speed else "")


@contextmanager
def showing(plan: Plan, units: Sequence[Unit]) -> Iterator[Listener]:
    """Show how the given units go on, on standard error, until the block ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(plan, units)
        return
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[amount]}"),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(plan, units, progress)


def _stage(unit: Unit) -> Stage:
    return "train" if unit.step is None else "measure"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, `1:02:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
