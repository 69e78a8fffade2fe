"""Columns of every table of a study, in one place, with a version each."""

from collections.abc import Mapping
from typing import Any

import polars as pl

SCHEMA_VERSIONS = {
    "selectivity": 2,
    "ablation": 1,
    "cumulative": 1,
    "linearity": 1,
    "history": 1,
    "portraits": 1,  # class-means and top-inputs
}
"""Raised when a kind of table gets other columns: the tables of that kind are then made again, and no others."""

Columns = Mapping[str, tuple[Any, str]]
"""Type and meaning, with its unit, of each column; the reference of the documentation is made of these."""

_IDENTITY: Columns = {
    "condition": (
        pl.String,
        "the schedule of interventions; of a foreign model its name, or the weight file where no step is known",
    ),
    "seed": (pl.Int64, "of the run"),
    "step": (pl.Int64, "optimiser steps since initialisation"),
    "epoch": (pl.Float64, "the same, in epochs"),
    "protocol": (pl.String, "`corrected`, or `faithful` to the paper's released code"),
    "dataset": (pl.String, "where the images come from"),
    "split": (pl.String, "`train` or `test`"),
    "n": (pl.Int64, "images measured"),
}
_NEURON: Columns = {
    "stage": (pl.String, "group of layers: `layer3`"),
    "layer": (pl.String, "module path: `layer3.2`"),
    "neuron": (pl.Int32, "channel or feature of the layer, from 0"),
}
_ABLATION: Columns = {
    "value": (pl.String, "what replaces the neuron: `zero`, `mean`, `resample`"),
    "mode": (pl.String, "`exact`, `controlled` or `screen`"),
}

COLUMNS: dict[str, Columns] = {
    "selectivity": {
        **_IDENTITY,
        **_NEURON,
        "csi": (pl.Float32, "class selectivity index, 0 to 1; 0 for a dead neuron"),
        "csi_null_mean": (pl.Float32, "mean of csi over permutations of the labels; NaN without any"),
        "csi_null_q95": (pl.Float32, "95% quantile of csi over permutations of the labels; NaN without any"),
        "csi_excess": (pl.Float32, "csi less csi_null_mean: descriptive"),
        "csi_cv": (
            pl.Float32,
            "cross-validated csi: class from one half of the images, lead from the other; mean 0"
            " without signal, not bounded",
        ),
        "reliability": (
            pl.Float32,
            "of the class means: correlation of two halves, stepped up; NaN where that is not above 0",
        ),
        "eta2": (pl.Float32, "between-class share of the variance over images, 0 to 1"),
        "eta2_adj": (pl.Float32, "eta2 less what luck explains; mean 0 without signal"),
        "sparsity": (pl.Float32, "1 - (mean a)^2 / mean(a^2), 0 to 1; NaN for a dead neuron"),
        "closed": (pl.Float32, "share of (image, position) exactly 0"),
        "p_value": (pl.Float32, "of csi, by permutations of the labels; NaN without any"),
        "selective": (
            pl.Boolean,
            "flagged at a false discovery rate of 5%, and csi_cv above the 95% quantile of its"
            " layer at step 0 where there is one; null without permutations",
        ),
        "preferred_class": (pl.Int32, "class with the highest mean activation"),
        "second_class": (pl.Int32, "class with the second highest"),
        "mu_max": (pl.Float32, "highest class mean, in units of the activation"),
        "mu_rest": (pl.Float32, "mean over the other classes, likewise"),
        "mean": (pl.Float32, "over images and positions, likewise"),
        "dead": (pl.Boolean, "exactly 0 for every image and position"),
        "auroc": (pl.Float32, "of detecting the preferred class, held out; 0.5 without signal"),
        "informedness": (pl.Float32, "true less false positive rate of that detector, held out; 0 without signal"),
        "precision_at_k": (pl.Float32, "share of the commonest class among the k highest images; NaN for k below 5"),
        "k": (pl.Int32, "images that precision_at_k looks at"),
        "mutual_information": (pl.Float32, "about the class, in bits, less what luck gives"),
        "rectify": (pl.String, "`abs` or `none`: what was done to each image's spatial mean"),
        "mode": (pl.String, "`exact`: activations of all images were kept; else `streamed`"),
    },
    "ablation": {
        **_IDENTITY,
        **_NEURON,
        **_ABLATION,
        "loss_delta": (pl.Float32, "change of mean cross-entropy, nats, ablated minus intact"),
        "loss_delta_se": (pl.Float32, "its standard error over images, paired, nats: sampling of the images, in all"),
        "approximation_se": (pl.Float32, "part of it that running every image would take away, nats; 0 for exact"),
        "top1_delta": (pl.Float32, "change of accuracy, a share of the images, -1 to 1, as all below"),
        "right_to_wrong": (pl.Float32, "images classified rightly before and wrongly after"),
        "wrong_to_right": (pl.Float32, "images classified wrongly before and rightly after"),
        "preferred_class": (pl.Int32, "class with the highest mean activation, on the images ranked on"),
        "preferred_delta": (pl.Float32, "change of accuracy on the images of that class"),
        "others_delta": (pl.Float32, "change of accuracy on the images of the other classes"),
    },
    "ablation-by-class": {
        **_IDENTITY,
        **_NEURON,
        **_ABLATION,
        "class": (pl.Int32, "of the images"),
        "class_n": (pl.Int32, "images of the class"),
        "class_loss_delta": (pl.Float32, "change of mean cross-entropy on them, nats"),
        "class_top1_delta": (pl.Float32, "change of accuracy on them, -1 to 1"),
    },
    "cumulative": {
        **_IDENTITY,
        "order": (pl.String, "`csi-desc`, `csi-asc`, `activity-matched` or `random`"),
        "scope": (pl.String, 'a stage, or "all"'),
        "value": (pl.String, "what replaces the neurons"),
        "draw": (pl.Int32, "number of the seeded order, from 0"),
        "fraction": (pl.Float64, "share of the neurons of every layer of the scope that is replaced"),
        "top1": (pl.Float32, "accuracy, 0 to 1"),
        "loss": (pl.Float32, "mean cross-entropy, nats"),
    },
    "linearity": {
        **_IDENTITY,
        "measure": (pl.String, "which measure the value is of"),
        "layer": (pl.String, '"logits" for the network\'s output'),
        "other": (pl.String, "what it is compared with; empty where nothing is"),
        "value": (pl.Float64, "of the network"),
        "anchor": (pl.Float64, "the same for the network without its ReLUs"),
    },
    "class-means": {
        **_IDENTITY,
        **_NEURON,
        "class_means": (
            pl.List(pl.Float32),
            "mean activation for the images of each class, in the order of the classes; NaN for one without images",
        ),
    },
    "top-inputs": {
        **_IDENTITY,
        **_NEURON,
        "rank": (pl.Int32, "from 0, the image of highest activation; the earlier image among equals"),
        "input": (pl.Int64, "which image of the split, from 0"),
        "label": (pl.Int32, "its class"),
        "activation": (pl.Float32, "mean over positions (its absolute value in signed layers), above 0"),
    },
    "history": {
        "condition": _IDENTITY["condition"],
        "seed": _IDENTITY["seed"],
        "step": _IDENTITY["step"],
        "epoch": _IDENTITY["epoch"],
        "split": (pl.String, "`train`: mean over the steps since the row before; `test`: the test set at this step"),
        "loss": (pl.Float64, "mean cross-entropy, nats"),
        "top1": (pl.Float64, "accuracy, 0 to 1"),
        "top5": (pl.Float64, "label among the five highest logits, 0 to 1; null where there are five classes or fewer"),
        "lr": (pl.Float64, "learning rate of the step before"),
    },
}


def _types(columns: Columns) -> dict[str, Any]:
    return {name: dtype for name, (dtype, _) in columns.items()}


IDENTITY = _types(_IDENTITY)
SCHEMAS: dict[str, dict[str, Any]] = {kind: _types(columns) for kind, columns in COLUMNS.items()}


def conform(frame: pl.DataFrame, kind: str, **identity: Any) -> pl.DataFrame:
    """Add the identity columns to a measurement's rows, and cast to the schema.

    Args:
      frame: the rows of one measurement, without the columns in `identity`.
      kind: a key of `SCHEMAS`.
      identity: a constant for every identity column that the frame lacks.

    Returns:
      The frame with exactly the columns of the schema, in its order; `history` may have further Float64 columns,
      `<intervention>.<quantity>`, behind them.
    """
    schema = SCHEMAS[kind]
    frame = frame.with_columns(pl.lit(value, dtype=schema[name]).alias(name) for name, value in identity.items())
    extra = [name for name in frame.columns if name not in schema] if kind == "history" else []
    types: Mapping[str, Any] = schema | dict.fromkeys(extra, pl.Float64)
    return frame.select(pl.col(name).cast(dtype) for name, dtype in types.items())


def empty(kind: str) -> pl.DataFrame:
    """A table of this kind without rows."""
    return pl.DataFrame(schema=SCHEMAS[kind])
