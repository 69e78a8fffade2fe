"""The words that claims are written in: verdicts, directions, units, clauses."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What may be said of a clause or a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NOT_SUPPORTED = "not supported"
    INCONCLUSIVE = "inconclusive"
    FEW_SEEDS = "fewer than 3 seeds"
    NOT_MEASURED = "not measured"


class Direction(StrEnum):
    """How a clause compares its statistic with its smallest effect d."""

    AT_LEAST = "at least"
    """95% interval above 0 and estimate >= d."""
    SURELY_AT_LEAST = "surely at least"
    """Lower end of the 95% interval >= d."""
    BELOW = "below"
    """One-sided 95% upper end < d: no harm that matters."""


class Unit(StrEnum):
    """What a statistic is measured in."""

    LN_RATIO = "ln ratio"
    """A natural logarithm: e to its power says how many times as large."""
    CSI = "csi_cv"
    AREA = "area"
    SHARE = "share"
    ACCURACY = "accuracy"
    """Share of images, 0 to 1; 0.01 is one point."""
    STEPS = "steps"


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One comparison of one statistic.

    Attributes:
      id: the claim's and its own, `C1.rise`.
      statistic: its formula, one number a seed.
      unit: of the statistic and of `smallest_effect`; of a study's own clause it may be any word, or empty.
      direction: see `Direction`.
      smallest_effect: d.
      sentence: what the estimate says; `{}` is replaced by the estimate with its interval.
    """

    id: str
    statistic: str
    unit: Unit | str
    smallest_effect: float
    sentence: str
    direction: Direction = Direction.AT_LEAST


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A number shown beside a claim, which does not decide it.

    Attributes:
      id: the claim's and its own, `C1.peak`.
      statistic: its formula, one number a seed.
      unit: of the statistic.
      sentence: what the estimate says; `{}` is replaced by the estimate with its interval.
      smallest_effect: where the number gets a verdict by a clause's rule ("at least").
    """

    id: str
    statistic: str
    unit: Unit
    sentence: str
    smallest_effect: float | None = None

    @property
    def as_clause(self) -> Clause | None:
        """The clause by whose rule it is judged; None where it is descriptive only."""
        if self.smallest_effect is None:
            return None
        return Clause(
            id=self.id,
            statistic=self.statistic,
            unit=self.unit,
            smallest_effect=self.smallest_effect,
            sentence=self.sentence,
        )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A conjunction of clauses.

    Attributes:
      id: `C1` to `C4`, or the study's own.
      title: one word or two.
      statement: the claim, in one sentence without its full stop.
      clauses: all of them must hold.
      beside: further numbers.
      own: whether it is the study's own; the registered ones and these are corrected for apart.
    """

    id: str
    title: str
    statement: str
    clauses: tuple[Clause, ...]
    beside: tuple[Beside, ...]
    own: bool = False
