"""F2: ablation through training: growing sets of neurons, and each neuron alone against its selectivity."""

import math
from dataclasses import replace

import polars as pl

from vestige.report.figures.selectivity import layer_means, stage_means
from vestige.report.figures.source import FAITHFUL, Source, curves, single_seed, step_table
from vestige.report.panels import Axis, Figure, Key, Panel, Points, Table, View
from vestige.stats.effects import normalised_area

ORDERS = {
    "csi-desc": Key("most selective first", 2),
    "csi-asc": Key("least selective first", 1, "dashdot"),
    "activity-matched": Key("activity-matched", 0, "dash"),
    "random": Key("random", 3, "dot"),
}
VALUES = {
    "zero": "replaced by zero",
    "mean": "replaced by the mean",
    "resample": "replaced by another image's",
}
_RUN = ["condition", "protocol", "seed", "step"]
_MOST_POINTS = 2000
_POINTS_A_SLIDE = 500


def ablation(source: Source) -> Figure:
    """Figure F2: normalised areas under the curves of cumulative ablation, by the corrected protocol."""
    frame = source.table("cumulative").filter(protocol="corrected")
    rows = areas(frame, source.classes) if not frame.is_empty() else pl.DataFrame()
    views = _area_views(source, rows) if not rows.is_empty() else ()
    wanted = source.study.measurements.cumulative
    said = source.lacking(
        "cumulative",
        (wanted.conditions if wanted else None) or source.study.conditions,
        "cumulative ablation",
    )
    if not rows.is_empty():
        said += _unjudged(rows) + single_seed(frame)
    return Figure(
        id="F2",
        title="Ablation through training",
        caption="Area under accuracy while 0 to 100% of a stage’s neurons are ablated, scaled so that 1 is "
        "the intact "
        "network and 0 is chance. Lower is more harm. Neurons are ranked on one half of the images and "
        "ablated on the "
        "other; activity-matched: the same order, shuffled among neurons of like mean activation.",
        alternative="Curves against optimiser steps of the area left after ablating the most selective "
        "neurons first, "
        "activity-matched neurons, and random ones; one panel for each value that replaces a neuron.",
        views=views,
        missing=tuple(said),
        sources=(source.files("cumulative-<value>-<split>/step-*.parquet"),),
    )


def areas(frame: pl.DataFrame, classes: int | None) -> pl.DataFrame:
    """Normalised area of each run, step, order, scope and value, mean over draws; null where not "
    "judgeable."""
    if classes is None:
        return pl.DataFrame()
    by = [*_RUN, "order", "scope", "value"]
    grouped = (
        frame.sort("fraction", maintain_order=True).group_by([*by, "draw"], maintain_order=True).agg("fraction", "top1")
    )
    pairs = zip(grouped["fraction"].to_list(), grouped["top1"].to_list(), strict=True)
    area = [_area(fractions, top1, classes) for fractions, top1 in pairs]
    found = grouped.drop("fraction", "top1").with_columns(area=pl.Series(area, dtype=pl.Float64).fill_nan(None))
    return found.group_by(by, maintain_order=True).agg(pl.col("area").mean()).sort("step", maintain_order=True)


def _area(fractions: list[float], top1: list[float | None], classes: int) -> float:
    if None in top1 or 0.0 not in fractions or 1.0 not in fractions:
        return math.nan
    return normalised_area(fractions, [value for value in top1 if value is not None], classes)


def single_neurons(source: Source) -> Figure:
    """Figure F2b: the change of loss when one neuron is ablated, against its selectivity, early and late."""
    frame = source.table("ablation")
    points = join_selectivity(source)
    parts = [
        part
        for condition in source.conditions(points)
        for value in VALUES
        if not (part := points.filter(condition=condition, value=value)).is_empty()
    ]
    views = [view(source, part) for view in (_scatter, _slides) for part in parts]
    wanted = source.study.measurements.ablation
    said = source.lacking(
        "ablation",
        (wanted.conditions if wanted else None) or source.study.conditions,
        "single-neuron ablation",
    )
    if not frame.is_empty() and points.is_empty():
        said.append("No measurement of selectivity belongs to these ablations: nothing to set them against.")
    if not points.is_empty():
        said += single_seed(points)
    return Figure(
        id="F2b",
        title="Each neuron alone",
        caption="A point is one neuron of one seed, ablated by itself: how much the loss grows, against its CSI at "
        "that step. The early checkpoint is the one in the early window where selectivity before the last stage is "
        "highest; under “every checkpoint” a slider leads through training. CSI is from all images of the selectivity "
        "measurement, those of the ablation included." + FAITHFUL * (_protocol(source) == "faithful"),
        alternative="Two scatter plots, early and late in training: class selectivity of a neuron against "
        "the change of "
        "loss when it alone is ablated, coloured by stage.",
        views=tuple(views),
        missing=tuple(said),
        sources=(
            source.files("ablation-<value>-<split>/step-*.parquet"),
            source.files("selectivity-corrected-<split>/step-*.parquet"),
        ),
    )


def join_selectivity(source: Source) -> pl.DataFrame:
    """Single-neuron ablations with the selectivity of the same neuron at the same step."""
    measured = source.table("selectivity")
    keys = ["condition", "seed", "step", "stage", "layer", "neuron"]
    chosen = (
        measured.filter(protocol=_protocol(source))
        .filter(~pl.col("dead").fill_null(False))
        .select(*keys, "csi", "csi_cv")
    )
    return source.table("ablation").join(chosen, on=keys, how="inner", maintain_order="left")


def _protocol(source: Source) -> str:
    """Of the selectivity that single neurons are set against."""
    found = source.table("selectivity")["protocol"]
    return "faithful" if "faithful" in found and "corrected" not in found else "corrected"


def _area_views(source: Source, rows: pl.DataFrame) -> tuple[View, ...]:
    scopes = rows["scope"].unique(maintain_order=True).to_list()
    before = [scope for scope in scopes if scope in source.early_stages] or scopes
    choices = [("mean of " + " and ".join(before) if len(before) > 1 else before[0], before)]
    choices += [(scope, [scope]) for scope in scopes if [scope] != before]
    views = []
    for condition in sorted(source.conditions(rows), key=lambda name: name != source.baseline):
        for name, chosen in choices:
            part = rows.filter(pl.col("scope").is_in(chosen), condition=condition)
            part = part.group_by([*_RUN, "order", "value"], maintain_order=True).agg(pl.col("area").mean())
            keys = tuple(key for order, key in ORDERS.items() if order in part["order"])
            first = condition == source.baseline and chosen == before
            views.append(
                View(f"{condition} · {name}", _area_panels(source, part), keys, "F2-ablation" if first else "")
            )
    return tuple(views)


def _area_panels(source: Source, rows: pl.DataFrame) -> tuple[Panel, ...]:
    named = rows.with_columns(order=pl.col("order").replace({order: key.name for order, key in ORDERS.items()}))
    ranks = {key.name: rank for rank, key in enumerate(ORDERS.values())}
    panels = []
    for value in (value for value in VALUES if value in rows["value"]):
        own = named.filter(value=value)
        own = own.sort(pl.col("order").replace_strict(ranks, default=9, return_dtype=pl.Int32), maintain_order=True)
        lines = curves(own, "order", "area")
        panels.append(
            Panel(
                f"Area, {VALUES[value]}",
                source.steps,
                Axis(""),
                tuple(lines),
                "1: intact, 0: chance",
                levels=((0.0, ""),),
                shade=source.early,
                table=step_table(lines),
                empty="" if lines else "No checkpoint is accurate enough to be judged.",
            )
        )
    return tuple(panels)


def _unjudged(rows: pl.DataFrame) -> list[str]:
    points = rows.group_by("condition", "seed", "step").agg(pl.col("area").count())
    blank = points.filter(area=0).height
    if not blank:
        return []
    return [f"{blank} of {points.height} checkpoints are not judged: their accuracy is too near chance."]


def _scatter(source: Source, rows: pl.DataFrame) -> View:
    steps = rows["step"].unique().sort().to_list()
    early, late = _early_step(source, rows), steps[-1]
    panels = tuple(
        _cloud(source, rows.filter(step=step), f"{when}: step {step}")
        for when, step in ((("Early", early), ("Late", late)) if early != late else (("Late", late),))
    )
    condition, value = rows["condition"][0], rows["value"][0]
    keys = tuple(key for stage, key in source.stage_keys.items() if stage in rows["stage"])
    first = condition == source.baseline and value == "zero"
    return View(f"{condition} · {VALUES[value]}", panels, keys, "F2-single-neurons" if first else "")


def _slides(source: Source, rows: pl.DataFrame) -> View:
    """Every checkpoint, one at a time, on axes that hold them all."""
    steps = rows["step"].unique().sort().to_list()
    drawn = rows.drop_nulls(["csi", "loss_delta"])
    x = Axis("CSI of the neuron", floor=0.0, ceiling=1.02)
    y = _axis_of(drawn["loss_delta"].to_list(), "change of loss (nats)")
    clouds = tuple(_cloud(source, rows.filter(step=step), f"Step {step}", _POINTS_A_SLIDE) for step in steps)
    keys = tuple(key for stage, key in source.stage_keys.items() if stage in rows["stage"])
    name = f"{rows['condition'][0]} · {VALUES[rows['value'][0]]} · every checkpoint"
    return View(name, tuple(replace(cloud, x=x, y=y) for cloud in clouds), keys, slides=tuple(steps))


def _axis_of(values: list[float], label: str) -> Axis:
    low, high = min(values, default=0.0), max(values, default=0.0)
    margin = 0.05 * (high - low or 1.0)
    return Axis(label, floor=low - margin, ceiling=high + margin)


def _early_step(source: Source, rows: pl.DataFrame) -> int:
    """The step in the early window (anywhere, without one) of highest selectivity before the last stage."""
    steps = rows["step"].unique().sort()
    end = source.early[1] if source.early else steps.max()
    measured = source.table("selectivity").filter(
        pl.col("step").is_in(steps.implode()),
        pl.col("step") < end,
        pl.col("stage").is_in(source.early_stages),
        condition=rows["condition"][0],
    )
    if measured.is_empty():
        return steps[0]
    mean = (
        stage_means(layer_means(measured), ()).group_by("step").agg(pl.col("csi_cv").mean()).drop_nulls().sort("step")
    )
    return steps[0] if mean.is_empty() else mean["step"][mean["csi_cv"].arg_max() or 0]


def _cloud(source: Source, rows: pl.DataFrame, title: str, most: int = _MOST_POINTS) -> Panel:
    shown = rows.drop_nulls(["csi", "loss_delta"]).gather_every(max(1, -(-rows.height // most)))
    marks = tuple(
        Points(
            stage,
            own["csi"].to_list(),
            own["loss_delta"].to_list(),
            [f"{layer}, neuron {n}, seed {s}" for layer, n, s in own.select("layer", "neuron", "seed").iter_rows()],
        )
        for stage in source.layers
        if not (own := shown.filter(stage=stage)).is_empty()
    )
    part = f"{shown.height} of {rows.height} neurons shown" if shown.height < rows.height else f"{rows.height} neurons"
    return Panel(
        title,
        Axis("CSI of the neuron", floor=0.0),
        Axis("change of loss (nats)"),
        marks,
        part,
        levels=((0.0, ""),),
        table=_ranks(source, rows),
        empty="" if marks else "No neuron has both values.",
    )


def _ranks(source: Source, rows: pl.DataFrame) -> Table:
    """Spearman correlation in each layer, averaged over seeds: a description, no test."""
    by_seed = rows.group_by("layer", "seed").agg(
        pl.len().alias("neurons"),
        pl.col("loss_delta").mean(),
        pl.corr("csi", "loss_delta", method="spearman").fill_nan(None).alias("rho"),
    )
    means = by_seed.group_by("layer").agg(pl.col("neurons").max(), pl.col("loss_delta").mean(), pl.col("rho").mean())
    found = {row[0]: row for row in means.iter_rows()}
    order = [layer for layers in source.layers.values() for layer in layers if layer in found]
    header = ("layer", "neurons", "mean change of loss", "Spearman r of CSI and change (mean over seeds)")
    return Table(header, tuple(found[layer] for layer in order))
