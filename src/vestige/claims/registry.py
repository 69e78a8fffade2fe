"""What a study claims, with the statistic, direction and smallest effect of every clause: C1 to C4, and its own."""

import math
from collections.abc import Iterator, Sequence

from vestige.claiming import OwnClaimConfig
from vestige.claims.terms import Beside, Claim, Clause, Direction, Unit
from vestige.config import ClaimsConfig, Roles, StudyConfig
from vestige.expressions.reading import canonical

DEFINITIONS_VERSION = 2
"""Raised when a registered statistic, or a rule that makes a verdict of it, is defined otherwise."""


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


def own_claim(config: OwnClaimConfig) -> Claim:
    """A claim of the study's own in the form that the registered ones have."""
    return Claim(
        id=config.id,
        title=config.title or config.id,
        statement=config.statement.rstrip("."),
        clauses=tuple(
            Clause(
                id=f"{config.id}.{name}",
                statistic=canonical(clause.statistic),
                unit=clause.unit or "",
                direction=Direction(clause.direction),
                smallest_effect=clause.smallest_effect,
                sentence=clause.sentence or f"{canonical(clause.statistic)} is {{}}",
            )
            for name, clause in config.named()
        ),
        beside=(),
        own=True,
    )


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
                sentence="midpoint nonlinearity of the logits at the end is {} that of early checkpoints above chance",
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
                id="C3.a.all",
                statistic="ln midpoint-logit(T)/midpoint-logit(early), all early checkpoints",
                unit=Unit.LN_RATIO,
                sentence="midpoint nonlinearity at the end is {} that of all early checkpoints, step 0 included",
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
            *_in_windows(claims.roles),
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


def _in_windows(roles: Roles) -> Iterator[Beside]:
    """What each timed window did: how much of m it cut, and its harm at equal lag."""
    for role in ("early", "mid", "late"):
        name = getattr(roles, role)
        yield Beside(
            id=f"C4.cut.{role}",
            statistic=f"1 - m({name})/m({roles.baseline}) within the window of {name}",
            unit=Unit.SHARE,
            sentence=f"'{name}' cuts mean csi_cv within its window by a share of {{}}",
        )
        yield Beside(
            id=f"C4.lag.{role}",
            statistic=f"H({name}) as long after its window as training goes on after the last window",
            unit=Unit.ACCURACY,
            sentence=f"as long after its window as training goes on after the last window '{name}' costs {{}}",
        )
