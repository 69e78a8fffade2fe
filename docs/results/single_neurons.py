"""Do class-selective neurons matter more, and when? A page and a figure, from a study's tables.

python docs/results/single_neurons.py STUDY_FOLDER docs/results "the command that made it"
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from publish import table

from vestige.claims.curves import advantage_curves, inner_stages
from vestige.report.figures.importance import MEASURES, correlations
from vestige.runs.store import write_text
from vestige.stats.intervals import Interval, paired_t
from vestige.study.results import gather
from vestige.study.study import Study

Series = Mapping[int, Interval]
COLOURS = {"csi": "#0072B2", "csi_cv": "#D55E00", "eta2": "#009E73"}


def main(study_folder: str, target: str, command: str) -> None:
    """Write `target/single-neurons.md` and `target/single-neurons.png`."""
    study = Study.load(study_folder)
    plan = study.plan()
    assert plan is not None, "the study has not been run"
    tables = {kind: frame.filter(condition="baseline") for kind, frame in gather(plan, study.folder).items()}
    single, several = tables["ablation"], tables["cumulative"].filter(protocol="corrected")
    seeds = sorted(single["seed"].unique())
    ranks = {(measure, value): series for measure in MEASURES for value, series in by_value(tables, measure)}
    areas = {
        value: over_seeds(advantage_curves(rows, value, inner_stages(tables["selectivity"]), classes(plan)))
        for (value,), rows in several.group_by("value", maintain_order=True)
    }
    draw(ranks, areas, Path(target) / "single-neurons.png")
    config = study.config
    parts = [
        "# Do class-selective neurons matter more, and when?",
        f"`{config.model.name}` of width {config.model.width}, {plan.facts.train_images} training images of CIFAR-10, "
        f"{config.recipe.epochs} epochs ({plan.total_steps} steps), {len(seeds)} seeds, no intervention. Every neuron "
        f"was ablated alone ({', '.join(single['mode'].unique())}) on {single['n'][0]} test images, and neurons "
        f"together on {several['n'][0]}, ranked on others. Trained and measured by\n```\n{command}\n```",
        "This page is written by `docs/results/single_neurons.py` from the study's tables. Intervals: 95%, t over "
        "seeds.",
        "![Correlation of selectivity with importance, and the areas of claim C2](single-neurons.png)",
        "## In short\n" + summary(ranks, areas),
        "## One neuron at a time\nPartial Spearman correlation, over the living neurons of a layer, of a measure of "
        "selectivity with the change of loss when the neuron alone is ablated, given the neuron's mean activation; "
        "Fisher-z averaged over layers, then mean over seeds. How large the changes are stands beside it: the mean, "
        "over neurons and seeds, of the change of loss in nats.",
        *(f"### Ablated to {value}\n{singles(ranks, single, value)}" for value in single["value"].unique().sort()),
        "## Many at once: claim C2\nD(t): area under accuracy against the share of neurons ablated, activity-matched "
        "order less most-selective-first, averaged over the stages before the last. Above 0: selective neurons "
        "matter more than others as active.",
        cumulative(areas),
    ]
    write_text(Path(target) / "single-neurons.md", "\n\n".join(parts) + "\n")


def classes(plan) -> int:
    """How many classes the study's images have."""
    return len(plan.facts.class_names)


def by_value(tables: Mapping[str, pl.DataFrame], measure: str):
    """For each value that replaced neurons: correlations of the measure with the change of loss, over seeds."""
    found = correlations(tables["ablation"], tables["selectivity"]).filter(measure=measure).drop_nulls("rho")
    for (value,), rows in found.group_by("value", maintain_order=True):
        curves = {seed: dict(own.select("step", "rho").rows()) for (seed,), own in rows.group_by("seed")}
        yield value, over_seeds(curves)


def over_seeds(curves: Mapping[int, Mapping[int, float]]) -> Series:
    """By step: mean and interval over the seeds that have a value there."""
    steps = sorted({step for curve in curves.values() for step in curve})
    return {step: paired_t([curve[step] for curve in curves.values() if step in curve]) for step in steps}


def summary(ranks: Mapping[tuple[str, str], Series], areas: Mapping[str, Series]) -> str:
    """What the tables say, in a few sentences."""
    said = []
    for (measure, value), series in ranks.items():
        best = max(series, key=lambda step: abs(series[step].estimate))
        end = max(series)
        said.append(
            f"- `{measure}`, ablated to {value}: strongest at step {best} ({shown(series[best])}); "
            f"at the end, step {end}: {shown(series[end])}."
        )
    for value, series in areas.items():
        if series:
            first, end = min(series), max(series)
            said.append(
                f"- D(t), ablated to {value}: {shown(series[first])} at step {first}, the first where accuracy allows "
                f"a judgement; {shown(series[end])} at step {end}. C2 asks for 0.05 early and 0.05 less at the end."
            )
    return "\n".join(said)


def singles(ranks: Mapping[tuple[str, str], Series], single: pl.DataFrame, value: str) -> str:
    """A row a checkpoint."""
    sizes = dict(single.filter(value=value).group_by("step").agg(pl.col("loss_delta").mean()).rows())
    steps = sorted({step for (_, of), series in ranks.items() if of == value for step in series})
    lines = [
        (step, *(shown(ranks[measure, value].get(step)) for measure in MEASURES), f"{sizes[step]:.4f}")
        for step in steps
    ]
    return table(("step", *MEASURES, "mean change of loss"), lines)


def cumulative(areas: Mapping[str, Series]) -> str:
    """A row a checkpoint that can be judged, a column a value."""
    steps = sorted({step for series in areas.values() for step in series})
    lines = [(step, *(shown(series.get(step)) for series in areas.values())) for step in steps]
    return table(("step", *(f"D(t), {value}" for value in areas)), lines)


def shown(interval: Interval | None) -> str:
    """An estimate with its interval, or a dash."""
    return "-" if interval is None else f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def draw(ranks: Mapping[tuple[str, str], Series], areas: Mapping[str, Series], path: Path) -> None:
    """Correlations on the left, a panel a value; areas on the right."""
    values = sorted({value for _, value in ranks})
    figure, axes = plt.subplots(1, len(values) + 1, figsize=(4.2 * (len(values) + 1), 3), layout="constrained")
    for axis, value in zip(axes, values, strict=False):
        axis.set_title(f"partial Spearman with the change of loss, {value}", fontsize=9)
        for measure in MEASURES:
            line(axis, ranks[measure, value], measure, COLOURS[measure])
    axes[-1].set_title("D(t): activity-matched less most-selective-first", fontsize=9)
    for (value, series), colour in zip(areas.items(), COLOURS.values(), strict=False):
        line(axes[-1], series, value, colour)
    for axis in axes:
        axis.axhline(0, color="#8b949e", linewidth=0.8)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(left=0)
        axis.legend(frameon=False, fontsize=8)
    figure.supxlabel("optimiser step", fontsize=9)
    figure.savefig(path, dpi=110)


def line(axis, series: Series, name: str, colour: str) -> None:
    """A mean with its band."""
    steps: Sequence[int] = list(series)
    axis.plot(steps, [series[step].estimate for step in steps], color=colour, marker="o", markersize=3, label=name)
    ends = [np.array([getattr(series[step], end) for step in steps]) for end in ("low", "high")]
    axis.fill_between(steps, *ends, color=colour, alpha=0.15, linewidth=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
