"""Verdicts as cards: a claim's sentence, and each clause with its interval drawn as a small forest plot."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestige.report.style import count, number

TONES = {
    "supported": ("good", "✓"),
    "contradicted": ("bad", "✕"),
    "not supported": ("weak", "–"),
    "inconclusive": ("open", "?"),
    "fewer than 3 seeds": ("few", "…"),
    "not measured": ("none", "○"),
}
"""Tone and sign of each verdict: never told by colour alone."""


@dataclass(frozen=True)
class Forest:
    """A forest plot of one clause; places are percent of its width. None: not drawn."""

    zero: float
    smallest: float | None
    low: float | None
    high: float | None
    estimate: float
    seeds: tuple[float, ...]
    label: str


@dataclass(frozen=True)
class ClauseRow:
    """A clause as the card shows it."""

    id: str
    statistic: str
    condition: str
    estimate: str
    interval: str
    seeds: str
    verdict: str
    tone: str
    sign: str
    note: str
    forest: Forest | None


@dataclass(frozen=True)
class Card:
    """A claim as the page shows it."""

    id: str
    anchor: str
    title: str
    statement: str
    sentence: str
    verdict: str
    tone: str
    sign: str
    p: str
    note: str
    changed: tuple[str, ...]
    clauses: tuple[ClauseRow, ...]
    beside: tuple[tuple[str, str], ...]


_INTERVALS = re.compile(r" \(95% CI [^()]*\)")
"""Intervals within a claim's sentence: they stand with the clauses, and the sentence is to be plain."""


def cards(claims: Mapping[str, Any] | None) -> tuple[Card, ...]:
    """The cards of a study's claims, in the order of `claims.json`."""
    return tuple(_card(claim) for claim in (claims or {}).get("claims", ()))


def _card(claim: Mapping[str, Any]) -> Card:
    tone, sign = _tone(claim["verdict"])
    p_holm = claim.get("p_holm")
    family = "the study's own claims" if claim.get("own") else "the claims"
    statement, sentence = claim.get("statement") or "", _INTERVALS.sub("", claim.get("sentence") or "")
    return Card(
        id=claim["id"],
        anchor=f"own-{claim['id']}" if claim.get("own") else claim["id"],
        title=claim["title"],
        statement="" if sentence.startswith(statement) else statement,
        sentence=sentence,
        verdict=claim["verdict"],
        tone=tone,
        sign=sign,
        p=f"p = {number(p_holm, 2)} (Holm over {family})" if p_holm is not None and tone not in ("none", "few") else "",
        note=claim.get("note") or "",
        changed=tuple(claim.get("changed") or ()),
        clauses=tuple(_row(clause) for clause in claim["clauses"]),
        beside=tuple(_beside(entry) for entry in claim.get("beside") or ()),
    )


def _row(clause: Mapping[str, Any]) -> ClauseRow:
    tone, sign = _tone(clause["verdict"])
    unit = clause.get("unit") or ("accuracy" if clause["id"].startswith("C4.") else "")
    estimate = clause.get("estimate")
    return ClauseRow(
        id=clause["id"],
        statistic=clause["statistic"].replace(" - ", " \u2212 "),
        condition=_expected(clause, unit),
        estimate=amount(estimate, unit) if estimate is not None else "",
        interval=_interval(clause, unit),
        seeds=_seeds(clause, unit),
        verdict=clause["verdict"],
        tone=tone,
        sign=sign,
        note=clause.get("note") or "",
        forest=forest(clause) if estimate is not None else None,
    )


def _seeds(clause: Mapping[str, Any], unit: str) -> str:
    seeds, enough = clause.get("seeds") or (), clause.get("seeds_to_decide")
    said = f"{count(len(seeds), 'seed')}: {', '.join(map(str, seeds))}" if seeds else ""
    shown = clause.get("detectable") if clause["verdict"] in ("inconclusive", "not supported") else None
    if shown is not None:
        side = "less" if clause["direction"] == "below" else "more"
        said += f"; with this spread they support a true value of {amount(shown, unit)} or {side} in 4 of 5 studies"
    return said + (f"; {enough} would decide in 4 of 5 studies, if alike" if enough else "")


def _interval(clause: Mapping[str, Any], unit: str) -> str:
    low, high, upper = (clause.get(part) for part in ("low", "high", "upper"))
    if low is None or high is None:
        return "no interval: one seed" if clause.get("estimate") is not None else ""
    said = f"95% interval {amount(low, unit, short=True)} to {amount(high, unit, short=True)}"
    return said + (f", one-sided upper end {amount(upper, unit, short=True)}" if upper is not None else "")


def _expected(clause: Mapping[str, Any], unit: str) -> str:
    d = clause["smallest_effect"]
    words = _WORDS.get(clause["direction"], clause["direction"])
    if not d and clause["direction"] == "at least":
        return "expected above 0"
    scaled = 100 * d if unit == "accuracy" else d
    shown = f"{scaled:.3g}" + (f" (× {math.exp(d):.3g})" if unit == "ln ratio" else _suffix(unit))
    return f"{words} {shown}"


_WORDS = {
    "at least": "expected at least",
    "surely at least": "whole interval at least",
    "below": "expected below",
}
_PLACES = {"ln ratio": 3, "csi_cv": 3, "area": 3, "share": 2, "accuracy": 2}


def amount(value: float | None, unit: str, *, short: bool = False) -> str:
    """A statistic as a reader wants it: accuracy in points, a log ratio also as a multiple."""
    if value is None:
        return number(None)
    scaled = 100 * value if unit == "accuracy" else value
    shown = f"{scaled:.{_PLACES[unit]}f}".replace("-", "\u2212") if unit in _PLACES else number(value)
    if unit == "ln ratio" and not short:
        return f"{shown} (× {math.exp(value):.2f})"
    return shown if short else shown + _suffix(unit)


def _suffix(unit: str) -> str:
    """What stands behind a number: of a study's own units, the unit."""
    return {"accuracy": " points", "": ""}.get(unit, "" if unit in _PLACES else f" {unit}")


def forest(clause: Mapping[str, Any]) -> Forest:
    """Where to draw what, so that 0, the smallest effect, the interval and every seed are in sight."""
    estimate, low, high, d = (clause.get(part) for part in ("estimate", "low", "high", "smallest_effect"))
    values = [value for value in clause.get("values") or () if value is not None]
    inside = [0.0, *(value for value in (estimate, low, high, d, *values) if value is not None)]
    start, end = min(inside), max(inside)
    margin = 0.08 * ((end - start) or 1.0)
    place = _places(start - margin, end + margin)
    assert estimate is not None
    return Forest(
        zero=place(0.0),
        smallest=place(d) if d else None,
        low=None if low is None else place(low),
        high=None if high is None else place(high),
        estimate=place(estimate),
        seeds=tuple(place(value) for value in values),
        label=f"Estimate {number(estimate)}, 95% interval {number(low)} to {number(high)}, "
        f"smallest effect {number(d)}.",
    )


def _places(start: float, end: float) -> Any:
    return lambda value: round(100 * (value - start) / (end - start), 2)


def _beside(entry: Any) -> tuple[str, str]:
    """A number that stands beside a claim and decides nothing: its name, and what it is."""
    if not isinstance(entry, Mapping):
        return str(entry), ""
    name = entry.get("sentence") or entry.get("statistic") or entry.get("name") or entry.get("id") or ""
    if entry.get("sentence") or entry.get("estimate") is None:
        return name, entry.get("note") or ""
    return name, _with_interval(entry)


def _with_interval(entry: Mapping[str, Any]) -> str:
    unit, low, high = entry.get("unit") or "", entry.get("low"), entry.get("high")
    ends = f" [{amount(low, unit, short=True)}, {amount(high, unit, short=True)}]" if None not in (low, high) else ""
    note = f" — {entry['note']}" if entry.get("note") else ""
    return f"{amount(entry['estimate'], unit)}{ends}{note}"


def _tone(verdict: str) -> tuple[str, str]:
    return TONES.get(verdict, ("none", "○"))


def tally(shown: Sequence[Card]) -> str:
    """`2 supported, 1 inconclusive, 1 not measured`."""
    verdicts = [card.verdict for card in shown]
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in TONES if verdict in verdicts)
