"""Harm of a condition: the baseline's final accuracy less its own, paired by seed, in shares."""

import polars as pl

from vestige.report.figures.source import Source

FINAL = 3
"""Checkpoints of which the final accuracy is the mean."""


def harms(source: Source) -> pl.DataFrame:
    """A row a condition and seed that are trained to the end beside the baseline: `condition`, `seed`, `harm`."""
    history = source.branched(source.table("history")).filter(split="test")
    ended = history.filter(pl.col("step") == pl.col("step").max())
    whole = history.join(ended.select("condition", "seed"), on=["condition", "seed"], how="semi")
    final = whole.sort("step").group_by("condition", "seed").agg(pl.col("top1").tail(FINAL).mean())
    base = final.filter(condition=source.baseline).select("seed", base="top1")
    return final.join(base, on="seed").select("condition", "seed", harm=pl.col("base") - pl.col("top1"))
