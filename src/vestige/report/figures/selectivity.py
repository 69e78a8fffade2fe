"""F1: class selectivity through training, beside its null, the variance explained by class and closed "
"gates."""

import polars as pl

from vestige.report.figures.histograms import histograms
from vestige.report.figures.source import FAITHFUL, FIRES, Source, curves, over_seeds, single_seed, step_table
from vestige.report.panels import Axis, Band, Figure, Key, Panel, View

_RUN = ["condition", "protocol", "seed", "step"]
_PANELS = {
    "csi": ("Class selectivity (CSI)", "band: mean to 95% quantile under permuted labels"),
    "csi_cv": ("Cross-validated CSI", "0 without signal: the one to infer from"),
    "eta2": ("Variance explained by class (η²)", "blind to offset and scale, which CSI is not"),
    "closed": ("Closed gates", "share of images and positions at exactly 0"),
}
_MANY = 6
"""Beyond so many curves, no thin lines and no bands: they would hide the means."""


def selectivity(source: Source) -> Figure:
    """Figure F1."""
    frame = source.table("selectivity")
    layers = source.branched(layer_means(frame))
    stages = stage_means(layers)
    views = [
        View(
            _name(source, condition, protocol, how),
            _panels(source, rows, by, keys),
            keys,
            _file(source, condition, protocol, by),
        )
        for protocol in _protocols(frame)
        for condition in sorted(source.conditions(frame), key=lambda name: name != source.baseline)
        for how, by, table, keys in (
            ("by stage", "stage", stages, tuple(source.stage_keys.values())),
            ("by layer", "layer", layers, tuple(source.layer_keys.values())),
        )
        if by == "stage" or len(source.layer_keys) > len(source.stage_keys)
        if not (rows := table.filter(condition=condition, protocol=protocol)).is_empty()
    ]
    if len(source.conditions(frame)) > 1:
        views += [_compared(source, layers, protocol) for protocol in _protocols(frame)]
    views += histograms(source)
    wanted = source.study.measurements.selectivity
    return Figure(
        id="F1",
        title="Selectivity through training",
        caption="Thick: mean over seeds of the mean over neurons, layer by layer. Thin: single seeds. "
        "Neurons that never "
        "fire are left out, except among the closed gates. A share of raw CSI is noise: compare it with "
        "its null band." + FAITHFUL * ("faithful" in frame["protocol"]),
        alternative="Curves against optimiser steps of class selectivity, cross-validated selectivity, "
        "variance "
        "explained by class and closed gates, by stage.",
        views=tuple(views),
        missing=tuple(_missing(source, frame, wanted.conditions if wanted else None)),
        sources=(source.files("selectivity-<protocol>-<split>/step-*.parquet"),),
    )


def layer_means(frame: pl.DataFrame) -> pl.DataFrame:
    """Means over the neurons of a layer: those that fire, but for `closed`."""
    columns = ["csi", "csi_null_mean", "csi_null_q95", "csi_cv", "eta2"]
    return frame.group_by([*_RUN, "stage", "layer"], maintain_order=True).agg(
        *(pl.col(name).cast(pl.Float64).filter(FIRES).mean() for name in columns),
        pl.col("closed").cast(pl.Float64).mean(),
    )


def stage_means(layers: pl.DataFrame, by: tuple[str, ...] = ("stage",)) -> pl.DataFrame:
    """Means over the layers of a stage, or over all layers of the rows given."""
    return layers.group_by([*_RUN, *by], maintain_order=True).agg(pl.selectors.float().mean())


def _panels(source: Source, rows: pl.DataFrame, by: str, keys: tuple[Key, ...]) -> tuple[Panel, ...]:
    few = len(keys) <= _MANY
    return tuple(_panel(source, rows, by, value, seeds=few, band=few and by != "condition") for value in _PANELS)


def _panel(source: Source, rows: pl.DataFrame, by: str, value: str, *, seeds: bool, band: bool) -> Panel:
    title, subtitle = _PANELS[value]
    lines = curves(rows, by, value, seeds=seeds)
    bands = _null(rows, by) if value == "csi" and band else []
    percent = value == "closed"
    return Panel(
        title,
        source.steps,
        Axis("", percent=percent, floor=None if value == "csi_cv" else 0.0),
        (*bands, *lines),
        subtitle if value != "csi" or bands else "raw: noise alone lifts it above 0",
        shade=source.early,
        table=step_table(lines),
        empty="" if lines else "No value: every one is missing (NaN).",
    )


def _null(rows: pl.DataFrame, by: str) -> list[Band]:
    means = over_seeds(rows, [by], ["csi_null_mean", "csi_null_q95"])
    return [
        Band(
            group,
            own["step"].to_list(),
            own["csi_null_mean"].to_list(),
            own["csi_null_q95"].to_list(),
            "null",
        )
        for group in means[by].unique(maintain_order=True)
        if (own := means.filter(pl.col(by) == group))["csi_null_q95"].count()
    ]


def _compared(source: Source, layers: pl.DataFrame, protocol: str) -> View:
    rows = layers.filter(pl.col("stage").is_in(source.early_stages), protocol=protocol)
    rows = stage_means(rows, ())
    found = source.conditions(rows)
    rows = pl.concat([rows.filter(condition=name) for name in found])
    keys = tuple(source.condition_keys[name] for name in found if name in source.condition_keys)
    name = "conditions compared, stages before the last"
    several = len(_protocols(layers)) > 1
    return View(
        f"{name} · {protocol}" if several else name,
        _panels(source, rows, "condition", keys),
        keys,
        "F1-conditions" + ("-faithful" if protocol == "faithful" else ""),
    )


def _protocols(frame: pl.DataFrame) -> list[str]:
    return sorted(frame["protocol"].unique())


def _name(source: Source, condition: str, protocol: str, how: str) -> str:
    several = len(_protocols(source.table("selectivity"))) > 1
    return f"{condition} · {how}" + (f" · {protocol}" if several else "")


def _file(source: Source, condition: str, protocol: str, by: str) -> str:
    if condition != source.baseline or by != "stage":
        return ""
    return "F1-selectivity" + ("-faithful" if protocol == "faithful" else "")


def _missing(source: Source, frame: pl.DataFrame, conditions: tuple[str, ...] | None) -> list[str]:
    if frame.is_empty():
        return source.lacking("selectivity", (), "measurement of selectivity")
    said = source.lacking("selectivity", conditions or source.study.conditions, "measurement of selectivity")
    dead = frame.filter(dead=True).height
    if dead:
        said.append(f"{dead / frame.height:.1%} of the rows are neurons that never fire.")
    lost = frame.filter(FIRES)["csi_cv"].null_count()
    if lost:
        said.append(f"{lost / frame.height:.1%} of the rows have no cross-validated CSI (NaN): not in its means.")
    return said + single_seed(frame)
