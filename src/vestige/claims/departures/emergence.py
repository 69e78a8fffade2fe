"""C1 as the released code would have it: selectivity through training, with a departure each."""

import math
from dataclasses import replace

import polars as pl

from vestige.claims.curves import Curves, selectivity_curves
from vestige.claims.departures.numbers import after_epochs, own_peaks, peaked_alone, pooled, with_dead
from vestige.claims.departures.terms import Case, Made
from vestige.claims.evidence import emergence

SAME_INDEX = 5e-4
"""Means over neurons that differ by less are of one index: tables are rounded."""
_FAITHFUL_TABLE = "not measured: set measurements.selectivity.protocols to [corrected, faithful] and run `vestige run`"
_EPSILON = 1e-6


def class_sums(case: Case) -> Made:
    """The faithful table has the index of class sums, and the class means that give the other."""
    rows = case.rows("selectivity", "faithful")
    if rows.is_empty():
        return Made(missing=_FAITHFUL_TABLE)
    high, rest = pl.col("mu_max").cast(pl.Float64), pl.col("mu_rest").cast(pl.Float64)
    by_means = _with_index(rows, (high - rest) / (high + rest + _EPSILON))
    by_sums = _with_index(rows, pl.col("csi"))
    of_each = pl.col("n") / (case.material.classes or 1)
    if_as_many = _with_index(rows, (high - rest) / (high + rest + _EPSILON / of_each))
    apart = _apart(selectivity_curves(by_sums), selectivity_curves(if_as_many))
    if apart < SAME_INDEX:
        said = "classes have as many images: sums and means give the same index, but for the 1e-6 in its denominator"
        return Made(samples=case.samples, note=f"{said} (beside that m differs by {apart:.1g} at most)")
    return Made(
        samples=emergence(case.on("selectivity", by_sums)),
        against="raw csi with stored batch norm",
        reference=emergence(case.on("selectivity", by_means)),
        note="images of the classes differ in number; both sides are raw csi with stored batch-norm statistics, the "
        "only table with both",
    )


def stored_statistics(case: Case) -> Made:
    """csi_cv of the faithful table is of class means, with stored statistics."""
    rows = case.rows("selectivity", "faithful")
    return Made(missing=_FAITHFUL_TABLE) if rows.is_empty() else _emergence(case, rows)


def raw_csi(case: Case) -> Made:
    """csi in the place of csi_cv."""
    return _emergence(case, _with_index(case.selectivity, pl.col("csi")))


def dead_neurons(case: Case) -> Made:
    """Neurons that never fire, counted."""
    return _emergence(case, with_dead(case.selectivity))


def own_peak(case: Case) -> Made:
    """t* from the seed that it is used on."""
    return Made(samples=peaked_alone(case.material))


def epochs_only(case: Case) -> Made:
    """Checkpoints at the end of epochs."""
    rows = after_epochs(case.selectivity)
    if rows["step"].n_unique() < 2:
        return Made(missing="not measured: fewer than two checkpoints at the end of an epoch")
    said = f"m(0) is that after epoch {rows.filter(pl.col('step') == 0)['epoch'].min():g}"
    return replace(_emergence(case, rows), note=said)


def pooled_neurons(case: Case) -> Made:
    """Every neuron of every seed as if it were a training of its own."""
    return Made(samples=pooled(case.material))


def whole_emergence(case: Case) -> Made:
    """All that the faithful table has, pooled, with its own peaks."""
    rows = case.rows("selectivity", "faithful")
    if rows.is_empty():
        return Made(missing=_FAITHFUL_TABLE)
    material = case.on("selectivity", with_dead(_with_index(rows, pl.col("csi"))))
    return Made(samples=pooled(material, own_peaks))


def token_axis(_: Case) -> Made:
    """Studies have no table of it."""
    return Made(missing="not measured: a study measures the feature axis; the released script's 'neurons' are tokens")


def _emergence(case: Case, rows: pl.DataFrame) -> Made:
    return Made(samples=emergence(case.on("selectivity", rows)))


def _with_index(rows: pl.DataFrame, index: pl.Expr) -> pl.DataFrame:
    dead = pl.col("dead").fill_null(value=False)
    return rows.with_columns(pl.when(dead).then(0.0).otherwise(index).alias("csi_cv"))


def _apart(a: Curves, b: Curves) -> float:
    return max((abs(a[seed][step] - b[seed][step]) for seed in a for step in a[seed]), default=math.inf)
