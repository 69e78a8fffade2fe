"""What an expression is made of: arithmetic on numbers taken from a study's tables, one number a seed.

    expression := NUMBER | -expression | expression + expression | (expression) | ln(expression) | aggregate
    aggregate  := mean(TABLE.COLUMN, condition="early", layer="layer3.*", step=last)

with + - * / ** and the functions and aggregates below.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

LONGEST = 2000
DEEPEST = 30
MOST = 100
"""Characters, nesting and operations that an expression may have."""
FUNCTIONS = {"ln": 1, "exp": 1, "sqrt": 1, "abs": 1, "min": 2, "max": 2}
"""Of numbers; min and max take two or more."""
AGGREGATES = ("mean", "median", "quantile", "share", "count", "min", "max", "area")
"""Of the rows of a table."""
MOMENTS = ("first", "last", "final", "early", "peak")
RANGES = ("steps", "epochs")
ANY = "any"
GLOBS = ("layer", "stage", "scope", "other")
"""Selectors that take patterns, `layer3.*`."""


@dataclass(frozen=True)
class Table:
    """What an expression may say of one table: its columns, what chooses rows, and what of that must be said."""

    columns: tuple[str, ...]
    selectors: tuple[str, ...]
    required: tuple[str, ...] = ()
    own: bool = False
    """Whether it has further columns, `intervention.quantity`."""


_WHEN = ("condition", "step", "epoch")
TABLES = {
    "selectivity": Table(
        (
            *("csi", "csi_null_mean", "csi_null_q95", "csi_excess", "csi_cv", "reliability", "eta2", "eta2_adj"),
            *("sparsity", "closed", "p_value", "selective", "mu_max", "mu_rest", "mean", "dead", "auroc"),
            *("informedness", "precision_at_k", "mutual_information"),
        ),
        (*_WHEN, "layer", "stage", "dead", "selective", "protocol", "each"),
    ),
    "ablation": Table(
        (
            *("loss_delta", "loss_delta_se", "approximation_se", "top1_delta", "right_to_wrong", "wrong_to_right"),
            *("preferred_delta", "others_delta"),
        ),
        (*_WHEN, "value", "layer", "stage", "each"),
        ("value",),
    ),
    "cumulative": Table(
        ("top1", "loss"), (*_WHEN, "order", "scope", "value", "fraction", "each"), ("order", "scope", "value")
    ),
    "linearity": Table(("value", "anchor"), (*_WHEN, "measure", "layer", "other", "each"), ("measure", "layer")),
    "history": Table(("loss", "top1", "top5", "lr"), (*_WHEN, "split", "each"), own=True),
}
WORDS = {
    "protocol": ("corrected", "faithful"),
    "split": ("test", "train"),
    "value": ("zero", "mean", "resample"),
    "order": ("csi-desc", "csi-asc", "activity-matched", "random"),
    "each": ("layer", "stage", "scope", "step"),
}
"""What some selectors may be."""


@dataclass(frozen=True)
class When:
    """Checkpoints: a moment of `MOMENTS`, one step or epoch (`start`), or a range [start, stop)."""

    kind: str
    start: float = 0.0
    stop: float | None = None


@dataclass(frozen=True)
class Number:
    """A number as it was written."""

    value: float


@dataclass(frozen=True)
class Aggregate:
    """One number of some rows of a table.

    Attributes:
      name: one of `AGGREGATES`.
      table, column: what of.
      selectors: which rows, by name; without `step` and `epoch`.
      when: at which checkpoints.
      comparison: of `share` and `count`: the column's operator and number.
      quantile: of `quantile`: 0 to 1.
      text: as it is written.
    """

    name: str
    table: str
    column: str
    selectors: Mapping[str, str | float | bool]
    when: When
    comparison: tuple[str, float] | None = None
    quantile: float | None = None
    text: str = field(default="", compare=False)


@dataclass(frozen=True)
class Call:
    """An operator or a function of numbers; `neg` is the minus before one."""

    name: str
    arguments: "tuple[Expression, ...]"


Expression = Number | Aggregate | Call


class ExpressionError(ValueError):
    """What is wrong with an expression, and what may stand there instead."""

    def __init__(self, found: str, remedy: str):
        super().__init__(found)
        self.found, self.remedy = found, remedy


def aggregates(expression: Expression) -> Iterator[Aggregate]:
    """What an expression takes from tables, in its order."""
    if isinstance(expression, Aggregate):
        yield expression
    elif isinstance(expression, Call):
        for argument in expression.arguments:
            yield from aggregates(argument)


def calculate(name: str, values: Sequence[float]) -> float:
    """The value of a `Call`.

    Raises:
      ArithmeticError, ValueError: there is none: a division by 0, a logarithm of what is not positive, an overflow.
    """
    match name, values:
        case "neg", [a]:
            return -a
        case "+", [a, b]:
            return a + b
        case "-", [a, b]:
            return a - b
        case "*", [a, b]:
            return a * b
        case "/", [a, b]:
            return a / b
        case "**", [a, b]:
            return math.pow(a, b)
        case "min" | "max", _:
            return min(values) if name == "min" else max(values)
        case "ln" | "exp" | "sqrt" | "abs", [a]:
            return {"ln": math.log, "exp": math.exp, "sqrt": math.sqrt, "abs": abs}[name](a)
    raise AssertionError(name)


def show_call(name: str, values: Sequence[str]) -> str:
    """A call in words: `ln(-0.1)`, `3 / 0`."""
    if name == "neg":
        return f"-{values[0]}"
    return f" {name} ".join(values) if name not in FUNCTIONS else f"{name}({', '.join(values)})"


def check_aggregate(
    name: str,
    table: str,
    column: str,
    comparison: tuple[str, float] | None,
    selectors: Mapping[str, str | float | bool],
    times: Mapping[str, When],
) -> None:
    """What must be said, is; what makes no sense together, is not."""
    of = f"{name}({table}.{column}, ...)"
    if name == "area" and (table, column) != ("cumulative", "top1"):
        raise ExpressionError(of, "area is of cumulative.top1: the normalised area under the curve of ablation")
    if name == "area" and (extra := {"fraction", "each"} & set(selectors)):
        raise ExpressionError(f"{of} with {' and '.join(sorted(extra))}", "An area is over all fractions: leave it out")
    if name == "share" and comparison is None and column not in ("dead", "selective"):
        raise ExpressionError(f"{of} without a comparison", f"Write share({table}.{column} > 0.1, ...)")
    if len(times) != 1:
        found = "both step and epoch" if times else "neither step nor epoch"
        raise ExpressionError(
            f"{of} with {found}", "Say at which checkpoints: step=last, step=early, step=steps(0, 40), epoch=2"
        )
    required = ["condition", *TABLES[table].required]
    if table == "cumulative" and name != "area":
        required.append("fraction")
    if missing := [one for one in required if one not in selectors]:
        raise ExpressionError(f"{of} without {' and '.join(missing)}", f"Add {_examples(missing)}")
    if "each" in selectors and selectors["each"] != "step" and selectors["each"] not in TABLES[table].selectors:
        raise ExpressionError(f'{of} with each="{selectors["each"]}"', f"The table {table} has no such column")


def _examples(names: Sequence[str]) -> str:
    examples = {"condition": "baseline", "measure": "midpoint", "layer": "logits", "scope": "layer*"}
    words = {name: examples.get(name, WORDS.get(name, ("...",))[0]) for name in names}
    return ", ".join("fraction=0.5" if name == "fraction" else f'{name}="{word}"' for name, word in words.items())


def shown(text: str) -> str:
    """A text in quotes, cut short where it is long."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
