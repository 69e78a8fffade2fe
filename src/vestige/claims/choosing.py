"""Which rows an aggregate of a study's own claim is about: table, condition, layers, checkpoints."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

import polars as pl

from vestige.claims.curves import FINAL_CHECKPOINTS, PROTOCOL, Material
from vestige.claims.evidence import NO_WINDOW, peaks, why_absent
from vestige.errors import nearest
from vestige.expressions.language import ANY, GLOBS, Aggregate, When
from vestige.runs.tables import empty

SAME_EPOCH = 1e-6
FLAGS = ("dead", "selective")
"""Selectors of neurons of which there may rightly be none: a count of them is 0, not missing."""


def chosen_rows(one: Aggregate, material: Material, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame | str:
    """The rows at all checkpoints, of all seeds of the study; or why there are none.

    Unless an expression says otherwise: the corrected protocol; of selectivity living neurons, as in m(t) (but for the
    column `dead`); of linearity what is compared with nothing; of the history the test set (but for what
    interventions log in training).
    """
    study, condition = material.study, str(one.selectors["condition"])
    rows = tables.get(one.table, empty(one.table)).filter(
        pl.col("condition") == condition, pl.col("seed").is_in(study.seeds)
    )
    protocol = str(one.selectors.get("protocol", PROTOCOL))
    measurement = getattr(study.measurements, one.table, None)
    if one.table != "history":
        rows = rows.filter(pl.col("protocol") == protocol)
        if measurement is not None:
            rows = rows.filter(pl.col("split") == measurement.split)
    if rows.is_empty():
        return why_absent(study, one.table, condition, protocol)
    if one.column not in rows.columns:
        return f"the history has no column {one.column!r}. {nearest(one.column, rows.columns)}"
    for name, wanted in _wanted(one).items():
        if name in ("condition", "protocol", "each") or (one.name == "count" and name in FLAGS):
            continue
        kept = rows.filter(_matches(rows, name, wanted))
        if kept.is_empty():
            return f"no row of {one.table} of {condition!r} has {name} {wanted!r}. {_there(rows, name)}"
        rows = kept
    return rows


def counted(one: Aggregate) -> pl.Expr:
    """Which of the rows that `chosen_rows` gives for a count are counted, true or false."""
    flags = {name: wanted for name, wanted in _wanted(one).items() if name in FLAGS}
    return pl.all_horizontal(pl.lit(value=True), *(_flagged(name, wanted) for name, wanted in flags.items()))


def chosen_steps(one: Aggregate, material: Material, rows: pl.DataFrame, seed: int) -> list[int] | str:
    """The checkpoints that an aggregate is over for a seed, or why there are none.

    Those that any seed has there: a seed that lacks one of them is compared with none.
    """
    when, there = one.when, rows.select("step", "epoch").unique("step").sort("step")
    steps: list[int] = there["step"].to_list()
    match when.kind:
        case "step" | "first":
            return [int(when.start)]
        case "last":
            return [material.last_step] if material.last_step is not None else "the baseline has no step yet"
        case "final":
            final = list(material.final_steps)
            return final if len(final) == FINAL_CHECKPOINTS else "the baseline has not three tested checkpoints yet"
        case "peak":
            peak = peaks(material).get(seed)
            return "its t* is not known: no csi_cv at step 0 or at the last step" if peak is None else [peak]
        case "early":
            if material.early_window is None:
                return NO_WINDOW
            found = [step for step in steps if step < material.early_window]
        case "steps":
            found = [step for step in steps if _within(step, when)]
        case "epoch":
            found = _of_epochs(there, lambda epoch: abs(epoch - when.start) < SAME_EPOCH)
        case _:
            found = _of_epochs(there, lambda epoch: _within(epoch + SAME_EPOCH, when))
    known = f"its checkpoints are at steps {_few(steps)}"
    return found or f"{one.table} of {one.selectors['condition']!r} has no checkpoint {in_words(when)}: {known}"


def in_words(when: When) -> str:
    """Checkpoints, as a sentence names them."""
    match when.kind:
        case "step" | "epoch":
            return f"at {when.kind} {when.start:g}"
        case "steps" | "epochs":
            return f"in {when.kind} [{when.start:g}, {when.stop:g})"
        case "early":
            return "in the early window"
    return f"at step={when.kind}"


def _wanted(one: Aggregate) -> dict[str, str | float | bool]:
    """What is asked of the rows, by selector."""
    return {name: wanted for name, wanted in {**_defaults(one), **one.selectors}.items() if wanted != ANY}


def _flagged(name: str, wanted: str | float | bool) -> pl.Expr:
    return pl.col(name).fill_null(value=False) == wanted


def _defaults(one: Aggregate) -> dict[str, str | float | bool]:
    if one.table == "selectivity" and one.column != "dead":
        return {"dead": False}
    if one.table == "linearity":
        return {"other": ""}
    if one.table == "history":
        return {"split": "train" if "." in one.column else "test"}
    return {}


def _matches(rows: pl.DataFrame, name: str, wanted: str | float | bool) -> pl.Expr:
    if name == "fraction":
        return (pl.col(name) - wanted).abs() < 1e-9
    if name not in GLOBS or not isinstance(wanted, str):
        return _flagged(name, wanted) if isinstance(wanted, bool) else pl.col(name) == wanted
    return pl.col(name).is_in([value for value in rows[name].unique() if fnmatchcase(value, wanted)])


def _there(rows: pl.DataFrame, name: str) -> str:
    values = rows[name].unique(maintain_order=True).drop_nulls().to_list()
    shown = [f"{value:g}" if isinstance(value, float) else repr(value) for value in values]
    return f"There is {_few(shown)}"


def _within(value: float, when: When) -> bool:
    return when.start <= value and (when.stop is None or value < when.stop)


def _of_epochs(there: pl.DataFrame, wanted: Callable[[float], bool]) -> list[int]:
    return [step for step, epoch in there.iter_rows() if wanted(epoch)]


def _few(values: Iterable[object]) -> str:
    shown = list(map(str, values))
    return ", ".join(shown if len(shown) <= 12 else [*shown[:10], "...", shown[-1]])
