"""C4 as the released code would have it: other penalties, windows and controls."""

from collections.abc import Mapping
from dataclasses import replace

from vestige.acting import SelectivityPenaltyConfig, Window
from vestige.claims.causality import causality
from vestige.claims.departures.terms import Case, Made


def sum_penalty(case: Case) -> Made:
    """Arms whose penalty is on class sums, in the place of those they are like."""
    stand_ins = {}
    for role in ("early", "mid", "late"):
        own = _penalty(case, name := getattr(case.material.claims.roles, role))
        if own is None or own.estimator == "sum":
            continue
        like = own.model_copy(update={"estimator": "sum"})
        found = next((other for other in case.material.study.conditions if _penalty(case, other) == like), None)
        stand_ins |= {role: found} if found and found != name else {}
    if "early" not in stand_ins:
        early = case.material.claims.roles.early
        return Made(missing=f"not measured: add a condition like {early!r} with estimator: sum")
    return _regularised(case, stand_ins)


def open_windows(case: Case) -> Made:
    """Arms without an end, in the place of those with windows of equal length."""
    early = _penalty(case, case.material.claims.roles.early)
    named = {name: _penalty(case, name) for name in case.material.study.conditions}
    open_ended = {
        name: penalty.window.start
        for name, penalty in named.items()
        if penalty and early and penalty.window.stop is None and _at(penalty, early.window) == early
    }
    always = next((name for name, start in open_ended.items() if start == 0), None)
    later = next((name for name, start in open_ended.items() if start > 0), None)
    if always is None or later is None:
        role = case.material.claims.roles.early
        return Made(
            missing=f"not measured: add conditions like {role!r} that never stop, one from the start and one from later"
        )
    return replace(_regularised(case, {"early": always, "late": later}), dropped=("C4.c", "C4.d"))


def no_placebo(case: Case) -> Made:
    """The claim without its clause on the placebo."""
    return Made(samples=case.samples, dropped=("C4.d",))


def _penalty(case: Case, name: str) -> SelectivityPenaltyConfig | None:
    """The one penalty on selectivity that a condition consists of."""
    condition = case.material.study.conditions.get(name)
    interventions = condition.interventions if condition else ()
    one = interventions[0] if len(interventions) == 1 else None
    return one if isinstance(one, SelectivityPenaltyConfig) else None


def _at(penalty: SelectivityPenaltyConfig, window: Window) -> SelectivityPenaltyConfig:
    return penalty.model_copy(update={"window": window})


def _regularised(case: Case, stand_ins: Mapping[str, str]) -> Made:
    """C4 with other conditions in some roles."""
    claims = case.material.claims
    roles = claims.roles.model_copy(update=stand_ins)
    samples = causality(replace(case.material, claims=claims.model_copy(update={"roles": roles})))
    touched = {"early": ("C4.a", "C4.c"), "mid": ("C4.c",), "late": ("C4.b",)}
    names = {name for role in stand_ins for name in touched[role]}
    said = "; ".join(
        f"{condition!r} stands for {getattr(claims.roles, role)!r}" for role, condition in stand_ins.items()
    )
    checks = {name: samples[name] for name in samples if name.startswith("C4.cut.")}
    return Made(samples={name: samples[name] for name in names}, checks=checks, note=said)
