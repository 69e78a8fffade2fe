"""C2 as the released code would have it: cumulative ablation, with a departure each."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace

import polars as pl

from vestige.claims.curves import Curves, Material, inner_stages
from vestige.claims.departures.numbers import begun, released_advantages, stage_widths
from vestige.claims.departures.terms import Case, Made
from vestige.claims.evidence import Sample, both, collect, early_mean, final_value, importance

_NO_RANDOM = "not measured: add random to measurements.cumulative.orders and run `vestige run`"


def of_protocol(protocol: str) -> Callable[[Case], Made]:
    """Cumulative ablation by a protocol that departs from the corrected one in one thing."""

    def make(case: Case) -> Made:
        rows = case.rows("cumulative", protocol)
        if rows.is_empty():
            return Made(missing=_curves_missing(protocol))
        return Made(samples=importance(case.on("cumulative", rows)))

    return make


def random_control(case: Case) -> Made:
    """Random neurons in the place of activity-matched ones."""
    rows = _controlled_by_random(case.cumulative, case.cumulative)
    return Made(missing=_NO_RANDOM) if rows is None else Made(samples=importance(case.on("cumulative", rows)))


def redrawn_control(case: Case) -> Made:
    """Random neurons drawn anew, against random neurons in fixed orders."""
    rows = _controlled_by_random(case.cumulative, case.rows("cumulative", "redrawn"))
    fixed = _controlled_by_random(case.cumulative, case.cumulative)
    if rows is None:
        return Made(missing=_curves_missing("redrawn"))
    if fixed is None:
        return Made(missing=_NO_RANDOM)
    return Made(
        samples=importance(case.on("cumulative", rows)),
        against="a random control in fixed orders",
        reference=importance(case.on("cumulative", fixed)),
    )


def uneven_grid(case: Case) -> Made:
    """The corrected curves read where the released code has its points, and summed as it does."""
    found = {}
    for value in ("zero", "mean"):
        curves = released_advantages(
            case.cumulative, value, _inner(case), stage_widths(case.selectivity), classes=case.material.classes
        )
        found |= _advantages(case.material, curves, value)
    said = "curves are read between their fractions by a straight line; areas as shares of the highest possible"
    return Made(samples=_with_reasons(case, found), note=said)


def zero_alone(case: Case) -> Made:
    """The claim without its clauses on the mean."""
    return Made(samples=case.samples, dropped=("C2.early.mean", "C2.change.mean"))


def whole_importance(case: Case) -> Made:
    """The faithful curves."""
    rows = case.rows("cumulative", "faithful")
    if rows.is_empty():
        return Made(missing=_curves_missing("faithful"))
    material = case.on("cumulative", rows)
    widths = stage_widths(case.selectivity)
    curves = released_advantages(
        material.rows("cumulative", case.baseline), "zero", _inner(case), widths, control="random"
    )
    said = "areas as shares of the highest possible; the unit stays the seed"
    return replace(zero_alone(case), samples=_advantages(material, begun(curves), "zero"), note=said)


def _curves_missing(protocol: str) -> str:
    return f"not measured: add {protocol} to measurements.cumulative.protocols and run `vestige run`"


def _controlled_by_random(selective: pl.DataFrame, control: pl.DataFrame) -> pl.DataFrame | None:
    """Curves of csi-desc with those of random neurons in the place of activity-matched ones."""
    drawn = control.filter(pl.col("order") == "random")
    if drawn.is_empty():
        return None
    ranked = selective.filter(pl.col("order") == "csi-desc")
    return pl.concat([ranked, drawn.with_columns(pl.lit("activity-matched").alias("order"))])


def _inner(case: Case) -> tuple[str, ...]:
    return inner_stages(case.selectivity)


def _advantages(material: Material, curves: Curves, value: str) -> dict[str, Sample]:
    """C2's clauses of one value, from areas."""
    last, lack = material.last_step, "no area"
    early = early_mean(material, curves, lack)
    final = final_value(curves, 0 if last is None else last, lack)
    seeds = material.study.seeds
    return {
        f"C2.early.{value}": collect(seeds, early),
        f"C2.change.{value}": collect(seeds, both(early, final, operator.sub)),
    }


def _with_reasons(case: Case, found: Mapping[str, Sample]) -> dict[str, Sample]:
    """What the corrected protocol lacks is missing here for the same reason."""
    return {name: case.samples[name] if case.samples[name].missing else sample for name, sample in found.items()}
