"""C3: how much closer to linear the network is early than at the end, one number a seed."""

import operator
from collections.abc import Mapping

from vestige.claims.curves import Curves, Material, intact_curves, linearity_curves
from vestige.claims.evidence import (
    NO_CLASSES,
    Sample,
    all_missing,
    both,
    collect,
    early_mean,
    final_value,
    log_ratio,
    why_absent,
)
from vestige.stats.effects import judgeable

KALIMERIS = "kalimeris"


def linearity(material: Material) -> dict[str, Sample]:
    """C3: midpoint nonlinearity of the logits and the Kalimeris share, early against the end.

    Early is what it is in C2: the judgeable checkpoints of the early window.
    """
    baseline, last = material.claims.roles.baseline, material.last_step
    rows = material.rows("linearity", baseline)
    shares = ("C3.b.level", "C3.b.above-final", "C3.b.final")
    middles = ("C3.a", "C3.a.all")
    if rows.is_empty() or last is None:
        return all_missing((*middles, *shares), why_absent(material.study, "linearity", baseline))
    midpoint, kalimeris = linearity_curves(rows, "midpoint"), linearity_curves(rows, KALIMERIS)
    among, note = judgeable_steps(material)
    samples = (
        _midpoints(material, midpoint, last, among, note) if midpoint else all_missing(middles, _no_measure("midpoint"))
    )
    if not kalimeris:
        return samples | all_missing(shares, _no_measure(KALIMERIS))
    lack = "no Kalimeris share"
    early, final = early_mean(material, kalimeris, lack, among), final_value(kalimeris, last, lack)
    known = _known_images(material)
    for name, of in zip(shares, (early, both(early, final, operator.sub), final), strict=True):
        notes = (note if name != "C3.b.final" else "", known)
        samples[name] = collect(material.study.seeds, of, "; ".join(filter(None, notes)))
    return samples


def judgeable_steps(material: Material) -> tuple[Mapping[int, set[int]] | str, str]:
    """Steps of each seed at which C2 judges the baseline, or why they are not known; and a note on them.

    By the accuracy of the intact network in cumulative ablation: the network that linearity is measured on.
    """
    baseline, classes = material.claims.roles.baseline, material.classes
    if classes is None:
        return NO_CLASSES, ""
    intact, tested = intact_curves(material.rows("cumulative", baseline)), material.accuracy(baseline)
    if not intact and not tested:
        return why_absent(material.study, "history", baseline), ""
    accuracy = {seed: tested.get(seed, {}) | intact.get(seed, {}) for seed in material.study.seeds}
    among = {seed: {step for step, top1 in of.items() if judgeable(top1, classes)} for seed, of in accuracy.items()}
    window = material.early_window or 0
    wanting = {step for seed, of in tested.items() for step in of if step < window and step not in intact.get(seed, {})}
    stored = "judgeable by the accuracy in training (stored batch-norm statistics), for want of cumulative ablation"
    return among, stored if wanting else ""


def _midpoints(
    material: Material, curves: Curves, last: int, among: Mapping[int, set[int]] | str, note: str
) -> dict[str, Sample]:
    lack, seeds = "no midpoint nonlinearity", material.study.seeds
    final = final_value(curves, last, lack)
    judged, every = early_mean(material, curves, lack, among), early_mean(material, curves, lack)
    return {
        "C3.a": collect(seeds, both(final, judged, log_ratio), note),
        "C3.a.all": collect(seeds, both(final, every, log_ratio)),
    }


def _known_images(material: Material) -> str:
    """A warning where the linear model is compared on the images that it was fitted to."""
    settings = material.study.measurements.linearity
    if settings is None or settings.split != "train":
        return ""
    return "measured on training images, which the linear model may know by heart: the share is too high"


def _no_measure(measure: str) -> str:
    return f"the linearity table has no measure {measure!r} of the logits: this version does not make it"
