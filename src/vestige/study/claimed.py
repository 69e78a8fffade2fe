"""What a study's own claims ask of its layers and checkpoints: looked at before any work."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from vestige.errors import ConfigError, nearest
from vestige.expressions.language import Aggregate, When

if TYPE_CHECKING:
    from vestige.study.plan import Plan

OUTSIDE = ("logits", "input", "all")
"""What the linearity table has beside layers."""


def check_claimed(plan: "Plan") -> None:
    """Own claims must be about layers and checkpoints that the study has.

    Raises:
      ConfigError: one is about another; claim, clause and what there is are named.
    """
    for where, one in plan.study.claims.taken() if plan.study.claims else ():
        layers, stages = [name for name, _, _ in plan.facts.layers], [stage for _, stage, _ in plan.facts.layers]
        beside = OUTSIDE if one.table == "linearity" else ()
        for selector, known in (
            ("layer", [*layers, *beside]),
            ("other", [*layers, *beside]),
            ("stage", stages),
            ("scope", [*stages, "all"]),
        ):
            _check_name(where, one, selector, known)
        _check_moment(plan, where, one)


def _check_name(where: str, one: Aggregate, selector: str, known: Iterable[str]) -> None:
    wanted = str(one.selectors.get(selector, ""))
    known = list(dict.fromkeys(known))
    if wanted and not any(fnmatchcase(name, wanted) for name in known):
        raise ConfigError(
            f"planning {where}", found=f"the network has no {selector} {wanted!r}", remedy=nearest(wanted, known)
        )


def _check_moment(plan: "Plan", where: str, one: Aggregate) -> None:
    condition = str(one.selectors["condition"])
    steps = plan.own_checkpoints(condition)
    if any(_holds(plan, one.when, step) for step in steps):
        return
    written = one.text or f"{one.name}({one.table}.{one.column}, ...)"
    begins = f"; {condition!r} begins at step {plan.onset(condition)}" if plan.parent(condition) else ""
    raise ConfigError(
        f"planning {where}",
        found=f"{condition!r} has no checkpoint there: {written}{begins}",
        remedy=f"Its checkpoints are at steps {', '.join(map(str, steps))}; make them denser (checkpoints), or take "
        f"another{' condition before' if begins else ''}",
    )


def _holds(plan: "Plan", when: When, step: int) -> bool:
    """Whether checkpoints may be chosen there; where t* lies is not known before there are results."""
    epoch = step / plan.steps_per_epoch
    match when.kind:
        case "step" | "first":
            return step == when.start
        case "epoch":
            return abs(epoch - when.start) < 1e-6
        case "steps":
            return when.start <= step < (when.stop or 0)
        case "epochs":
            return when.start <= epoch + 1e-6 < (when.stop or 0)
        case "early":
            assert plan.study.claims is not None
            return step < plan.study.claims.early_window.in_steps(plan.steps_per_epoch, plan.total_steps)[1]
    return True
