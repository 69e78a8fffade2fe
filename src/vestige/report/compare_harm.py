"""Harm to final accuracy by the conditions that two studies both have."""

import math
from collections.abc import Sequence

from vestige.report.compare_side import Side, files
from vestige.report.figures.harm import FINAL, harms, unfinished
from vestige.report.panels import Axis, Figure, Interval, Panel, Table, View
from vestige.report.style import names
from vestige.stats.intervals import paired_t


def harm(a: Side, b: Side) -> Figure:
    """The figure of harm."""
    found = [_harms_of(side) for side in (a, b)]
    shared = [name for name in found[0] if name in found[1]]
    alone = [
        f"{side.label} alone has a harm of {names(only)}."
        for side, own, other in ((a, *found), (b, *reversed(found)))
        if (only := [name for name in own if name not in other])
    ]
    unlike = [name for name in shared if _acting(a, name) != _acting(b, name)]
    said = [f"{side.label}: {line}" for side in (a, b) for line in unfinished(side.source)] + alone
    if unlike:
        said.append(f"Of one name, and not the same intervention in both: {names(unlike)}.")
    if not shared:
        said.append("No condition of one name is trained to its end in both studies.")
    rows = [(name, side, own[name]) for name in shared for side, own in ((a, found[0]), (b, found[1]))]
    return Figure(
        "harm", "Harm by condition",
        f"Final accuracy (mean of the last {FINAL} checkpoints) of the study’s baseline less that of the condition, in "
        "percentage points, paired by seed: mean, 95% interval, seeds. To the right is more harm.",
        "Forest plot: two rows for each condition that both studies have, one a study.",
        (View("harm", (_harm_panel(rows),), (a.key, b.key)),) if rows else (), tuple(said),
        tuple(files(side, "history") for side in (a, b)),
    )  # fmt: skip


def _harms_of(side: Side) -> dict[str, list[float]]:
    """In points, by condition with an intervention, in the study's order."""
    table = harms(side.source).sort("seed")
    acting = [name for name, one in side.study.conditions.items() if one.interventions and name != side.source.baseline]
    found = {name: (100 * table.filter(condition=name)["harm"].drop_nulls()).to_list() for name in acting}
    return {name: values for name, values in found.items() if values}


def _acting(side: Side, name: str) -> list[dict[str, object]]:
    return [one.identity() for one in side.study.conditions[name].interventions]


def _harm_panel(rows: Sequence[tuple[str, Side, list[float]]]) -> Panel:
    marks, table = [], []
    for place, (name, side, values) in enumerate(rows):
        interval = paired_t(values)
        low, high = (None if math.isnan(end) else end for end in (interval.low, interval.high))
        text = f"{name}, {side.name}"
        marks.append(Interval(side.name, place, interval.estimate, low, high, None, values, text, ""))
        table.append((name, side.name, interval.estimate, low, high, len(values)))
    return Panel(
        "Harm",
        Axis("percentage points of final accuracy"),
        Axis("", "names", tuple(f"{name} ({side.label})" for name, side, _ in rows)),
        tuple(marks),
        levels=((0.0, ""),),
        table=Table(("condition", "study", "harm (points)", "low", "high", "seeds"), tuple(table)),
        wide=True,
    )
