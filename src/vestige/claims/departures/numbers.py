"""Statistics as the released code has them: neurons pooled over seeds, peaks of its own, sums over an uneven grid."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from vestige.claims.curves import Curves, Material, inner_stages, selectivity_curves
from vestige.claims.evidence import Sample, emergence, log_ratio, name_seeds, peak_steps, quarter_step
from vestige.stats.effects import judgeable
from vestige.stats.released import released_area, released_sizes

Array = np.ndarray
Peaks = Callable[[Curves], Mapping[int, int]]
WHOLE_EPOCH = 1e-6


def own_peaks(curves: Curves) -> dict[int, int]:
    """The step at which each seed's own m is largest, the first of equals: chosen and judged on the same numbers."""
    return {seed: max(sorted(curve), key=curve.__getitem__) for seed, curve in curves.items()}


def peaked_alone(material: Material) -> dict[str, Sample]:
    """C1's statistics with every seed's peak taken from itself: each seed is judged as if it were the only one."""
    baseline, found = material.claims.roles.baseline, {}
    rows = material.rows("selectivity", baseline)
    for seed in material.study.seeds:
        tables = {**material.tables, "selectivity": rows.filter(pl.col("seed") == seed)}
        found[seed] = emergence(Material.of(material.study, tables, material.classes))
    return {
        name: _joined({seed: samples[name] for seed, samples in found.items()})
        for name in next(iter(found.values()))
        if name.startswith("C1.")
    }


def pooled(material: Material, peaks: Peaks = peak_steps) -> dict[str, Sample]:
    """C1's clauses with every neuron of every seed as if it were a replication.

    With the neuron's csi_cv a at t*, b at 0, c at T and q at 0.25 T, and means over the neurons of all seeds that are
    alive at all four: rise is ln(mean a / mean b), its spread that of a / mean a - b / mean b (the delta method), as
    is fall's of a and c; rapid is the mean of (a + c)/2 - q, and remains that of c.
    """
    names, last = ("C1.rise", "C1.fall", "C1.rapid", "C1.remains"), material.last_step
    rows = material.rows("selectivity", material.claims.roles.baseline)
    curves = {} if last is None else _whole(selectivity_curves(rows), last)
    if not curves or last is None:
        return dict.fromkeys(names, Sample(missing="no seed has csi_cv at step 0 and at the last step"))
    at, rows = peaks(curves), _inner_neurons(rows)
    parts = [
        _neurons(rows.filter(pl.col("seed") == seed), (at[seed], 0, last, quarter_step(curve, at[seed], last)))
        for seed, curve in curves.items()
    ]
    a, b, c, q = np.concatenate(parts, axis=1)
    note = f"n counts {len(a)} neurons of {len(curves)} seeds, as if each were a training of its own"
    found = (_log_ratios(a, b), _log_ratios(a, c), (a + c) / 2 - q, c)
    return {name: _of_neurons(values, note, len(curves)) for name, values in zip(names, found, strict=True)}


def with_dead(selectivity: pl.DataFrame) -> pl.DataFrame:
    """Dead neurons counted, with an index of 0."""
    dead = pl.col("dead").fill_null(value=False)
    return selectivity.with_columns(
        pl.when(dead).then(0.0).otherwise(pl.col("csi_cv")).alias("csi_cv"), pl.lit(value=False).alias("dead")
    )


def after_epochs(selectivity: pl.DataFrame) -> pl.DataFrame:
    """The checkpoints at the end of whole epochs, the first of them in the place of step 0."""
    epoch = pl.col("epoch")
    kept = selectivity.filter(epoch >= 1 - WHOLE_EPOCH, (epoch - epoch.round()).abs() < WHOLE_EPOCH)
    first = pl.col("step") == pl.col("step").min().over("seed")
    return kept.with_columns(pl.when(first).then(0).otherwise(pl.col("step")).alias("step"))


def released_advantages(
    cumulative: pl.DataFrame,
    value: str,
    stages: Sequence[str],
    widths: Mapping[str, int],
    *,
    control: str = "activity-matched",
    classes: int | None = None,
) -> Curves:
    """The released code's area of a control less that of csi-desc, as a share of its highest possible, over stages.

    Args:
      cumulative: rows of one condition; curves are read between their fractions by a straight line.
      value: what neurons are ablated to.
      stages: those outside the last.
      widths: neurons of the widest layer of each stage: where the released code takes its points.
      control: the order that csi-desc is compared with.
      classes: leaves out a step at which the intact network is not judgeable; None: all count.
    """
    keys = ["seed", "step", "scope", "order", "draw"]
    wanted = cumulative.filter(
        pl.col("value") == value, pl.col("scope").is_in(stages), pl.col("order").is_in(["csi-desc", control])
    )
    grouped = wanted.sort("fraction").group_by(keys, maintain_order=True).agg("fraction", pl.col("top1").cast(float))
    areas: dict[tuple[int, int], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed, step, scope, order, _, fractions, top1 in grouped.iter_rows():
        areas[seed, step][scope, order].append(_area(fractions, top1, widths.get(scope, 0), classes))
    curves: Curves = defaultdict(dict)
    for (seed, step), found in areas.items():
        scopes = {scope for scope, _ in found}
        differences = [
            np.mean(found.get((scope, control), [math.nan])) - np.mean(found.get((scope, "csi-desc"), [math.nan]))
            for scope in scopes
        ]
        if math.isfinite(advantage := float(np.mean(differences))):
            curves[seed][step] = advantage
    return dict(curves)


def begun(curves: Curves) -> Curves:
    """Without step 0: the released code's first checkpoint is after epoch 1."""
    return {seed: {step: value for step, value in curve.items() if step > 0} for seed, curve in curves.items()}


def stage_widths(selectivity: pl.DataFrame) -> dict[str, int]:
    """Neurons of the widest layer of each stage."""
    layers = selectivity.group_by("stage", "layer").agg(pl.col("neuron").n_unique())
    return dict(layers.group_by("stage").agg(pl.col("neuron").max()).sort("stage").iter_rows())


def _area(fractions: Sequence[float], top1: Sequence[float | None], width: int, classes: int | None) -> float:
    heights = [math.nan if height is None else height for height in top1]
    points = [size / width for size in released_sizes(width)] if width else []
    if not points or (classes is not None and not judgeable(heights[0], classes)):
        return math.nan
    return released_area(np.interp(points, fractions, heights).tolist()) / (100 * len(points))


def _joined(of_seeds: Mapping[int, Sample]) -> Sample:
    """One sample of those of single seeds."""
    values = {seed: sample.values[seed] for seed, sample in of_seeds.items() if seed in sample.values}
    left_out = {
        seed: sample.left_out.get(seed, sample.missing) for seed, sample in of_seeds.items() if seed not in values
    }
    return Sample(values, left_out, "" if values else f"no seed has a value: {name_seeds(left_out)}")


def _inner_neurons(rows: pl.DataFrame) -> pl.DataFrame:
    living = ~pl.col("dead").fill_null(value=False)
    return rows.filter(pl.col("stage").is_in(inner_stages(rows)), living, pl.col("csi_cv").is_finite())


def _whole(curves: Curves, last: int) -> Curves:
    return {seed: curve for seed, curve in curves.items() if {0, last} <= set(curve)}


def _neurons(rows: pl.DataFrame, steps: Sequence[int]) -> Array:
    """csi_cv of a seed's neurons that are alive at all of these steps, (steps, neurons) float64."""
    keys = ["layer", "neuron"]
    values = pl.col("csi_cv").cast(pl.Float64)
    found = rows.filter(step=steps[0]).select(*keys, values.alias("0"))
    for place, step in enumerate(steps[1:], start=1):
        found = found.join(rows.filter(step=step).select(*keys, values.alias(str(place))), on=keys)
    return found.sort(keys).drop(keys).to_numpy().T


def _log_ratios(above: Array, below: Array) -> Array | str:
    """Numbers whose mean is ln(mean above / mean below) and whose spread is that of its linear part."""
    high, low = float(above.mean()), float(below.mean())
    ratio = log_ratio(high, low)
    return ratio if isinstance(ratio, str) else ratio + above / high - below / low


def _of_neurons(values: Array | str, note: str, seeds: int) -> Sample:
    if isinstance(values, str):
        return Sample(missing=values)
    return Sample(dict(enumerate(values.tolist())), note=note, trained=seeds)
