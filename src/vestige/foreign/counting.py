"""How a measurement goes on: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from vestige.study.progress import clock

LINE_SECONDS = 10.0
MEASURING = ("measuring", "images")


class Counting:
    """Counts images over the passes that a command makes; this one shows nothing.

    Args:
      passes: over the images.
      images: of one pass; None where that is not known.
      what: is being done, and to what: `measuring`, `images`.
    """

    def __init__(self, passes: int, images: int | None, what: tuple[str, str] = MEASURING):
        self._passes, self._images, self.what = passes, images, what
        self._told, self._begun = images is None, 0
        self._before = self._now = 0
        self.name = ""

    @property
    def done(self) -> int:
        """Images so far."""
        return self._before + self._now

    @property
    def total(self) -> int | None:
        """Images of all passes; those to come are taken to have as many as this one."""
        if self._images is None:
            return None
        if self._told:
            return self._before + self._images * max(1, 1 + self._passes - self._begun)
        return max(self._passes * self._images, self.done)

    def begin(self, name: str) -> None:
        """Begin a pass."""
        self._before, self._now, self.name = self.done, 0, name
        self._begun += 1

    def at(self, done: int, of: int | None = None) -> None:
        """So many images of this pass are done."""
        if self._told:  # it may turn out to be more
            self._images = of
        self._now = done if of is None else min(done, of)
        self.show()

    def say(self, text: str) -> None:
        """Print one line."""

    def before(self, text: str) -> None:
        """Say what is done before images of this pass begin to go through."""

    def show(self) -> None:
        """Show how far it is."""


class _Bar(Counting):
    def __init__(self, passes: int, images: int | None, what: tuple[str, str], progress: Progress):
        super().__init__(passes, images, what)
        self._progress = progress
        self._task = progress.add_task(what[0], total=self.total)

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def before(self, text: str) -> None:
        self._progress.update(self._task, description=escape(text), refresh=True)

    def show(self) -> None:
        self._progress.update(self._task, completed=self.done, total=self.total, description=escape(self.what[0]))


class _Lines(Counting):
    def __init__(self, passes: int, images: int | None, what: tuple[str, str]):
        super().__init__(passes, images, what)
        self._began = self._said = time.monotonic()
        self._there: int | None = None
        self._ended = False

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def before(self, text: str) -> None:
        self.say(text)

    def show(self) -> None:
        now, total = time.monotonic(), self.total
        if not self.done:  # the rate is that of images, from when they begin to go through
            self._began = self._said = now
        self._there = self.done if self._there is None else self._there  # by a call before this one
        ended = total is not None and self.done >= total
        if self._ended if ended else now - self._said < LINE_SECONDS:
            return
        self._said, self._ended = now, ended
        rate = max(self.done - self._there, 1) / max(now - self._began, 1e-9)
        of = "" if total is None else f"/{total}"
        left = "" if total is None else f", time left {'done' if ended else clock((total - self.done) / rate)}"
        doing, things = self.what
        self.say(f"{doing} {self.done}{of} {things}, {_short(rate)} a second{left}")


class _Count(ProgressColumn):
    def __init__(self, things: str):
        super().__init__()
        self._things = things

    def render(self, task: Task) -> Text:
        of = "" if task.total is None else f"/{task.total:.0f}"
        return Text(f"{task.completed:.0f}{of} {self._things}")


class _Rate(ProgressColumn):
    def __init__(self, things: str):
        super().__init__()
        self._things = things

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{_short(speed)} {self._things}/s" if speed else "")


def _short(rate: float) -> str:
    return f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}"


@contextmanager
def counting(passes: int, images: int | None, *, show: bool, what: tuple[str, str] = MEASURING) -> Iterator[Counting]:
    """Show how the passes go on, on standard error, until the block ends; with `show` false, nothing."""
    console = Console(stderr=True)
    if not show:
        yield Counting(passes, images, what)
        return
    if not console.is_terminal:
        yield _Lines(passes, images, what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(what[1]),
        _Rate(what[1]),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(passes, images, what, progress)
