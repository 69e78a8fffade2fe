"""F7: what each departure of the released code does to a verdict, faithful against corrected."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vestige.report.figures.source import Source
from vestige.report.panels import Axis, Curve, Figure, Key, Mark, Panel, Points, Table, View
from vestige.report.style import number

VERDICTS = ("contradicted", "not supported", "fewer than 3 seeds", "inconclusive", "supported")
"""From left to right."""
BEFORE, AFTER = Key("without the departure", 0, "dash"), Key("with it", 2)
NOT_MEASURED = "not measured"
_APART = 0.16
"""Of a row: a marker above the other where both say the same."""
_HEADER = ("departure", "claim", "the released code", "verdict", "with it", "changes a verdict?", "clauses that change")

Record = Mapping[str, Any]


def departures(source: Source) -> Figure:
    """Figure F7."""
    records = (source.claims or {}).get("departures") or []
    measured = [one for one in records if NOT_MEASURED not in one["verdicts"]]
    views = [_view("claims", "Claims", [(_label(one), *one["verdicts"]) for one in measured], _claims(measured))]
    for claim in dict.fromkeys(one["claim"] for one in records):
        clauses = list(_clauses(one for one in records if one["claim"] == claim))
        rows = [(f"{clause['id']} · {one['title']}", *_verdicts(clause)) for one, clause in clauses]
        views.append(_view(f"clauses of {claim}", f"Clauses of {claim}", rows, _numbers(clauses)))
    return Figure(
        id="F7",
        title="Faithful against corrected",
        caption="The paper’s released code departs from the corrected protocol in known ways. Each row makes one of "
        "them, leaves all else as it is, and judges the claim anew; “all of these” makes them all. Squares: "
        "by the corrected protocol, or by what the table says it is compared with. A verdict that changes rests on the "
        "procedure and not on the networks.",
        alternative="A row for each departure: the verdict without it and the verdict with it, on a scale from "
        "contradicted to supported, joined by a line where they differ.",
        views=tuple(view for view in views if view.panels[0].marks),
        missing=tuple(_missing(records)),
        sources=("claims.json", "departures.parquet"),
        table=Table(_HEADER, tuple(_row(one) for one in records)),
    )


def _row(one: Record) -> tuple[str, ...]:
    before, after = one["verdicts"]
    against = "" if one["against"] == "corrected" else f" (against {one['against']})"
    changed = [
        f"{clause['id']}: {clause['reference']['verdict']} to {clause['departed']['verdict']}"
        for clause in one["clauses"]
        if clause["changes"]
    ]
    said = {None: "–", True: "yes", False: "no"}[one["changes"]]
    return (
        one["title"], one["claim"], f"{one['released']}{against}", before, after, said,
        "; ".join(changed) or (one["note"] if one["changes"] is None else "none"),
    )  # fmt: skip


def _missing(records: Sequence[Record]) -> Iterable[str]:
    """What there is nothing to say of, by what would have to be set."""
    reasons: dict[str, list[str]] = {}
    for one in records:
        if one["changes"] is None:
            reasons.setdefault(one["note"] or "the claim is not measured", []).append(_label(one))
    for reason, labels in reasons.items():
        yield f"{', '.join(labels)}: {reason}."


def _clauses(records: Iterable[Record]) -> Iterable[tuple[Record, Record]]:
    for one in records:
        for clause in one["clauses"]:
            if clause["changes"] is not None:
                yield one, clause


def _label(one: Record) -> str:
    return f"{one['claim']} · {one['title']}"


def _verdicts(clause: Record) -> tuple[str, str]:
    return clause["reference"]["verdict"], clause["departed"]["verdict"]


def _view(name: str, title: str, rows: Sequence[tuple[str, str, str]], table: Table) -> View:
    found = [verdict for verdict in VERDICTS if any(verdict in row[1:] for row in rows)]
    places = {verdict: float(place) for place, verdict in enumerate(found)}
    panel = Panel(
        title,
        Axis("", "names", tuple(found)),
        Axis("", "names", tuple(row[0] for row in rows)),
        tuple(_marks(rows, places)),
        table=table,
        wide=True,
        dense=True,
    )
    return View(name, (panel,), (BEFORE, AFTER), "F7-departures" if name == "claims" else "")


def _marks(rows: Sequence[tuple[str, str, str]], places: Mapping[str, float]) -> Iterable[Mark]:
    if not rows:
        return
    for place, (_, before, after) in enumerate(rows):
        if before != after:
            yield Curve(AFTER.name, (places[before], places[after]), (place - _APART, place + _APART), "anchor")
    for key, column, shift in ((BEFORE, 1, -_APART), (AFTER, 2, _APART)):
        x = [places[row[column]] for row in rows]
        texts = [f"{row[0]}: {row[column]}" for row in rows]
        yield Points(key.name, x, [place + shift for place in range(len(rows))], texts, big=True)


def _claims(records: Sequence[Record]) -> Table:
    header = ("departure", "against", "verdict", "with it", "note")
    return Table(header, tuple((_label(one), one["against"], *one["verdicts"], one["note"]) for one in records))


def _numbers(clauses: Sequence[tuple[Record, Record]]) -> Table:
    header = ("clause", "departure", "unit", "smallest effect", "estimate", "n", "with it", "n", "verdict", "with it")
    rows = []
    for one, clause in clauses:
        before, after = clause["reference"], clause["departed"]
        shown = [text for side in (before, after) for text in (_interval(side), side["n"])]
        rows.append((clause["id"], one["title"], clause["unit"], clause["smallest_effect"], *shown, *_verdicts(clause)))
    return Table(header, tuple(rows))


def _interval(side: Record) -> str:
    ends = f" [{number(side['low'])}, {number(side['high'])}]" if side["low"] is not None else ""
    upper = f", upper end {number(side['upper'])}" if side["upper"] is not None else ""
    return f"{number(side['estimate'])}{ends}{upper}"
