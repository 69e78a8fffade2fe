"""F4: harm to final accuracy, clause by clause of claim C4, as a forest plot."""

from collections.abc import Mapping
from typing import Any

from vestige.report.figures.source import Source
from vestige.report.panels import Axis, Figure, Interval, Key, Panel, Table, View

KEYS = (
    Key("supported", 3),
    Key("contradicted", 2),
    Key("neither", 0),
)


def causality(source: Source) -> Figure:
    """Figure F4."""
    claim = next((claim for claim in (source.claims or {}).get("claims", ()) if claim["id"] == "C4"), None)
    clauses = claim["clauses"] if claim else []
    measured = [clause for clause in clauses if clause.get("estimate") is not None]
    keys = tuple(key for key in KEYS if key.name in {_key(clause) for clause in measured})
    views = (View("clauses", (_panel(measured),), keys, "F4-causality"),) if measured else ()
    said = [
        f"{clause['statistic']}: {clause.get('note') or 'not measured'}" for clause in clauses if clause not in measured
    ]
    if not claim:
        said.append(_why_none(source))
    return Figure(
        id="F4",
        title="Does early selectivity matter? (C4)",
        caption="Harm to final accuracy in percentage points: diamond, mean over seeds; bar, 95% interval; "
        "small dots, seeds; "
        "tick, the smallest effect that counts. To the right is more harm.",
        alternative="Forest plot: one row for each clause of claim C4 with its estimate, 95% interval, "
        "seeds and smallest effect.",
        views=views,
        missing=tuple(said),
        sources=("claims.json",),
    )


def _why_none(source: Source) -> str:
    if source.study.claims is None:
        return "This study claims nothing, so there is no clause to show."
    if "C4" not in source.study.claims.judge:
        return "Claim C4 is not among those this study judges."
    return "Claim C4 has not been judged yet."


def _panel(clauses: list[Mapping[str, Any]]) -> Panel:
    marks = tuple(_interval(place, clause) for place, clause in enumerate(clauses))
    rows = tuple(
        (
            clause["statistic"],
            *(_points(clause.get(part)) for part in ("estimate", "low", "high", "smallest_effect")),
            clause["verdict"],
        )
        for clause in clauses
    )
    header = ("clause", "estimate (points)", "low", "high", "smallest effect", "verdict")
    names = tuple(clause["statistic"].replace(" - ", " \u2212 ") for clause in clauses)
    return Panel(
        "Harm by clause", Axis("percentage points of final accuracy"), Axis("", "names", names), marks,
        levels=((0.0, ""),), table=Table(header, rows), wide=True,
    )  # fmt: skip


def _interval(place: int, clause: Mapping[str, Any]) -> Interval:
    estimate, low, high, smallest = (
        _points(clause.get(part)) for part in ("estimate", "low", "high", "smallest_effect")
    )
    values = [_points(value) for value in clause.get("values") or ()]
    text, verdict = clause["statistic"], clause["verdict"]
    return Interval(_key(clause), place, estimate, low, high, smallest, values, text, verdict)


def _key(clause: Mapping[str, Any]) -> str:
    return clause["verdict"] if clause["verdict"] in ("supported", "contradicted") else "neither"


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value
