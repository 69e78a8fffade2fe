"""Text -> expression, by a parser of its own: it knows nothing but this language, and what it returns is data.

Nothing of an expression is ever run as code, and its length, nesting and number of operations are bounded.
"""

import math
import re
from dataclasses import dataclass

from vestige.errors import nearest
from vestige.expressions.language import (
    AGGREGATES,
    ANY,
    DEEPEST,
    FUNCTIONS,
    LONGEST,
    MOMENTS,
    MOST,
    RANGES,
    TABLES,
    WORDS,
    Aggregate,
    Call,
    Expression,
    ExpressionError,
    Number,
    When,
    aggregates,
    calculate,
    check_aggregate,
    show_call,
    shown,
)


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
      ExpressionError: it is none; what was found and where, and what may stand there.
    """
    if len(text) > LONGEST:
        raise ExpressionError(
            f"{len(text):,} characters, beginning {shown(text)}", f"An expression has at most {LONGEST:,} characters"
        )
    expression = _Parser(text).whole()
    if not any(aggregates(expression)):
        raise ExpressionError("nothing of any table in it", _OPERAND)
    return expression


def canonical(text: str) -> str:
    """An expression that `parse` reads, with the same spaces and quotes however it was written."""
    written = ""
    operand = False  # whether what stands before can be the left side of an operator
    for token in _tokens(text):
        word = f'"{token.text}"' if token.kind == "string" else token.text
        spaced = operand and word in _SPACED
        written += f" {word} " if spaced else f"{word} " if word == "," else word
        operand = token.kind in ("number", "name", "string") or word in (")", "]")
    return written


_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_][A-Za-z_0-9]*)"""
    r"""|"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)'|(?P<sign>\*\*|<=|>=|==|!=|[-+*/(),.=<>\[\]]))"""
)
_SPACED = ("+", "-", "*", "/", "<", "<=", ">", ">=", "==", "!=")
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 4}
_MINUS = 3
_MOST_STEPS = 10**15
_OPERAND = (
    f"Allowed are a number, -, (, a function of numbers ({', '.join(FUNCTIONS)}) and {', '.join(AGGREGATES)} of a "
    'column: mean(selectivity.csi_cv, condition="baseline", step=last)'
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int

    @property
    def shown(self) -> str:
        return f"{shown(self.text)} at character {self.place}" if self.kind != "end" else "the end"


def _tokens(text: str) -> list[_Token]:
    found, place, end = [], 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            signs = "+ - * / ** ( ) , . = < <= > >= == !="
            raise ExpressionError(
                f"{shown(text[place])} at character {place + 1}",
                f"An expression is made of numbers, names, quoted words and the signs {signs}",
            )
        kind = match.lastgroup or ""
        kind_of = "string" if kind in ("double", "single") else kind
        found.append(_Token(kind_of, match[kind], match.start(kind) + (0 if kind_of == "string" else 1)))
        place = match.end()
    return found


class _Parser:
    """Reads an expression by precedence: `a + b * c ** -d`."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = [*_tokens(text), _Token("end", "", len(text) + 1)]
        self.at = self.depth = self.operations = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def took(self, sign: str) -> bool:
        """Take this sign if it comes next."""
        if self.token.kind == "sign" and self.token.text == sign:
            self.at += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        if not self.took(sign):
            raise ExpressionError(self.token.shown, f"Allowed is {sign!r}")

    def whole(self) -> Expression:
        expression = self.expression()
        if self.token.kind != "end":
            raise ExpressionError(self.token.shown, "Allowed are + - * / ** and the end")
        return expression

    def expression(self, minimum: int = 0) -> Expression:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ExpressionError(
                f"nesting of more than {DEEPEST}, at character {self.token.place}",
                "Write it flatter, or as two clauses",
            )
        left = self.operand()
        while self.token.kind == "sign" and _BINDING.get(self.token.text, 0) > minimum:
            sign = self.take().text
            right = self.expression(_BINDING[sign] - (sign == "**"))  # ** binds to the right
            left = self.call(sign, left, right)
        self.depth -= 1
        return left

    def call(self, name: str, *arguments: Expression) -> Expression:
        self.count()
        numbers = [one.value for one in arguments if isinstance(one, Number)]
        return _number(name, numbers) if len(numbers) == len(arguments) else Call(name, arguments)

    def count(self) -> None:
        self.operations += 1
        if self.operations > MOST:
            raise ExpressionError(f"more than {MOST} operations", "Write it shorter, or as two clauses")

    def operand(self) -> Expression:
        if self.took("-"):
            return self.call("neg", self.expression(_MINUS))
        if self.took("("):
            inner = self.expression()
            self.expect(")")
            return inner
        if self.token.kind == "number":
            return Number(self.number())
        if self.token.kind != "name":
            raise ExpressionError(self.token.shown, _OPERAND)
        return self.named()

    def number(self) -> float:
        token = self.take()
        if token.kind != "number":
            raise ExpressionError(token.shown, "Allowed is a number")
        if not math.isfinite(value := float(token.text)):
            raise ExpressionError(f"{token.shown}, which is too large for a number", "Write a smaller one")
        return value

    def named(self) -> Expression:
        token = self.take()
        known = dict.fromkeys((*AGGREGATES, *FUNCTIONS))
        if self.token.text in (".", "[") and token.text in TABLES:
            raise ExpressionError(
                f"{token.shown} outside an aggregate: a column has many rows",
                f"Take one number of them: mean({token.text}.COLUMN, condition=..., step=...); {', '.join(AGGREGATES)}",
            )
        if self.token.text in (".", "["):
            raise ExpressionError(f"{token.shown}, which is no table", nearest(token.text, TABLES))
        if token.text not in known:
            close = nearest(token.text, known)
            meant = f"{close} " if close.startswith("Did") else "The logarithm is ln. " if "log" in token.text else ""
            raise ExpressionError(f"{token.shown}, which is no function or aggregate", meant + _OPERAND)
        self.expect("(")
        of_rows = self.token.kind == "name" and self.tokens[self.at + 1].text in (".", "[", ",", ")")
        if token.text in AGGREGATES and (of_rows or token.text not in FUNCTIONS):
            return self.aggregate(token)
        return self.function(token)

    def function(self, token: _Token) -> Expression:
        arguments = [self.expression()]
        while self.took(","):
            arguments.append(self.expression())
        self.expect(")")
        wanted, several = FUNCTIONS[token.text], token.text in ("min", "max")
        if len(arguments) != wanted and not (several and len(arguments) > wanted):
            takes = "two numbers or more, or one table.column" if several else "one number"
            raise ExpressionError(f"{token.shown} with {len(arguments)} numbers", f"{token.text} takes {takes}")
        return self.call(token.text, *arguments)

    def aggregate(self, token: _Token) -> Aggregate:
        table, column = self.column(token.text)
        comparison = None
        if self.token.text in _COMPARISONS and self.token.kind == "sign":
            if token.text not in ("share", "count"):
                raise ExpressionError(
                    f"{self.token.shown} in {token.text}(...)", "Only share(...) and count(...) take a comparison"
                )
            comparison = (self.take().text, self.signed())
        quantile = None
        if token.text == "quantile":
            self.expect(",")
            quantile = self.number()
            if quantile > 1:
                raise ExpressionError(f"the quantile {quantile:g}", "Give a share from 0 to 1: 0.9")
        self.count()
        selectors: dict[str, str | float | bool] = {}
        times: dict[str, When] = {}
        while self.took(","):
            name = self.selector(table, {*selectors, *times})
            if name in ("step", "epoch"):
                times[name] = self.when(name)
            else:
                selectors[name] = self.value(name)
        end = self.token
        self.expect(")")
        text = self.text[token.place - 1 : end.place]
        check_aggregate(token.text, table, column, comparison, selectors, times)
        return Aggregate(token.text, table, column, selectors, next(iter(times.values())), comparison, quantile, text)

    def column(self, aggregate: str) -> tuple[str, str]:
        token = self.take()
        if token.kind != "name" or self.token.text not in (".", "["):
            raise ExpressionError(token.shown, f"Allowed is a column of a table: {aggregate}(selectivity.csi_cv, ...)")
        if token.text not in TABLES:
            raise ExpressionError(f"{token.shown}, which is no table", nearest(token.text, TABLES))
        table = TABLES[token.text]
        if self.took("["):
            column = self.take()
            if column.kind != "string" or not table.own or not re.fullmatch(r"[A-Za-z0-9_-]+\.[a-z0-9_]+", column.text):
                raise ExpressionError(
                    f"{token.text}[...] with {column.shown}",
                    'Only history["NAME.QUANTITY"], what an intervention logs, is written so: history["eta2.dose"]',
                )
            self.expect("]")
            return token.text, column.text
        self.expect(".")
        column = self.take()
        if column.kind != "name" or column.text not in table.columns:
            raise ExpressionError(
                f"{column.shown}, which is no column of {token.text} to calculate with",
                nearest(column.text, table.columns),
            )
        return token.text, column.text

    def selector(self, table: str, taken: set[str]) -> str:
        token = self.take()
        known = TABLES[table].selectors
        if token.kind != "name" or token.text not in known:
            raise ExpressionError(f"{token.shown}, by which no rows of {table} are chosen", nearest(token.text, known))
        if token.text in taken:
            raise ExpressionError(f"{token.shown} a second time", "Say it once")
        self.expect("=")
        return token.text

    def value(self, name: str) -> str | float | bool:
        if name == "fraction":
            return self.number()
        token = self.take()
        if name in ("dead", "selective"):
            words = {"true": True, "false": False, ANY: ANY}
            if token.kind != "name" or token.text.lower() not in words:
                raise ExpressionError(f"{name}={shown(token.text)}", f"Write {name}=true, {name}=false or {name}=any")
            return words[token.text.lower()]
        if token.kind != "string" or not token.text or not token.text.isprintable():
            raise ExpressionError(f"{name}= and then {token.shown}", f'Give it in quotes: {name}="..."')
        if name in WORDS and token.text not in WORDS[name]:
            raise ExpressionError(f"{name}={shown(token.text)}", nearest(token.text, WORDS[name]))
        return token.text

    def when(self, name: str) -> When:
        token = self.token
        kinds = MOMENTS if name == "step" else ()
        ranges = RANGES if name == "step" else ("epochs",)
        if token.kind == "number":
            value = self.number()
            if name == "step" and (value != int(value) or value > _MOST_STEPS):
                raise ExpressionError(f"step={token.text}", "Give a whole number of steps, or epoch=")
            return When(name, value)
        if token.kind == "name" and token.text in kinds:
            return When(self.take().text)
        if token.kind == "name" and token.text in ranges:
            kind = self.take().text
            self.expect("(")
            start = self.number()
            self.expect(",")
            stop = self.number()
            self.expect(")")
            if stop <= start:
                raise ExpressionError(f"{kind}({start:g}, {stop:g})", "A range ends after its start")
            return When(kind, start, stop)
        may = ", ".join(("a number", *kinds, *(f"{kind}(a, b)" for kind in ranges)))
        raise ExpressionError(f"{name}= and then {token.shown}", f"Allowed are {may}")

    def signed(self) -> float:
        return -self.number() if self.took("-") else self.number()


def _number(name: str, numbers: list[float]) -> Number:
    """What is made of numbers alone, so that what cannot be calculated is seen at once."""
    try:
        value = calculate(name, numbers)
    except (ArithmeticError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        written = show_call(name, [f"{number:g}" for number in numbers])
        raise ExpressionError(f"{written}, which is no finite number", "Write numbers that can be calculated with")
    return Number(value)
