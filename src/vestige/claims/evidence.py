"""Curves -> the statistics of C1 and C2, one number a seed; a seed without one is named with the reason."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from vestige.claims.curves import (
    PROTOCOL,
    Curve,
    Curves,
    Material,
    advantage_curves,
    inner_stages,
    mean_over,
    selectivity_curves,
)
from vestige.config import StudyConfig

FEW_NEURONS = 32
"""Deciles of fewer neurons hold one to three of them."""

NO_WINDOW = "the early window is in epochs, and no epoch is over yet: run `vestige run`"
NO_CLASSES = "the number of classes is not known without the selectivity table: run `vestige run`"
Statistic = Callable[[int], float | str]
"""Of a seed: a number, or why there is none."""


@dataclass(frozen=True)
class Sample:
    """One statistic over the seeds.

    Attributes:
      values: by seed; finite.
      left_out: why a seed of the study has no value.
      missing: why there is no value at all and what would give it; empty where there is one.
      note: anything else that a reader of the number must know.
      trained: how many seeds the values come from, where there is not one a seed.
    """

    values: Mapping[int, float] = field(default_factory=dict)
    left_out: Mapping[int, str] = field(default_factory=dict)
    missing: str = ""
    note: str = ""
    trained: int | None = None


def collect(seeds: Iterable[int], of: Statistic, note: str = "") -> Sample:
    """One number for every seed, or why there is none; NaN and infinity are no numbers."""
    values: dict[int, float] = {}
    left_out: dict[int, str] = {}
    for seed in seeds:
        match of(seed):
            case str(reason):
                left_out[seed] = reason
            case value if math.isfinite(value):
                values[seed] = value
            case value:
                left_out[seed] = f"its value is {value}"
    missing = "" if values else f"no seed has a value: {name_seeds(left_out)}"
    return Sample(values, left_out, missing, note)


def name_seeds(left_out: Mapping[int, str]) -> str:
    """`seeds 1, 2: reason; seed 4: reason`."""
    reasons = dict.fromkeys(left_out.values())
    return "; ".join(
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {reason}"
        for reason in reasons
        if (seeds := [seed for seed, why in left_out.items() if why == reason])
    )


def why_absent(study: StudyConfig, kind: str, condition: str, protocol: str = PROTOCOL) -> str:
    """Why a table has no rows of a condition, and which command or field would give them."""
    if condition not in study.conditions:
        return f"the study has no condition {condition!r}: add it to conditions, or name another in claims.roles"
    config, command = getattr(study.measurements, kind, None), "run `vestige run`"
    if kind != "history" and config is None:
        return f"measurements.{kind} is null in the study: give it settings and {command}"
    if (chosen := getattr(config, "conditions", None)) is not None and condition not in chosen:
        return f"measurements.{kind}.conditions leaves out {condition!r}: add it and {command}"
    if protocol not in getattr(config, "protocols", (protocol,)):
        return f"measurements.{kind}.protocols leaves out {protocol!r}: add it and {command}"
    return f"{kind} of {condition!r} is not there yet: {command}"


def all_missing(names: Iterable[str], reason: str) -> dict[str, Sample]:
    """No value of any of them, for one reason."""
    return {name: Sample(missing=reason) for name in names}


def early_mean(
    material: Material, curves: Curves, lack: str, among: Mapping[int, set[int]] | str | None = None
) -> Statistic:
    """Mean over the early window.

    Args:
      material: knows the window.
      curves: by seed.
      lack: what is missing where the window holds none of a curve's steps.
      among: steps that count, by seed, or why they are not known; None: all.
    """
    window = material.early_window

    def one(seed: int) -> float | str:
        if window is None or isinstance(among, str):
            return NO_WINDOW if window is None else str(among)
        curve = curves.get(seed, {})
        steps = [step for step in curve if step < window and (among is None or step in among.get(seed, ()))]
        of = " at a judgeable checkpoint" if among is not None else ""
        return mean_over(curve, steps) if steps else f"{lack}{of} before step {window}"

    return one


def final_value(curves: Curves, last: int, lack: str) -> Statistic:
    """The value at the last step."""
    return lambda seed: curves.get(seed, {}).get(last, f"{lack} at the last step ({last})")


def both(first: Statistic, second: Statistic, of: Callable[[float, float], float | str]) -> Statistic:
    """A number made of two statistics, where there are both."""

    def one(seed: int) -> float | str:
        a, b = first(seed), second(seed)
        if isinstance(a, str) or isinstance(b, str):
            return a if isinstance(a, str) else b
        return of(a, b)

    return one


def log_ratio(above: float, below: float) -> float | str:
    """ln(above / below), or why there is none."""
    if not (above > 0 and below > 0):
        return f"no logarithm of {above:.3g} / {below:.3g}"
    return math.log(above / below)


def peak_steps(curves: Curves) -> dict[int, int]:
    """t* of every seed: the step at which m averaged over the *other* seeds is largest (the first of equals).

    Only steps that every curve has are compared. A single seed has no others: its own peak, biased upward.
    """
    shared = sorted(set.intersection(*(set(curve) for curve in curves.values()))) if curves else []
    peaks: dict[int, int] = {}
    for seed in curves:
        others = [curves[s] for s in curves if s != seed] or [curves[seed]]
        peaks[seed] = max(shared, key=lambda step: sum(curve[step] for curve in others))
    return peaks


def emergence(material: Material) -> dict[str, Sample]:
    """C1 and, beside it, rise and fall of eta2_adj around its own peak."""
    baseline, last = material.claims.roles.baseline, material.last_step
    rows = material.rows("selectivity", baseline)
    names = (
        "C1.rise",
        "C1.fall",
        "C1.rapid",
        "C1.remains",
        "C1.peak",
        "C1.recession",
        "C1.eta2-fall",
        "C1.eta2-rise",
    )
    if rows.is_empty() or last is None:
        return all_missing(names, why_absent(material.study, "selectivity", baseline))
    if not inner_stages(rows):
        return all_missing(names, "all layers are of the last stage, which m(t) leaves out")
    m, eta2 = material.selectivity(baseline), material.selectivity(baseline, "eta2_adj")
    lack = f"at step 0 or at the last step ({last})"

    def sample(of: Callable[[Curve, int], float | str], curves: Curves = m, name: str = "csi_cv") -> Sample:
        whole = _whole(curves, last)
        peaks = peak_steps(whole)
        note = "t* is the seed's own peak, for want of other seeds: biased upward" if len(whole) == 1 else ""

        def one(seed: int) -> float | str:
            return of(whole[seed], peaks[seed]) if seed in whole else f"no {name} {lack}"

        return collect(material.study.seeds, one, note)

    return {
        "C1.rise": sample(lambda m, peak: log_ratio(m[peak], m[0])),
        "C1.fall": sample(lambda m, peak: log_ratio(m[peak], m[last])),
        "C1.rapid": sample(lambda m, peak: (m[peak] + m[last]) / 2 - m[quarter_step(m, peak, last)]),
        "C1.remains": sample(lambda m, _: m[last]),
        "C1.peak": sample(lambda _, peak: float(peak)),
        "C1.recession": sample(lambda m, peak: _recession_by_quarter(m, peak, last)),
        "C1.eta2-fall": sample(lambda e, peak: log_ratio(e[peak], e[last]), eta2, "eta2_adj"),
        "C1.eta2-rise": sample(lambda e, peak: log_ratio(e[peak], e[0]), eta2, "eta2_adj"),
    }


def peaks(material: Material) -> dict[int, int]:
    """t* of every seed whose baseline has m at step 0 and at the last step; as in C1."""
    if material.last_step is None:
        return {}
    return peak_steps(_whole(material.selectivity(material.claims.roles.baseline), material.last_step))


def _whole(curves: Curves, last: int) -> Curves:
    return {seed: curves[seed] for seed in curves if {0, last} <= set(curves[seed])}


def quarter_step(curve: Curve, peak: int, last: int) -> int:
    """The last checkpoint by 0.25 T; the peak where it comes later: then nothing has receded by then."""
    return max([peak, *(step for step in curve if step <= 0.25 * last)])


def importance(material: Material) -> dict[str, Sample]:
    """C2: the area that csi-desc takes beyond activity-matched, early and its change, by ablation value."""
    samples: dict[str, Sample] = {}
    baseline, last = material.claims.roles.baseline, material.last_step
    rows, lack = material.rows("cumulative", baseline), "no judgeable curve"
    for value in ("zero", "mean"):
        names = (f"C2.early.{value}", f"C2.change.{value}", f"C2.final.{value}")
        if reason := _no_areas(material, rows, value):
            samples |= all_missing(names, reason)
            continue
        assert last is not None
        assert material.classes is not None
        curves = advantage_curves(rows, value, _inner_scopes(material, rows), material.classes)
        early, final = early_mean(material, curves, lack), final_value(curves, last, lack)
        note = _few_neurons(material.rows("selectivity", baseline))
        for name, of in zip(names, (early, both(early, final, operator.sub), final), strict=True):
            samples[name] = collect(material.study.seeds, of, note)
    return samples


def suggest_early_window(selectivity: pl.DataFrame, condition: str = "baseline") -> int | None:
    """The rule that fixes `claims.early_window` from pilot seeds.

    Args:
      selectivity: the selectivity table of the pilot seeds.
      condition: the baseline.

    Returns:
      The first checkpoint after t* (peak of m averaged over the pilot seeds) at which that average has fallen
      halfway from its peak to its final value; None where it never falls, or there are no rows.
    """
    rows = selectivity.filter(pl.col("condition") == condition, pl.col("protocol") == PROTOCOL)
    curves = list(selectivity_curves(rows).values())
    shared = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not shared:
        return None
    mean = {step: sum(curve[step] for curve in curves) / len(curves) for step in shared}
    peak = max(shared, key=mean.__getitem__)
    halfway = (mean[peak] + mean[shared[-1]]) / 2
    return next((step for step in shared if step > peak and mean[step] <= halfway), None)


def _few_neurons(selectivity: pl.DataFrame) -> str:
    """A warning where a layer outside the last stage is too small for its neurons to be matched by activity."""
    inner = selectivity.filter(pl.col("stage").is_in(inner_stages(selectivity)))
    sizes = inner.group_by("stage", "layer", maintain_order=True).agg(pl.col("neuron").n_unique())
    stages = sizes.group_by("stage", maintain_order=True).agg(pl.col("neuron").min())
    few = stages.filter(pl.col("neuron") < FEW_NEURONS)
    if few.is_empty():
        return ""
    named = ", ".join(f"{stage}: {neurons}" for stage, neurons in few.iter_rows())
    return (
        f"in layers of fewer than {FEW_NEURONS} neurons ({named}) activity-matched hardly differs from csi-desc "
        "(deciles of one to three neurons): the effect is squeezed towards 0"
    )


def _recession_by_quarter(m: Curve, peak: int, last: int) -> float | str:
    fall = m[peak] - m[last]
    return (m[peak] - m[quarter_step(m, peak, last)]) / fall if fall > 0 else "nothing has receded by the end"


def _no_areas(material: Material, rows: pl.DataFrame, value: str) -> str:
    config = material.study.measurements.cumulative
    if config is not None and (lacking := {"csi-desc", "activity-matched"} - set(config.orders)):
        named = " and ".join(map(repr, sorted(lacking)))
        return f"measurements.cumulative.orders leaves out {named}: add it and run `vestige run`"
    if config is not None and value not in config.values:
        return f"measurements.cumulative.values leaves out {value!r}: add it and run `vestige run`"
    if rows.filter(pl.col("value") == value).is_empty():
        return why_absent(material.study, "cumulative", material.claims.roles.baseline)
    if material.classes is None:
        return NO_CLASSES
    if not _inner_scopes(material, rows):
        return "no curve of a stage outside the last: run `vestige run`"
    return ""


def _inner_scopes(material: Material, rows: pl.DataFrame) -> Sequence[str]:
    """Stages outside the last, by the selectivity table's order of layers; without it, by the curves' own."""
    scopes = [scope for scope in rows["scope"].unique(maintain_order=True) if scope != "all"]
    inner = inner_stages(material.rows("selectivity", material.claims.roles.baseline)) or scopes[:-1]
    return [scope for scope in scopes if scope in inner]
