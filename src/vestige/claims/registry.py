"""The four claims as registered: for every clause its statistic, direction and smallest effect, as data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vestige.config import ClaimsConfig, StudyConfig


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
      unit: of the statistic and of `smallest_effect`.
      direction: see `Direction`.
      smallest_effect: d.
      sentence: what the estimate says; `{}` is replaced by the estimate with its interval.
    """

    id: str
    statistic: str
    unit: Unit
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
      id: `C1` to `C4`.
      title: one word or two.
      statement: the claim, in one sentence without its full stop.
      clauses: all of them must hold.
      beside: further numbers.
    """

    id: str
    title: str
    statement: str
    clauses: tuple[Clause, ...]
    beside: tuple[Beside, ...]


def registered(study: StudyConfig) -> tuple[Claim, ...]:
    """The claims that a study judges, in the order C1 to C4.

    References:
      Ranadive, Thakurdesai, Morcos, Leavitt, Deny (2023). On the special role of class-selective neurons in
      early training. TMLR.
    """
    claims = study.claims
    if claims is None:
        return ()
    others = [name for name in study.conditions if name != claims.roles.baseline]
    every = (_emergence(), _importance(), _linearity(), _causality(claims, others))
    return tuple(claim for claim in every if claim.id in claims.judge)


def _emergence() -> Claim:
    return Claim(
        id="C1",
        title="Emergence",
        statement="Class-selective neurons emerge early in training, then recede rapidly but not completely",
        clauses=(
            Clause(
                id="C1.rise",
                statistic="ln m(t*)/m(0)",
                unit=Unit.LN_RATIO,
                smallest_effect=math.log(1.2),
                sentence="mean csi_cv at its peak is {} that at initialisation",
            ),
            Clause(
                id="C1.fall",
                statistic="ln m(t*)/m(T)",
                unit=Unit.LN_RATIO,
                smallest_effect=math.log(1.2),
                sentence="mean csi_cv at its peak is {} that at the end of training",
            ),
            Clause(
                id="C1.rapid",
                statistic="(m(t*) + m(T))/2 - m(0.25 T)",
                unit=Unit.CSI,
                smallest_effect=0.0,
                sentence="after a quarter of training mean csi_cv is {} below the middle of peak and end",
            ),
            Clause(
                id="C1.remains",
                statistic="m(T)",
                unit=Unit.CSI,
                smallest_effect=0.02,
                sentence="mean csi_cv at the end of training is {}",
            ),
        ),
        beside=(
            Beside(
                id="C1.eta2-fall",
                statistic="ln eta2_adj(t')/eta2_adj(T), t' its own peak",
                unit=Unit.LN_RATIO,
                smallest_effect=math.log(1.2),
                sentence="mean eta2_adj (class information) at its peak is {} that at the end of training",
            ),
            Beside(
                id="C1.eta2-rise",
                statistic="ln eta2_adj(t')/eta2_adj(0), t' its own peak",
                unit=Unit.LN_RATIO,
                sentence="mean eta2_adj at its peak is {} that at initialisation",
            ),
            Beside(
                id="C1.peak",
                statistic="t*",
                unit=Unit.STEPS,
                sentence="the other seeds put the peak of csi_cv at step {}",
            ),
            Beside(
                id="C1.recession",
                statistic="(m(t*) - m(0.25 T))/(m(t*) - m(T))",
                unit=Unit.SHARE,
                sentence="a share of {} of the recession is over after a quarter of training",
            ),
        ),
    )


def _importance() -> Claim:
    def clause(kind: str, value: str, statistic: str, sentence: str) -> Clause:
        return Clause(
            id=f"C2.{kind}.{value}",
            statistic=f"{statistic}, ablated to {value}",
            unit=Unit.AREA,
            smallest_effect=0.05,
            sentence=f"{sentence} (ablated to {value})",
        )

    early = "ablating class-selective neurons early takes {} more of the area than activity-matched ones"
    change = "that excess shrinks by {} from early to the end of training"
    return Claim(
        id="C2",
        title="Importance",
        statement="Ablating class-selective neurons harms the network early in training, and much less later",
        clauses=tuple(
            clause(kind, value, statistic, sentence)
            for kind, statistic, sentence in (
                ("early", "D(early)", early),
                ("change", "D(early) - D(T)", change),
            )
            for value in ("zero", "mean")
        ),
        beside=tuple(
            Beside(
                id=f"C2.final.{value}",
                statistic=f"D(T), ablated to {value}",
                unit=Unit.AREA,
                sentence=f"at the end of training it takes {{}} more (ablated to {value})",
            )
            for value in ("zero", "mean")
        ),
    )


def _linearity() -> Claim:
    return Claim(
        id="C3",
        title="Linearity",
        statement="The network is close to a linear regime early in training",
        clauses=(
            Clause(
                id="C3.a",
                statistic="ln midpoint-logit(T)/midpoint-logit(early)",
                unit=Unit.LN_RATIO,
                smallest_effect=math.log(1.25),
                sentence="the midpoint nonlinearity of the logits at the end of training is {} that early on",
            ),
            Clause(
                id="C3.b.level",
                statistic="Kalimeris share(early)",
                unit=Unit.SHARE,
                direction=Direction.SURELY_AT_LEAST,
                smallest_effect=0.8,
                sentence="early on a linear model explains a share of {} of what the network knows",
            ),
            Clause(
                id="C3.b.above-final",
                statistic="Kalimeris share(early) - share(T)",
                unit=Unit.SHARE,
                smallest_effect=0.1,
                sentence="the share that a linear model explains falls by {} to the end of training",
            ),
        ),
        beside=(
            Beside(
                id="C3.a.judgeable",
                statistic="ln midpoint-logit(T)/midpoint-logit(early), early checkpoints above chance only",
                unit=Unit.LN_RATIO,
                sentence="midpoint nonlinearity at the end is {} that of the early checkpoints above chance",
            ),
            Beside(
                id="C3.b.final",
                statistic="Kalimeris share(T)",
                unit=Unit.SHARE,
                sentence="at the end of training a linear model explains a share of {}",
            ),
        ),
    )


def _causality(claims: ClaimsConfig, others: Sequence[str]) -> Claim:
    roles, d = claims.roles, claims.accuracy_effect
    return Claim(
        id="C4",
        title="Causality",
        statement="Suppressing selectivity from the start harms the final accuracy; only later, hardly",
        clauses=(
            Clause(
                id="C4.a",
                statistic=f"H({roles.early})",
                unit=Unit.ACCURACY,
                smallest_effect=d,
                sentence=f"'{roles.early}' costs {{}} of final accuracy",
            ),
            Clause(
                id="C4.b",
                statistic=f"H({roles.late})",
                unit=Unit.ACCURACY,
                direction=Direction.BELOW,
                smallest_effect=d,
                sentence=f"'{roles.late}' costs {{}} of final accuracy",
            ),
            Clause(
                id="C4.c",
                statistic=f"H({roles.early}) - H({roles.mid})",
                unit=Unit.ACCURACY,
                smallest_effect=d,
                sentence=f"'{roles.early}' costs {{}} more than '{roles.mid}'",
            ),
            Clause(
                id="C4.d",
                statistic=f"H({roles.eta2_early}) - H({roles.permuted_eta2_early})",
                unit=Unit.ACCURACY,
                smallest_effect=d / 2,
                sentence=f"'{roles.eta2_early}' costs {{}} more than '{roles.permuted_eta2_early}'",
            ),
        ),
        beside=(
            *(
                Beside(
                    id=f"C4.cut.{role}",
                    statistic=f"1 - m({name})/m({roles.baseline}) within the window of {name}",
                    unit=Unit.SHARE,
                    sentence=f"'{name}' cuts mean csi_cv within its window by a share of {{}}",
                )
                for role, name in (("early", roles.early), ("late", roles.late), ("mid", roles.mid))
            ),
            *(
                Beside(
                    id=f"C4.harm.{name}",
                    statistic=f"H({name})",
                    unit=Unit.ACCURACY,
                    sentence=f"'{name}' costs {{}} of final accuracy",
                )
                for name in others
            ),
        ),
    )
