"""A study's own claims: expressions over its tables -> one number a seed, or why there is none."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import polars as pl

from vestige.claiming import OwnClaimConfig
from vestige.claims.choosing import chosen_rows, chosen_steps, counted
from vestige.claims.curves import Material
from vestige.claims.evidence import NO_CLASSES, Sample, Statistic, collect
from vestige.expressions.language import Aggregate, Call, Expression, Number, calculate, show_call
from vestige.stats.effects import normalised_area

_OPERATORS: Mapping[str, Callable[[pl.Expr, float], pl.Expr]] = {
    "<": pl.Expr.lt,
    "<=": pl.Expr.le,
    ">": pl.Expr.gt,
    ">=": pl.Expr.ge,
    "==": pl.Expr.eq,
    "!=": pl.Expr.ne,
}


def own_evidence(config: OwnClaimConfig, material: Material, tables: Mapping[str, pl.DataFrame]) -> dict[str, Sample]:
    """The statistic of every clause, by the clause's id.

    Args:
      config: the claim.
      material: knows the study, its windows and its last step.
      tables: by kind, with all conditions, seeds and protocols.
    """
    return {f"{config.id}.{name}": evaluate(clause.expression, material, tables) for name, clause in config.named()}


def evaluate(expression: Expression, material: Material, tables: Mapping[str, pl.DataFrame]) -> Sample:
    """One number for every seed of the study; a seed of which rows are missing is left out by name."""
    reasons: list[str] = []
    of = _statistic(expression, material, tables, reasons)
    if reasons:
        return Sample(missing="; ".join(dict.fromkeys(reasons)))
    return collect(material.study.seeds, of)


def _statistic(
    expression: Expression, material: Material, tables: Mapping[str, pl.DataFrame], reasons: list[str]
) -> Statistic:
    """An expression as a function of the seed; why it has no value for any seed is added to `reasons`."""
    match expression:
        case Number(value):
            return lambda _: value
        case Aggregate():
            rows = chosen_rows(expression, material, tables)
            if isinstance(rows, str):
                reasons.append(rows)
                return lambda _: rows
            return _Taking(expression, material, rows)
        case Call(name, arguments):
            parts = [_statistic(argument, material, tables, reasons) for argument in arguments]
            return lambda seed: _calculated(name, [part(seed) for part in parts])


def _calculated(name: str, values: list[float | str]) -> float | str:
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return next(value for value in values if isinstance(value, str))
    try:
        value = calculate(name, numbers)
    except (ArithmeticError, ValueError):
        value = math.nan
    if math.isfinite(value):  # 1 / (1e200 * 1e200) would be 0, and max(1, inf - inf) be 1
        return value
    return f"{show_call(name, [f'{number:.3g}' for number in numbers])} is no number"


@dataclass(frozen=True)
class _Taking:
    """An aggregate as a function of the seed."""

    aggregate: Aggregate
    material: Material
    rows: pl.DataFrame

    def __call__(self, seed: int) -> float | str:
        steps = chosen_steps(self.aggregate, self.material, self.rows, seed)
        if isinstance(steps, str):
            return steps
        rows = self.rows.filter(pl.col("seed") == seed, pl.col("step").is_in(steps))
        if lacking := sorted(set(steps) - set(rows["step"])):
            return f"no {self.name} at step {', '.join(map(str, lacking[:5]))}{', ...' if len(lacking) > 5 else ''}"
        if self.aggregate.name == "area":
            return self.area(rows)
        values = pl.col(self.aggregate.column).cast(pl.Float64)
        if self.aggregate.name != "count":
            rows = rows.filter(values.is_finite())
        if rows.is_empty():
            return f"no finite {self.name}"
        each = self.aggregate.selectors.get("each")
        groups = rows.partition_by(str(each), maintain_order=True) if each else [rows]
        return fmean(float(group.select(self.of).item()) for group in groups)

    @property
    def name(self) -> str:
        return f"{self.aggregate.table}.{self.aggregate.column}"

    @cached_property
    def of(self) -> pl.Expr:
        one = self.aggregate
        values = known = pl.col(one.column).cast(pl.Float64)
        if one.comparison is not None:
            sign, bound = one.comparison
            values = _OPERATORS[sign](values, bound).cast(pl.Float64)
        match one.name:
            case "quantile":
                assert one.quantile is not None
                return values.quantile(one.quantile, interpolation="linear")
            case "share":
                return values.mean()
            case "count":
                rows = counted(one) & pl.repeat(value=True, n=pl.len())
                holds = rows if one.comparison is None else rows & known.is_finite() & values.cast(pl.Boolean)
                return holds.fill_null(value=False).cast(pl.Float64).sum()
            case name:
                return getattr(values, name)()

    def area(self, rows: pl.DataFrame) -> float | str:
        """Mean over the checkpoints at which every curve is judgeable, of the mean over scopes of those over draws."""
        if self.material.classes is None:
            return NO_CLASSES
        curves = rows.group_by("step", "scope", "draw", maintain_order=True).agg(
            "fraction", pl.col("top1").fill_null(math.nan)
        )
        areas = [normalised_area(fractions, top1, self.material.classes) for *_, fractions, top1 in curves.iter_rows()]
        scopes = (
            curves.select("step", "scope", pl.Series("area", areas, dtype=pl.Float64))
            .group_by("step", "scope", maintain_order=True)
            .agg(pl.col("area").mean())
        )
        steps = scopes.group_by("step", maintain_order=True).agg(pl.col("area").mean())["area"]
        judged = steps.filter(steps.is_finite())
        return float(judged.to_numpy().mean()) if len(judged) else "no judgeable curve"
