"""What a study claims, as it stands in its YAML file: typed, frozen, every default here."""

from collections.abc import Iterator, Mapping, Sequence
from string import ascii_lowercase
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from vestige.acting import ConditionConfig, Config, Window, name_interventions
from vestige.errors import nearest
from vestige.expressions.language import Aggregate, Expression, ExpressionError, aggregates
from vestige.expressions.reading import parse

REGISTERED = ("C1", "C2", "C3", "C4")
MOST_CLAUSES = len(ascii_lowercase)


def _printable(text: str) -> str:
    """The text; a terminal would obey what cannot be printed."""
    for character in text:
        if not (character.isprintable() or character.isspace()):
            raise ExpressionError(f"it has {character!r}, which cannot be printed", f"Write it without {character!r}")
    return text


Line = Annotated[
    str,
    Field(max_length=500),
    BeforeValidator(lambda v: " ".join(v.split()) if _is_short(v) else v),
    AfterValidator(_printable),
]
"""One line of text that can be printed, its spaces collapsed."""


class Roles(Config):
    """Which condition plays which part in claim C4."""

    baseline: str = "baseline"
    early: str = "early"
    mid: str = "mid"
    late: str = "late"
    eta2_early: str = "eta2-early"
    permuted_eta2_early: str = "permuted-eta2-early"


class OwnClauseConfig(Config):
    """One comparison of one statistic of the study's own."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=40)] | None = None
    """None: a, b, c ... by its place."""
    statistic: str
    """An expression over the tables, one number a seed: see docs/how-to/claim-your-own.md."""
    direction: Literal["at least", "surely at least", "below"] = "at least"
    """`at least`: 95% interval above 0 and estimate >= d; `surely at least`: lower end >= d; `below`: one-sided upper
    end < d."""
    smallest_effect: Annotated[float, Field(ge=0)]
    """d: the smallest effect that matters, in the unit of the statistic."""
    unit: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9 /_-]{0,19}$")] | None = None
    """`ln ratio` and `accuracy` are shown as times and points; others as they are."""
    sentence: Line | None = None
    """What the estimate says; `{}` is replaced by it. None: the statistic and its value."""

    @property
    def expression(self) -> Expression:
        """The statistic, read."""
        return parse(self.statistic)


class OwnClaimConfig(Config):
    """A claim of the study's own: all its clauses must hold."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]*$", max_length=40)]
    title: Line | None = None
    """One word or two. None: the id."""
    statement: Line
    """The claim, in one sentence."""
    clauses: Annotated[tuple[OwnClauseConfig, ...], Field(min_length=1, max_length=MOST_CLAUSES)]

    @model_validator(mode="after")
    def _check(self):
        if self.id[0] == "C" and self.id[1:2].isdigit():
            raise ValueError(f"the id {self.id!r} could be taken for a registered claim's (C1 to C4); give it another")
        if len(set(self.names)) < len(self.clauses):
            raise ValueError(f"claim {self.id!r} has two clauses of one id")
        for name, clause in self.named():
            where = f"claim {self.id!r}, clause {name!r}"
            if clause.sentence is not None and clause.sentence.count("{}") != 1:
                raise ExpressionError(f"{where}: its sentence has not exactly one {{}}", "Put {} where the number goes")
            try:
                clause.expression  # noqa: B018
            except ExpressionError as error:
                raise ExpressionError(f"{where}: its statistic has {error.found}", error.remedy) from None
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Ids of the clauses."""
        return tuple(clause.id or ascii_lowercase[place] for place, clause in enumerate(self.clauses))

    def named(self) -> Iterator[tuple[str, OwnClauseConfig]]:
        """The clauses with their ids."""
        return zip(self.names, self.clauses, strict=True)


def _listed(own: Any) -> Any:
    """Claims by id as a list of claims."""
    if not isinstance(own, Mapping):
        return own
    return [{"id": name, **claim} if isinstance(claim, Mapping) else claim for name, claim in own.items()]


class ClaimsConfig(Config):
    """What the study claims, fixed before its results exist."""

    judge: tuple[Literal["C1", "C2", "C3", "C4"], ...] = REGISTERED
    early_window: Annotated[Window, BeforeValidator(lambda v: {"stop": v} if isinstance(v, int) else v)]
    """What counts as early, [0, w): from pilot seeds that are not among the study's, then frozen. A number: steps."""
    pilot_seeds: tuple[int, ...] = ()
    """The seeds `early_window` was taken from; they may not be among the study's."""
    accuracy_effect: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Smallest change of final accuracy that matters (C4)."""
    roles: Roles = Roles()
    own: Annotated[tuple[OwnClaimConfig, ...], BeforeValidator(_listed)] = ()
    """Claims of the study's own, a list or by id; they are corrected for among themselves."""

    @model_validator(mode="after")
    def _check(self):
        if self.early_window.start or self.early_window.stop is None:
            raise ValueError("early_window begins at step 0 and has a stop")
        names = [claim.id for claim in self.own]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two claims have the id {twice[0]!r}")
        return self

    def taken(self) -> Iterator[tuple[str, Aggregate]]:
        """What own claims take from tables, each with the words `claim 'x', clause 'a'`."""
        for claim in self.own:
            for name, clause in claim.named():
                for aggregate in aggregates(clause.expression):
                    yield f"claim {claim.id!r}, clause {name!r}", aggregate


def check_conditions(claims: ClaimsConfig, conditions: Mapping[str, ConditionConfig]) -> None:
    """Own claims must be about conditions of the study, and what their interventions log.

    Raises:
      ExpressionError: one is about another; claim, clause and the nearest name are named.
    """
    for where, aggregate in claims.taken():
        name = str(aggregate.selectors["condition"])
        if name not in conditions:
            raise ExpressionError(f"{where}: the study has no condition {name!r}", nearest(name, conditions))
        intervention, dot, _ = aggregate.column.partition(".")
        logging = name_interventions(conditions[name].interventions)
        if dot and intervention not in logging:
            raise ExpressionError(
                f"{where}: {name!r} has no intervention {intervention!r} that would log {aggregate.column!r}",
                _known(intervention, logging),
            )


def _known(name: str, choices: Sequence[str]) -> str:
    return nearest(name, choices) if choices else "It has none: name another condition"


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 5000
