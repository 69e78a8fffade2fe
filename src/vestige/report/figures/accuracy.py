"""Accuracy by condition through training, and where each run ended."""

import polars as pl

from vestige.report.figures.source import Source, curves, single_seed, step_table
from vestige.report.panels import Axis, Figure, Panel, Points, Table, View

LAST = 3
"""Final accuracy is the mean of so many last checkpoints."""


def accuracy(source: Source) -> Figure:
    """The figure of accuracy."""
    frame = source.table("history").filter(split="test")
    rows = source.branched(frame)
    found = source.conditions(rows)
    keys = tuple(source.condition_keys[name] for name in found if name in source.condition_keys)
    views = ()
    if not frame.is_empty():
        rows = pl.concat([rows.filter(condition=name) for name in found])
        views = (
            View(
                "all conditions",
                (_through(source, rows), *_behind(source, rows), _final(final_accuracy(frame), found)),
                keys,
                "accuracy",
            ),
        )
    said = source.lacking("history", source.study.conditions, "training")
    if not frame.is_empty():
        said += single_seed(frame) + _unfinished(source)
        lost = frame["top1"].null_count()
        said += [f"{lost} of {frame.height} accuracies are missing (NaN)."] * bool(lost)
    return Figure(
        id="accuracy",
        title="Accuracy by condition",
        caption="Share of test images classified correctly by the network as it was trained: stored batch-norm "
        "statistics, the recipe’s precision. A condition that begins late starts from its "
        "baseline’s weights, so "
        f"its curve starts at its onset. Final: the mean of the last {LAST} checkpoints; small dots are "
        "seeds, large ones their mean.",
        alternative="Left: curves of test accuracy against optimiser steps, one for each condition. Right: "
        "final accuracy of each "
        "condition and seed.",
        views=views,
        missing=tuple(said),
        sources=(source.files("history.parquet"),),
    )


def final_accuracy(test: pl.DataFrame) -> pl.DataFrame:
    """Final accuracy of each condition and seed: the mean of the last checkpoints."""
    ordered = test.sort("step", maintain_order=True)
    return ordered.group_by("condition", "seed", maintain_order=True).agg(pl.col("top1").tail(LAST).mean()).sort("seed")


def _through(source: Source, rows: pl.DataFrame) -> Panel:
    lines = curves(rows, "condition", "top1")
    y = Axis("", percent=True)
    return Panel(
        "Test accuracy",
        source.steps,
        y,
        tuple(lines),
        "share of test images classified correctly",
        shade=source.early,
        table=step_table(lines),
    )


def _behind(source: Source, rows: pl.DataFrame) -> tuple[Panel, ...]:
    """Accuracy of the baseline minus that of each condition at the same step and seed, in points."""
    reference = rows.filter(condition=source.baseline).select("seed", "step", pl.col("top1").alias("reference"))
    others = rows.filter(pl.col("condition") != source.baseline).join(
        reference, on=["seed", "step"], maintain_order="left"
    )
    lines = curves(others.with_columns(points=100 * (pl.col("reference") - pl.col("top1"))), "condition", "points")
    if not lines:
        return ()
    said = "at the same step and seed; above 0 is harm"
    y = Axis("percentage points")
    table = step_table(lines)
    return (
        Panel(
            f"Behind {source.baseline}",
            source.steps,
            y,
            tuple(lines),
            said,
            ((0.0, ""),),
            source.early,
            table,
        ),
    )


def _final(final: pl.DataFrame, conditions: list[str]) -> Panel:
    marks, rows = [], []
    for place, condition in enumerate(conditions):
        own = final.filter(condition=condition)
        if own["top1"].count():
            spread = own["top1"].std() if own.height > 1 else None
            marks.append(
                Points(condition, [place] * own.height, own["top1"].to_list(), [f"seed {s}" for s in own["seed"]])
            )
            mean = pl.select(pl.lit(own["top1"]).mean()).item()
            marks.append(Points(condition, [place], [mean], ["mean over seeds"], big=True))
            rows.append((condition, own["top1"].count(), mean, spread))
    table = Table(("condition", "seeds", "final accuracy", "SD over seeds"), tuple(rows))
    return Panel(
        "Final accuracy",
        Axis("", "names", tuple(conditions)),
        Axis("", percent=True),
        tuple(marks),
        f"mean of the last {LAST} checkpoints",
        table=table,
    )


def _unfinished(source: Source) -> list[str]:
    return [
        f"Training of {condition}, seed {seed}, is unfinished: its “final” accuracy is not final."
        for (condition, seed), manifest in source.manifests.items()
        if manifest.key and not manifest.complete
    ]
