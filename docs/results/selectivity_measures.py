"""How the measures of selectivity agree and part through training: a page and a figure, from a study's tables.

python docs/results/selectivity_measures.py STUDY_FOLDER docs/results "the command that made it"
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from publish import table

from vestige.claims.curves import selectivity_curves
from vestige.runs.store import write_text
from vestige.stats.intervals import paired_t
from vestige.study.results import gather
from vestige.study.study import Study

MEASURES = {
    "csi": "class selectivity index",
    "csi_excess": "csi less the mean of its null",
    "csi_cv": "csi, cross-validated",
    "eta2_adj": "share of variance between classes, adjusted",
    "auroc": "detecting the preferred class, held out",
    "informedness": "TPR - FPR for the preferred class, held out",
    "mutual_information": "bits about the class, less chance",
    "precision_at_k": "commonest class among the top images",
    "sparsity": "1 - (mean a)^2 / mean(a^2)",
    "closed": "share of zeros in the maps",
}
CORRELATED = ("csi", "csi_cv", "eta2_adj", "auroc", "mutual_information", "sparsity", "closed")
INNER = "outside the last stage"


def main(study_folder: str, target: str, command: str) -> None:
    """Write `target/selectivity-measures.md` and `target/selectivity-measures.png`."""
    study = Study.load(study_folder)
    plan = study.plan()
    assert plan is not None, "the study has not been run"
    rows = gather(plan, study.folder)["selectivity"]
    rows = rows.filter((pl.col("condition") == "baseline") & (pl.col("protocol") == "corrected"))
    seeds = sorted(rows["seed"].unique())
    stages = rows["stage"].unique(maintain_order=True).to_list()
    draw(rows, seeds, Path(target) / "selectivity-measures.png")
    peak = peak_of(selectivity_curves(rows))
    end = int(rows["step"].max())  # pyright: ignore[reportArgumentType]
    config = study.config
    parts = [
        "# Does selectivity recede by every measure?",
        f"`{config.model.name}` of width {config.model.width}, {plan.facts.train_images} training images of CIFAR-10, "
        f"{config.recipe.epochs} epochs ({plan.total_steps} steps), {len(seeds)} seeds, no intervention; "
        f"measured on {rows['n'][0]} test images with recomputed batch-norm statistics. Trained and measured by\n"
        f"```\n{command}\n```",
        "This page is written by `docs/results/selectivity_measures.py` from the study's tables.",
        "![Ten measures of selectivity through training](selectivity-measures.png)",
        "## In short\n" + summary(rows, peak, end),
        "## Rise and recession\n"
        "Means over living neurons, then over the layers. The peak t* of a seed is where the mean of the *other* seeds "
        "is highest, so that it is not chosen for its own noise. Intervals: 95%, paired t over seeds. *recedes*: the "
        "interval of value(t*) - value(end) lies above 0; *keeps rising*: t* is the end in every seed; *does not "
        "recede*: the interval lies within a tenth of the rise around 0; else *undecided*.",
        *(f"### {scope[0].upper()}{scope[1:]}\n{recession(rows, scope)}" for scope in (INNER, *stages)),
        f"## Do they agree on which neurons are selective?\nSpearman correlation over the neurons of a layer, Fisher-z "
        f"averaged over the layers outside the last stage, mean over seeds. At step {peak}, where csi_cv peaks:",
        agreement(rows, peak),
        f"At the end, step {end}:",
        agreement(rows, end),
        "## How many neurons are selective\nShare of all neurons flagged (false discovery rate 5%, csi_cv above the "
        "95% quantile of the layer at step 0), mean over seeds.",
        flagged(rows, stages),
    ]
    write_text(Path(target) / "selectivity-measures.md", "\n\n".join(parts) + "\n")


def summary(rows: pl.DataFrame, peak: int, end: int) -> str:
    """What the tables below say, in three sentences."""
    lost = {
        measure: fall.estimate / rise.estimate
        for measure in MEASURES
        for _, _, _, rise, fall in [moves(rows, INNER, measure)]
    }
    sparsity = {name: correlations(rows, step)["csi"]["sparsity"] for name, step in (("peak", peak), ("end", end))}
    return (
        f"By the index selectivity recedes: outside the last stage csi loses {lost['csi']:.0%} of what it rose by, "
        f"csi_cv {lost['csi_cv']:.0%}. What neurons tell about the class hardly does: eta2_adj loses "
        f"{lost['eta2_adj']:.0%} of its rise, mutual information {lost['mutual_information']:.0%}, held-out AUROC "
        f"{lost['auroc']:.0%}. What goes away is sparsity ({lost['sparsity']:.0%}: it ends below its beginning), which "
        f"the index follows from neuron to neuron (Spearman {sparsity['peak']:.2f} at the peak, {sparsity['end']:.2f} "
        "at the end) and the others do not."
    )


def curves_of(rows: pl.DataFrame, scope: str, measure: str) -> Mapping[int, Mapping[int, float]]:
    """Value by step, by seed."""
    if scope == INNER:
        return selectivity_curves(rows, measure)
    means = (
        rows.filter((pl.col("stage") == scope) & ~pl.col("dead") & pl.col(measure).is_finite())
        .group_by("seed", "step", "layer")
        .agg(pl.col(measure).cast(pl.Float64).mean())
        .group_by("seed", "step")
        .agg(pl.col(measure).mean())
        .sort("seed", "step")
    )
    return {int(str(s)): dict(zip(c["step"], c[measure], strict=True)) for (s,), c in means.group_by("seed")}


def peak_of(curves: Mapping[int, Mapping[int, float]]) -> int:
    """The step at which the mean over some seeds is highest."""
    steps = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    return max(steps, key=lambda step: (np.mean([curve[step] for curve in curves.values()]), -step))


def moves(rows: pl.DataFrame, scope: str, measure: str):
    """Curves by seed, the peak of each seed, the last step, and intervals of the rise to it and the fall from it."""
    curves = curves_of(rows, scope, measure)
    end = max(next(iter(curves.values())))
    peaks = {seed: peak_of({other: curves[other] for other in curves if other != seed}) for seed in sorted(curves)}
    rise = paired_t([curves[seed][step] - curves[seed][0] for seed, step in peaks.items()])
    fall = paired_t([curves[seed][step] - curves[seed][end] for seed, step in peaks.items()])
    return curves, peaks, end, rise, fall


def recession(rows: pl.DataFrame, scope: str) -> str:
    """A row a measure."""
    lines = []
    for measure, what in MEASURES.items():
        curves, peaks, end, rise, fall = moves(rows, scope, measure)
        seeds = list(peaks)
        kept = f"{fall.estimate / rise.estimate:.0%}" if rise.low > 0 else "-"
        lines.append(
            (
                f"{measure}: {what}",
                f"{np.mean([curves[seed][0] for seed in seeds]):.3f}",
                f"{np.mean([curves[seed][peaks[seed]] for seed in seeds]):.3f}",
                ", ".join(str(step) for step in sorted(set(peaks.values()))),
                f"{np.mean([curves[seed][end] for seed in seeds]):.3f}",
                f"{fall.estimate:.3f} [{fall.low:.3f}, {fall.high:.3f}]",
                kept,
                said(set(peaks.values()) == {end}, rise, fall),
            )
        )
    header = ("measure", "step 0", "peak", "t*", "end", "peak - end", "share of the rise lost", "so it")
    return table(header, lines)


def said(at_end: bool, rise, fall) -> str:
    """The verdict of a row."""
    if at_end:
        return "keeps rising"
    if fall.low > 0:
        return "recedes"
    margin = abs(rise.estimate) / 10
    return "does not recede" if -margin < fall.low and fall.high < margin else "undecided"


def agreement(rows: pl.DataFrame, step: int) -> str:
    """Rank correlations of the measures over neurons, the lower triangle."""
    r = correlations(rows, step)
    lines = [
        (name, *("" if j > i else "1" if i == j else f"{r[name][other]:.2f}" for j, other in enumerate(CORRELATED)))
        for i, name in enumerate(CORRELATED)
    ]
    return table(("", *CORRELATED), lines)


def correlations(rows: pl.DataFrame, step: int) -> dict[str, dict[str, float]]:
    """Spearman's, Fisher-z averaged over layers outside the last stage and over seeds."""
    here = rows.filter((pl.col("step") == step) & ~pl.col("dead"))
    here = here.filter(pl.col("stage") != here["stage"][-1])
    sums, count = np.zeros((len(CORRELATED), len(CORRELATED))), 0
    for _, layer in here.group_by("seed", "layer"):
        ranked = layer.select(pl.col(m).rank() for m in CORRELATED).drop_nulls().drop_nans().to_numpy()
        r = np.corrcoef(ranked.T)
        if np.isfinite(r).all():
            sums += np.arctanh(np.clip(r, -0.9999, 0.9999))
            count += 1
    mean = np.tanh(sums / count)
    return {name: dict(zip(CORRELATED, row, strict=True)) for name, row in zip(CORRELATED, mean.tolist(), strict=True)}


def flagged(rows: pl.DataFrame, stages: Sequence[str]) -> str:
    """Share selective by stage and step."""
    share = (
        rows.group_by("step", "stage")
        .agg(pl.col("selective").mean())
        .pivot("stage", index="step", values="selective")
        .sort("step")
        .select("step", *stages)
    )
    return table(tuple(share.columns), [(row[0], *(f"{value:.1%}" for value in row[1:])) for row in share.rows()])


def draw(rows: pl.DataFrame, seeds: Sequence[int], path: Path) -> None:
    """Every measure against the step, a line a seed and the mean."""
    figure, axes = plt.subplots(2, 5, figsize=(11, 4.2), sharex=True, layout="constrained")
    for axis, (measure, _) in zip(axes.flat, MEASURES.items(), strict=True):
        curves = curves_of(rows, INNER, measure)
        steps = sorted(curves[seeds[0]])
        for seed in seeds:
            axis.plot(steps, [curves[seed][step] for step in steps], color="#56B4E9", linewidth=0.6)
        mean = [np.mean([curves[seed][step] for seed in seeds]) for step in steps]
        axis.plot(steps, mean, color="#0072B2", linewidth=1.6)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xticks([0, 10, 100, 1000], ["0", "10", "100", "1000"])
        axis.set_title(measure, fontsize=9)
        axis.tick_params(labelsize=7)
        assert math.isfinite(mean[-1])
    figure.supxlabel("optimiser step", fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
