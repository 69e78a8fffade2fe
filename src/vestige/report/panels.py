"""What a figure shows, told apart from how it is drawn: both the page and the paper are drawn from these."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Place = float | None
"""A coordinate; None where the value is missing (NaN), which leaves a gap."""


@dataclass(frozen=True)
class Curve:
    """A line. `key` names its legend entry; `weight` its part: a mean over seeds, one seed, or an anchor."""

    key: str
    x: Sequence[float]
    y: Sequence[Place]
    weight: Literal["mean", "seed", "anchor"] = "mean"
    note: str = ""


@dataclass(frozen=True)
class Band:
    """The area between two lines."""

    key: str
    x: Sequence[float]
    low: Sequence[Place]
    high: Sequence[Place]
    note: str = ""


@dataclass(frozen=True)
class Points:
    """Single points, each with a text to show under the pointer."""

    key: str
    x: Sequence[float]
    y: Sequence[Place]
    texts: Sequence[str] = ()
    big: bool = False


@dataclass(frozen=True)
class Interval:
    """A horizontal interval with its estimate and the values of single seeds, at height `y` from the top."""

    key: str
    y: int
    estimate: Place
    low: Place
    high: Place
    smallest: Place
    values: Sequence[Place]
    text: str
    verdict: str


@dataclass(frozen=True)
class Heat:
    """A map of values around 0: a row from the top for each name of the y axis, a column for each of the x axis.

    Colours are full at a distance of `reach` from 0.
    """

    key: str
    values: Sequence[Sequence[Place]]
    texts: Sequence[Sequence[str]]
    reach: float


Mark = Curve | Band | Points | Interval | Heat


@dataclass(frozen=True)
class Axis:
    """An axis. `steps`: logarithmic, step 0 a fixed way to the left; `names`: one place for each name."""

    label: str
    kind: Literal["linear", "steps", "names"] = "linear"
    names: tuple[str, ...] = ()
    percent: bool = False
    floor: float | None = None
    ceiling: float | None = None


@dataclass(frozen=True)
class Table:
    """Numbers of a panel, for those who cannot or will not see it. A cell is a text, a number or None."""

    header: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `levels`: horizontal reference lines with their names; `empty`: why nothing is drawn; `dense`:
    rows with names are half as high."""

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...] = ()
    subtitle: str = ""
    levels: tuple[tuple[float, str], ...] = ()
    shade: tuple[float, float] | None = None
    table: Table | None = None
    empty: str = ""
    wide: bool = False
    dense: bool = False


@dataclass(frozen=True)
class Key:
    """A legend entry: what it is called, its colour slot and its dash."""

    name: str
    slot: int
    dash: str = "solid"


@dataclass(frozen=True)
class View:
    """One way to look at a figure: panels under one legend. `file`: its name on paper, if it has one; `slides`: the
    step of each panel, where a slider shows one at a time."""

    name: str
    panels: tuple[Panel, ...]
    keys: tuple[Key, ...] = ()
    file: str = ""
    slides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure with its views.

    Attributes:
      id: F1, ..., and the anchor on the page.
      title, caption: in words.
      alternative: what there is to see, for those who cannot see it.
      views: the first is shown first.
      missing: what is not shown, and why.
      sources: the files of the study it is drawn from.
      table: shown on the page above the drawing.
    """

    id: str
    title: str
    caption: str
    alternative: str
    views: tuple[View, ...]
    missing: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    table: Table | None = None

    @property
    def shown(self) -> bool:
        """Whether any panel has a mark."""
        return any(panel.marks for view in self.views for panel in view.panels)


@dataclass(frozen=True)
class StepScale:
    """Places steps on a logarithmic axis: step 0 at 0, the first step after it at `gap`, then log10."""

    first: int
    last: int
    gap: float = 0.4

    @classmethod
    def of(cls, steps: Iterable[int]) -> "StepScale":
        """The scale that shows all these steps."""
        positive = [step for step in steps if step > 0]
        return cls(min(positive, default=1), max(positive, default=1))

    def __call__(self, step: float) -> float:
        """Where a step lies; between 0 and the first step linearly."""
        if step < self.first:
            return self.gap * step / self.first
        return self.gap + math.log10(step / self.first)

    def ticks(self, most: int = 7) -> list[int]:
        """Step 0, and powers of ten (with 3s or 2s and 5s where those are few)."""
        decades = range(math.floor(math.log10(self.first)), math.ceil(math.log10(self.last)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            steps = [f * 10**d for d in decades if d >= 0 for f in factors if self.first <= f * 10**d <= self.last]
            if len(steps) < most:
                return [0, *steps]
        return [0, *steps]
