"""Every measure of linearity, early against the end: where each says that the network is closer to linear.

A paired t test over seeds for each measure, p values corrected together by Benjamini and Hochberg's method. No claim
depends on it: C3 names its measures beforehand, and this shows what all the others say.
"""

import math
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from vestige.claims.curves import Curves, Material, as_curves
from vestige.claims.evidence import Sample, both, collect, early_mean, final_value
from vestige.claims.linearity import judgeable_steps
from vestige.claims.rules import FEWEST_SEEDS, LEVEL
from vestige.claims.terms import Verdict
from vestige.stats.corrections import benjamini_hochberg
from vestige.stats.intervals import Interval, p_above, p_below, paired_t

Linear = Literal["lower", "higher", "nearer the anchor"]
NOT_SHOWN = "not shown"
ALL_LAYERS = ""
_OF_NETWORK = ("logits", "input", "all")


@dataclass(frozen=True)
class Reading:
    """A measure, of one layer or as the mean over all, and how it reads of a network that is closer to linear.

    Attributes:
      title: what it is.
      measure, layer, other: its rows; the layer `ALL_LAYERS` stands for the mean over the layers measured.
      linear: how it reads; "nearer the anchor": its distance |value - anchor| is lower.
    """

    title: str
    measure: str
    layer: str
    linear: Linear
    other: str = ""

    def rows(self, linearity: pl.DataFrame) -> pl.DataFrame:
        """Its rows of a table of linearity."""
        layer = pl.col("layer")
        wanted = ~layer.is_in(_OF_NETWORK) if self.layer == ALL_LAYERS else layer == self.layer
        return linearity.filter(wanted, pl.col("measure") == self.measure, pl.col("other") == self.other)

    def curves(self, linearity: pl.DataFrame) -> Curves:
        """Through training, one for every seed; a step at which it is not known of all its layers is left out."""
        number = pl.col("value").cast(pl.Float64)
        if self.linear == "nearer the anchor":
            number = (number - pl.col("anchor")).abs()
        known = number.is_finite().fill_null(value=False).all()
        of_steps = self.rows(linearity).group_by("seed", "step", maintain_order=True)
        return as_curves(of_steps.agg(pl.when(known).then(number.mean()).alias("number")))


@dataclass(frozen=True)
class Contrast:
    """What one measure says.

    Attributes:
      reading: of which measure.
      early: mean over the judgeable checkpoints of the early window, one number a seed.
      final: at the last step.
      difference: early less final.
      interval: of the difference, 95%.
      p_value: two-sided, of no difference, corrected for the number of measures; NaN for fewer than 2 seeds.
      closer: "early", "at the end", `NOT_SHOWN`, or why nothing can be said: fewer than 3 seeds, not measured.
    """

    reading: Reading
    early: Sample
    final: Sample
    difference: Sample
    interval: Interval
    p_value: float
    closer: str


def contrasts(material: Material) -> list[Contrast]:
    """One for each measure that the baseline's table of linearity has.

    References:
      Benjamini & Hochberg (1995). Controlling the false discovery rate. J. R. Statist. Soc. B 57.
    """
    rows = material.rows("linearity", material.claims.roles.baseline)
    readings = [reading for reading in _readings(rows) if not reading.rows(rows).is_empty()]
    samples = [_samples(material, reading.curves(rows)) for reading in readings]
    values = [list(difference.values.values()) for *_, difference in samples]
    p_values = [min(1.0, 2 * min(p_above(each), p_below(each))) if len(each) > 1 else math.nan for each in values]
    corrected = benjamini_hochberg([1.0 if math.isnan(p) else p for p in p_values])
    return [
        Contrast(
            reading, *of, paired_t(each), math.nan if math.isnan(p) else adjusted, _closer(reading, each, adjusted)
        )
        for reading, of, each, p, adjusted in zip(readings, samples, values, p_values, corrected, strict=True)
    ]


def _readings(rows: pl.DataFrame) -> Iterator[Reading]:
    """All that there may be, in the order of the table; of correlations those of the fewest channels."""
    yield Reading("midpoint nonlinearity, logits", "midpoint", "logits", "lower")
    yield Reading("midpoint nonlinearity, layers", "midpoint", ALL_LAYERS, "lower")
    yield Reading("gate churn, layers", "gate-churn", ALL_LAYERS, "lower")
    yield Reading("share that a linear model explains", "kalimeris", "logits", "higher")
    yield Reading("ridge R², input", "ridge-flattened", "input", "higher")
    yield Reading("ridge R², layers, whole maps", "ridge-flattened", ALL_LAYERS, "higher")
    yield Reading("ridge R², layers, pooled", "ridge-pooled", ALL_LAYERS, "higher")
    yield Reading("CKA of layers with the input", "cka", ALL_LAYERS, "nearer the anchor", "input")
    yield Reading("CKA of layers with the logits", "cka", ALL_LAYERS, "nearer the anchor", "logits")
    found = [match for name in rows["measure"].unique() if (match := re.fullmatch(r"correlation-[a-z]+(\d+)", name))]
    k = min((int(match[1]) for match in found), default=1)
    most = "" if k == 1 else f"{k} "
    yield Reading(f"correlation, {most}most active, as the paper reads it", f"correlation-top{k}", "all", "higher")
    yield Reading(f"correlation, {most}most active", f"correlation-top{k}", "all", "nearer the anchor")
    yield Reading(f"correlation, {most}of highest CSI", f"correlation-csi{k}", "all", "nearer the anchor")
    yield Reading(f"correlation, {most}fixed", f"correlation-fixed{k}", "all", "nearer the anchor")


def _samples(material: Material, curves: Curves) -> tuple[Sample, Sample, Sample]:
    """Early, final, and early less final."""
    last, seeds, lack = material.last_step, material.study.seeds, "no value"
    assert last is not None, "there are rows"
    among, note = judgeable_steps(material)
    early, final = early_mean(material, curves, lack, among), final_value(curves, last, lack)
    return collect(seeds, early, note), collect(seeds, final), collect(seeds, both(early, final, operator.sub), note)


def _closer(reading: Reading, differences: list[float], p_value: float) -> str:
    if len(differences) < FEWEST_SEEDS:
        return (Verdict.FEW_SEEDS if differences else Verdict.NOT_MEASURED).value
    if p_value > LEVEL:
        return NOT_SHOWN
    return "early" if (sum(differences) > 0) == (reading.linear == "higher") else "at the end"
