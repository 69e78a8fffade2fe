"""F6: harm to final accuracy against what the intervention did to csi, eta2 and closed by the end of its window."""

from collections.abc import Mapping

import polars as pl

from vestige.claims.curves import acting_in_steps, selectivity_curves, steps_per_epoch
from vestige.report.figures.harm import FINAL, harms, unfinished
from vestige.report.figures.source import Source
from vestige.report.panels import Axis, Figure, Panel, Points, Table, View

MEASURES = {"csi": "change of csi", "eta2": "change of eta2", "closed": "change of closed gates"}
PROTOCOL = "corrected"


def mediators(source: Source) -> Figure:
    """Figure F6."""
    rows = changes(source)
    acting = [name for name, condition in source.study.conditions.items() if condition.interventions]
    found = [name for name in acting if name in rows["condition"]]
    lacking = [name for name in acting if name not in found]
    said = unfinished(source)
    if lacking:
        said.append(f"Not trained and measured to the end beside {source.baseline}: {', '.join(lacking)}.")
    panels = tuple(_panel(rows, found, measure) for measure in MEASURES)
    keys = tuple(source.condition_keys[name] for name in found)
    return Figure(
        id="F6",
        title="What goes with the harm?",
        caption=f"Each condition's harm to final accuracy (mean of the last {FINAL} checkpoints) against what it "
        f"changed, compared with {source.baseline} at the first checkpoint after its window: mean over the living "
        "neurons of a layer, then over the layers outside the last stage. Large: mean over seeds; small: one seed. A "
        "measure that harm does not go with is not what the harm comes from.",
        alternative="Three scatter plots: a point for each condition, harm against the change of csi, of eta2 and of "
        "the share of closed gates.",
        views=(View("harm", panels, keys, "F6-mediators"),) if found else (),
        missing=tuple(said),
        sources=("runs/*/history.parquet", source.files(f"selectivity-{PROTOCOL}-<split>/step-*.parquet")),
    )


def changes(source: Source) -> pl.DataFrame:
    """Harm and changes of every condition with an intervention.

    Returns:
      a row a condition and seed: `condition`, `seed`, `step` (where it is compared), `harm`, and for each of
      `MEASURES` the condition's value less the baseline's.
    """
    selectivity = source.table("selectivity").filter(protocol=PROTOCOL)
    base = _values(selectivity, source.baseline)
    harm = {(condition, seed): value for condition, seed, value in harms(source).iter_rows()}
    rows = []
    for condition in source.study.conditions:
        end, own = _end(source, condition), _values(selectivity, condition)
        for (name, seed), value in sorted(harm.items()):
            steps = sorted(step for at, step in own.keys() & base.keys() if at == seed and end is not None)
            after = next((step for step in steps if end is not None and step >= end), None)
            if name == condition and after is not None:
                differences = [own[seed, after][m] - base[seed, after][m] for m in MEASURES]
                rows.append((condition, seed, after, value, *differences))
    floats = dict.fromkeys(("harm", *MEASURES), pl.Float64)
    return pl.DataFrame(rows, {"condition": pl.String, "seed": pl.Int64, "step": pl.Int64} | floats, orient="row")


def _values(selectivity: pl.DataFrame, condition: str) -> Mapping[tuple[int, int], Mapping[str, float]]:
    """By seed and step: each measure, where all of them are known."""
    rows = selectivity.filter(condition=condition)
    curves = {measure: selectivity_curves(rows, measure) for measure in MEASURES}
    places = [{(seed, step) for seed, curve in each.items() for step in curve} for each in curves.values()]
    return {(seed, step): {m: curves[m][seed][step] for m in MEASURES} for seed, step in set.intersection(*places)}


def _end(source: Source, condition: str) -> int | None:
    """The step after the last one at which an intervention of the condition acts."""
    history = source.table("history")
    interventions = source.study.conditions[condition].interventions
    acting = acting_in_steps(interventions, steps_per_epoch(history), source.total_steps or 0)
    return acting[1] if acting else None


def _panel(rows: pl.DataFrame, conditions: list[str], measure: str) -> Panel:
    marks, lines = [], []
    for condition in conditions:
        own = rows.filter(condition=condition)
        harm, change = (100 * own["harm"]).to_list(), own[measure].to_list()
        if own.height > 1:
            marks.append(Points(condition, change, harm, [f"seed {seed}" for seed in own["seed"]]))
        centre = sum(change) / len(change), sum(harm) / len(harm)
        marks.append(Points(condition, [centre[0]], [centre[1]], [f"mean of {own.height} seeds"], big=True))
        lines.append((condition, int(own["step"][0]), own.height, *centre))
    return Panel(
        MEASURES[measure][0].upper() + MEASURES[measure][1:],
        Axis(MEASURES[measure]),
        Axis("harm (points)"),
        tuple(marks),
        levels=((0.0, ""),),
        table=Table(("condition", "step", "seeds", MEASURES[measure], "harm (points)"), tuple(lines)),
    )
