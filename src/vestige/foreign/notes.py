"""What is said aloud of a foreign model's measurement: a summary in one line, and a warning where it is at chance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from vestige.foreign.data import Inputs
from vestige.foreign.subject import Subject
from vestige.models.layers import RESIDUAL

SIGNIFICANCE = 0.05


def at_chance(top1: float, n: int, classes: int) -> str:
    """A warning where top-1 is not significantly above 1/C: one-sided exact binomial test at 5%.

    Args:
      top1: share of the images that the model is right on.
      n: images.
      classes: C, those that have images: a model that always gives one class is right on one of C.

    Returns:
      The warning; empty where the model does better than chance.
    """
    from scipy.stats import binom

    p = float(binom.sf(round(top1 * n) - 1, n, 1 / classes))
    if p <= SIGNIFICANCE:
        return ""
    return (
        f"Top-1 is {top1:.2%}, not better than chance ({1 / classes:.2%} with {classes} classes; "
        f"p = {p:.2g}). Likely causes: classes in another order than the model's (--class-map), images prepared "
        "otherwise than in training (--preprocess), or weights that are not those of a trained model (--weights)."
    )


def batch_norm_words(subject: Subject, training: Inputs | None, way: str) -> str:
    """With which batch-norm statistics the model was measured."""
    if not subject.normalised:
        return "the model has none"
    if way == "stored" or training is None:
        return "the statistics stored with the weights"
    return f"recomputed from up to 2,048 images of {training.name}, not augmented"


def layers_words(layers: Sequence[tuple[str, str, int, str]]) -> str:
    """How many layers were measured, and by which rule they were found; each is a name, stage, size and rule."""
    rules = Counter(why for *_, why in layers)
    said = next(iter(rules)) if len(rules) == 1 else ", ".join(f"{n} {why}" for why, n in rules.items())
    others = "; of residual blocks only the outputs, others where --layers names them"
    residual = all(why.endswith(RESIDUAL) for why in rules)
    return f"{len(layers)} layer{'s' * (len(layers) != 1)} measured ({said}{others if residual else ''})."


def summary(entry: Mapping[str, Any], result: Mapping[str, Any], table: pl.DataFrame) -> str:
    """One line: accuracy, loss, and the neurons' means."""
    alive = table.filter(~pl.col("dead"))
    means = [
        f"{column} {mean:.3f}"
        for column in ("csi", "csi_cv", "eta2")
        if isinstance(mean := alive[column].fill_nan(None).mean(), float)
    ]
    selective = table["selective"].cast(pl.Float64).mean()
    parts = [
        f"top-1 {result['top1']:.2%}",
        f"loss {result['loss']:.3f}",
        f"{table.height} neurons",
        *means,
        *([f"selective {selective:.1%}"] if isinstance(selective, float) else []),
    ]
    step = "" if entry["step"] is None else f"step {entry['step']}, "
    name = entry["file"] or entry["condition"]
    return f"{name} ({step}{result['protocol']}): {', '.join(parts)}"
