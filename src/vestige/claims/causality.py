"""C4: harm H(x) = final accuracy of the baseline minus that of x, and whether the windows cut selectivity."""

import math
from collections.abc import Sequence
from itertools import pairwise

import polars as pl

from vestige.claims.curves import FINAL_CHECKPOINTS, Curve, Material, acting_in_steps
from vestige.claims.evidence import Sample, collect, why_absent

CUT = 0.8
"""Share of m that an intervention must remove within its window."""
LAST_SHARE = 0.2
"""Of training, in which no window of a claim acts: what it does has no time to show, or to pass."""
TIMED = ("early", "mid", "late")
"""Roles that differ in when their window is."""


def causality(material: Material) -> dict[str, Sample]:
    """C4's clauses; beside them the harm of every condition and the manipulation checks."""
    roles = material.claims.roles
    samples = {
        "C4.a": _harm(material, roles.baseline, roles.early),
        "C4.b": _harm(material, roles.baseline, roles.late, _odd_windows(material)),
        "C4.c": _harm_at_equal_length(material, roles.mid, roles.early),
        "C4.d": _harm_at_equal_length(material, roles.permuted_eta2_early, roles.eta2_early),
        "C4.cut.early": cut(material, roles.early),
        "C4.cut.late": cut(material, roles.late),
        "C4.cut.mid": cut(material, roles.mid),
    }
    for role in TIMED:
        samples[f"C4.lag.{role}"] = harm_at_lag(material, getattr(roles, role))
    others = [name for name in material.study.conditions if name != roles.baseline]
    return samples | {f"C4.harm.{name}": _harm(material, roles.baseline, name) for name in others}


def cut(material: Material, condition: str) -> Sample:
    """1 - m(condition)/m(baseline) over the checkpoints in (start, stop] of the condition's window.

    Each checkpoint counts for the steps since the one before: log-spaced checkpoints would else give most of
    the weight to the first few steps, in which no intervention can act yet.
    """
    baseline = material.claims.roles.baseline
    for name in (condition, baseline):
        if material.rows("selectivity", name).is_empty():
            return Sample(missing=why_absent(material.study, "selectivity", name))
    window = window_steps(material, condition)
    if window is None:
        return Sample(missing=f"{condition!r} has no window: it has no intervention, or no epoch is over yet")
    arms, bases = material.selectivity(condition), material.selectivity(baseline)

    def one(seed: int) -> float | str:
        arm, base = arms.get(seed, {}), bases.get(seed, {})
        steps = sorted(step for step in arm if step in base and window[0] < step <= window[1])
        if not steps:
            return f"no csi_cv of both conditions in steps ({window[0]}, {window[1]}]"
        below = _time_mean(base, steps, window[0])
        return 1 - _time_mean(arm, steps, window[0]) / below if below > 0 else "the baseline's csi_cv is not positive"

    return collect(material.study.seeds, one)


def window_steps(material: Material, condition: str) -> tuple[int, int] | None:
    """The steps [start, stop) in which the condition's interventions act; None where there are none, or not known."""
    config, last = material.study.conditions.get(condition), material.last_step
    if config is None or last is None:
        return None
    return acting_in_steps(config.interventions, material.steps_per_epoch, last)


def _harm(material: Material, reference: str, condition: str, note: str = "") -> Sample:
    for name in (reference, condition):
        if material.rows("history", name).is_empty():
            return Sample(missing=why_absent(material.study, "history", name))

    def one(seed: int) -> float | str:
        before, after = (_final_accuracy(material, name, seed) for name in (reference, condition))
        if isinstance(before, str) or isinstance(after, str):
            return before if isinstance(before, str) else after
        return before - after

    return collect(material.study.seeds, one, note)


def _harm_at_equal_length(material: Material, reference: str, condition: str) -> Sample:
    """Harm of one window beside another's: registered for windows of the same length, and of no others."""
    unequal = _unequal_windows(material, condition, reference)
    if unequal:
        return Sample(missing=f"{unequal}, and the claim compares windows of one length")
    return _harm(material, reference, condition)


def _odd_windows(material: Material) -> str:
    """What must be known of the late window: another length than the early one's, or an end at the end of training."""
    roles, total = material.claims.roles, material.total_steps
    said, late = [_unequal_windows(material, roles.early, roles.late)], window_steps(material, roles.late)
    if late and total and late[1] > math.ceil((1 - LAST_SHARE) * total):
        said.append(f"{roles.late!r} acts in the last fifth of training (to step {min(late[1], total)} of {total})")
    return "; ".join(filter(None, said))


def harm_at_lag(material: Material, condition: str) -> Sample:
    """Harm as long after the condition's window as there is training after the last of the timed windows.

    At the end an early window has had longer to recover from than a late one. It is taken at the last test of both
    conditions up to that step.
    """
    roles = material.claims.roles
    for name in (roles.baseline, condition):
        if material.rows("history", name).is_empty():
            return Sample(missing=why_absent(material.study, "history", name))
    windows = {name: window_steps(material, name) for name in (getattr(roles, role) for role in TIMED)}
    known = {name: window for name, window in windows.items() if window}
    if condition not in known or material.last_step is None:
        return Sample(missing=f"{condition!r} has no window: it has no intervention, or no epoch is over yet")
    lag = material.last_step - max(min(stop, material.last_step) for _, stop in known.values())
    stop = known[condition][1]
    arms, bases = material.accuracy(condition), material.accuracy(roles.baseline)

    def one(seed: int) -> float | str:
        arm, base = arms.get(seed, {}), bases.get(seed, {})
        tested = [step for step in arm if step in base and stop <= step <= stop + lag]
        return base[max(tested)] - arm[max(tested)] if tested else f"not tested in steps [{stop}, {stop + lag}]"

    rates = material.rows("history", roles.baseline).filter(pl.col("step") <= stop + lag).sort("step")["lr"]
    at_rate = "".join(f", at learning rate {rate:g}" for rate in rates.drop_nulls().tail(1))
    said = f"{lag} steps after the window: the last test up to step {stop + lag}{at_rate}"
    return collect(material.study.seeds, one, said)


def _final_accuracy(material: Material, condition: str, seed: int) -> float | str:
    """Mean test accuracy at the last three checkpoints of training, as the baseline has them."""
    own = material.accuracy(condition).get(seed, {})
    steps = material.final_steps
    if len(steps) < FINAL_CHECKPOINTS or steps[-1] != material.last_step or not set(steps) <= set(own):
        return f"{condition!r} lacks the test accuracy of the last {FINAL_CHECKPOINTS} checkpoints"
    return sum(own[step] for step in steps) / FINAL_CHECKPOINTS


def _time_mean(curve: Curve, steps: Sequence[int], start: int) -> float:
    widths = [b - a for a, b in pairwise([start, *steps])]
    return sum(w * curve[step] for w, step in zip(widths, steps, strict=True)) / sum(widths)


def _unequal_windows(material: Material, one: str, other: str) -> str:
    windows = [window_steps(material, name) for name in (one, other)]
    lengths = [window[1] - window[0] for window in windows if window]
    if len(set(lengths)) < 2:
        return ""
    return f"the windows differ in length: {one!r} {lengths[0]} steps, {other!r} {lengths[1]} steps"
