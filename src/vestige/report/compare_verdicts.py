"""Verdicts of two studies, claim by claim and clause by clause, and how far their estimates lie apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestige.report.cards import Card, ClauseRow, amount, cards
from vestige.report.compare_side import Side
from vestige.report.style import count, names
from vestige.stats.intervals import Interval, moments

Clause = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where one study's clause is drawn, in percent of the width; None: not drawn."""

    estimate: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class PairForest:
    """Both intervals of a clause on one scale."""

    zero: float
    smallest: tuple[float | None, float | None]
    places: tuple[Place | None, Place | None]
    label: str


@dataclass(frozen=True)
class ClausePair:
    """A clause in both studies; None where one does not have it."""

    id: str
    statistic: str
    rows: tuple[ClauseRow | None, ClauseRow | None]
    differs: bool
    difference: str
    forest: PairForest | None


@dataclass(frozen=True)
class ClaimPair:
    """A claim in both studies; None where one does not judge it."""

    id: str
    title: str
    cards: tuple[Card | None, Card | None]
    differs: bool
    missing: tuple[str, ...]
    clauses: tuple[ClausePair, ...]


def pair_claims(a: Side, b: Side) -> list[ClaimPair]:
    """Claims by their id, in the order of A, then those of B alone."""
    shown = [{card.id: card for card in cards(side.claims)} for side in (a, b)]
    records = [{claim["id"]: claim for claim in (side.claims or {}).get("claims", ())} for side in (a, b)]
    pairs = []
    for name in dict.fromkeys([*shown[0], *shown[1]]):
        both = shown[0].get(name), shown[1].get(name)
        known = both[0] or both[1]
        assert known is not None
        clauses = [(record[name]["clauses"] if name in record else ()) for record in records]
        pairs.append(
            ClaimPair(
                name,
                known.title,
                both,
                both[0] is not None and both[1] is not None and both[0].verdict != both[1].verdict,
                tuple(_why_not(side, name) for side, card in zip((a, b), both, strict=True) if card is None),
                _pair_clauses(both, *clauses),
            )
        )
    return pairs


def summary(pairs: Sequence[ClaimPair]) -> list[str]:
    """How many verdicts agree, and which do not."""
    both = [pair for pair in pairs if None not in pair.cards]
    if not both:
        return ["No claim was judged in both studies."]
    same = [pair for pair in both if not pair.differs]
    have = "has" if len(same) == 1 else "have"
    said = [f"{len(same)} of {count(len(both), 'claim')} judged in both {have} the same verdict in each."]
    for pair in both:
        first, second = pair.cards
        if pair.differs and first and second:
            said.append(f"{pair.id} {pair.title}: {first.verdict} in A, {second.verdict} in B.")
    return said


def welch(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of b less mean of a, with Welch's interval: seeds of two studies are not paired, nor their spreads equal.

    Args:
      a: one number a seed.
      b: likewise; fewer than two on either side give no ends (NaN).
      level: coverage.

    References:
      Welch (1947). The generalization of "Student's" problem when several different population variances are
      involved. Biometrika 34.
    """
    from scipy.special import stdtrit

    (mean_a, error_a, n_a), (mean_b, error_b, n_b) = moments(a), moments(b)
    apart, error = mean_b - mean_a, math.hypot(error_a, error_b)
    if n_a < 2 or n_b < 2:
        return Interval(apart, math.nan, math.nan, n_a + n_b)
    if error == 0:
        return Interval(apart, apart, apart, n_a + n_b)
    df = error**4 / (error_a**4 / (n_a - 1) + error_b**4 / (n_b - 1))
    half = float(stdtrit(df, (1 + level) / 2)) * error
    return Interval(apart, apart - half, apart + half, n_a + n_b)


def _pair_clauses(
    both: tuple[Card | None, Card | None], a: Sequence[Clause], b: Sequence[Clause]
) -> tuple[ClausePair, ...]:
    rows = [{row.id: row for row in card.clauses} if card else {} for card in both]
    records = [{clause["id"]: clause for clause in clauses} for clauses in (a, b)]
    pairs = []
    for name in dict.fromkeys([*rows[0], *rows[1]]):
        pair = rows[0].get(name), rows[1].get(name)
        known = pair[0] or pair[1]
        assert known is not None
        clauses = records[0].get(name), records[1].get(name)
        differs = pair[0] is not None and pair[1] is not None and pair[0].verdict != pair[1].verdict
        apart = _difference(*clauses, differs)
        pairs.append(ClausePair(name, known.statistic, pair, differs, apart, _forest(*clauses)))
    return tuple(pairs)


def _difference(a: Clause | None, b: Clause | None, differs: bool) -> str:
    """B less A in words, and whether it can be told from 0."""
    if not a or not b or a.get("estimate") is None or b.get("estimate") is None:
        return ""
    unit = a.get("unit") or ("accuracy" if a["id"].startswith("C4") else "")
    if unit != (b.get("unit") or unit):
        return "The two are in different units."
    apart = welch(_values(a), _values(b))
    if not apart.n:
        return ""
    said = f"B − A {amount(apart.estimate, unit)}"
    if not math.isfinite(apart.low):
        return f"{said}; no interval: one seed."
    said += f", 95% interval {amount(apart.low, unit, short=True)} to {amount(apart.high, unit, short=True)}"
    if apart.low <= 0 <= apart.high:
        return said + (
            ": it holds 0, so the verdicts differ where the estimates are not shown to." if differs else ": it holds 0."
        )
    return said + ": the estimates differ."


def _values(clause: Clause) -> list[float]:
    return [value for value in clause.get("values") or () if value is not None]


def _forest(a: Clause | None, b: Clause | None) -> PairForest | None:
    """Both clauses on one scale, with 0 and the smallest effects in sight."""
    given = [clause if clause and clause.get("estimate") is not None else None for clause in (a, b)]
    parts = ("estimate", "low", "high", "smallest_effect")
    ends = [clause[p] for clause in given if clause for p in parts if clause.get(p) is not None]
    if not ends:
        return None
    inside = [0.0, *ends, *(value for clause in given if clause for value in _values(clause))]
    margin = 0.08 * ((max(inside) - min(inside)) or 1.0)
    start, width = min(inside) - margin, max(inside) - min(inside) + 2 * margin

    def place(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - start) / width, 2)

    def put(clause: Clause | None) -> Place | None:
        if clause is None:
            return None
        at = [place(value) for value in (clause["estimate"], *_values(clause))]
        known = [value for value in at if value is not None]
        return Place(known[0], place(clause.get("low")), place(clause.get("high")), tuple(known[1:]))

    marks = [place(clause["smallest_effect"]) if clause and clause["smallest_effect"] else None for clause in given]
    zero = place(0.0)
    assert zero is not None
    if marks[0] == marks[1]:
        marks[1] = None
    return PairForest(zero, (marks[0], marks[1]), (put(given[0]), put(given[1])), _label(given))


def _label(given: Sequence[Clause | None]) -> str:
    said = []
    for label, clause in zip("AB", given, strict=True):
        if clause is None:
            said.append(f"{label}: not measured.")
            continue
        unit = clause.get("unit") or ""
        low, high = (amount(clause.get(end), unit, short=True) for end in ("low", "high"))
        said.append(f"{label}: {amount(clause['estimate'], unit)}, 95% interval {low} to {high}.")
    return " ".join(said)


def _why_not(side: Side, name: str) -> str:
    claims = side.study.claims
    if claims is None:
        return f"{side.label} registers no claims."
    own = [claim.id for claim in claims.own]
    if name not in claims.judge and name not in own:
        return f"{side.label} does not judge it: it judges {names([*claims.judge, *own])}."
    return f"{side.label} has not judged it yet."
