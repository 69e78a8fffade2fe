"""Harm of a condition: the baseline's final accuracy less its own, paired by seed, in shares."""

import polars as pl

from vestige.report.figures.source import Source
from vestige.report.style import names

FINAL = 3
"""Checkpoints of which the final accuracy is the mean."""


def harms(source: Source) -> pl.DataFrame:
    """A row a condition and seed that are trained to the end beside the baseline: `condition`, `seed`, `harm`.

    The end is that of the recipe: what is not there yet has no final accuracy.
    """
    history = source.branched(source.table("history")).filter(split="test")
    ended = history.filter(pl.col("step") == (source.total_steps or -1))
    whole = history.join(ended.select("condition", "seed"), on=["condition", "seed"], how="semi")
    final = whole.sort("step").group_by("condition", "seed").agg(pl.col("top1").tail(FINAL).mean())
    base = final.filter(condition=source.baseline).select("seed", base="top1")
    return final.join(base, on="seed").select("condition", "seed", harm=pl.col("base") - pl.col("top1"))


def unfinished(source: Source) -> list[str]:
    """A sentence on seeds whose baseline is not at its end: until then nothing has a harm."""
    tests = source.table("history").filter(condition=source.baseline, split="test")
    reached = dict(tests.group_by("seed").agg(pl.col("step").max()).rows())
    total = source.total_steps
    lacking = [seed for seed in source.study.seeds if total is None or reached.get(seed, -1) < total]
    if not lacking:
        return []
    furthest = max((reached[seed] for seed in lacking if seed in reached), default=0)
    where = f"step {furthest}" if total is None else f"step {furthest} of {total}"
    seeds = names([str(seed) for seed in lacking])
    return [f"Not at its end ({where}): {source.baseline}, seed {seeds}. Harm is what it has more in the end."]
