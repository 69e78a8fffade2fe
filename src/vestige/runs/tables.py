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
}
"""Raised when a kind of table gets other columns: the tables of that kind are then made again, and no others."""

IDENTITY: dict[str, Any] = {
    "condition": pl.String,
    "seed": pl.Int64,
    "step": pl.Int64,  # optimiser steps since initialisation
    "epoch": pl.Float64,
    "protocol": pl.String,  # corrected | faithful
    "dataset": pl.String,
    "split": pl.String,
    "n": pl.Int64,  # images measured
}
NEURON: dict[str, Any] = {"stage": pl.String, "layer": pl.String, "neuron": pl.Int32}
ABLATION: dict[str, Any] = {"value": pl.String, "mode": pl.String}

SCHEMAS: dict[str, dict[str, Any]] = {
    "selectivity": IDENTITY
    | NEURON
    | {
        "csi": pl.Float32,
        "csi_null_mean": pl.Float32,
        "csi_null_q95": pl.Float32,
        "csi_excess": pl.Float32,
        "csi_cv": pl.Float32,
        "reliability": pl.Float32,
        "eta2": pl.Float32,
        "eta2_adj": pl.Float32,
        "sparsity": pl.Float32,
        "closed": pl.Float32,  # share of (image, position) exactly 0
        "p_value": pl.Float32,
        "selective": pl.Boolean,  # null without permutations
        "preferred_class": pl.Int32,
        "second_class": pl.Int32,
        "mu_max": pl.Float32,
        "mu_rest": pl.Float32,
        "mean": pl.Float32,
        "dead": pl.Boolean,
        "auroc": pl.Float32,
        "informedness": pl.Float32,
        "precision_at_k": pl.Float32,
        "k": pl.Int32,  # images that precision_at_k looks at
        "mutual_information": pl.Float32,  # bits
        "rectify": pl.String,  # abs | none: what was done to each image's spatial mean
        "mode": pl.String,  # exact | streamed
    },
    "ablation": IDENTITY
    | NEURON
    | ABLATION
    | {
        "loss_delta": pl.Float32,  # nats, ablated minus intact
        "loss_delta_se": pl.Float32,  # sampling of inputs, total
        "approximation_se": pl.Float32,  # 0 for exact
        "top1_delta": pl.Float32,  # shares in [-1, 1], as all below
        "right_to_wrong": pl.Float32,
        "wrong_to_right": pl.Float32,
        "preferred_class": pl.Int32,
        "preferred_delta": pl.Float32,
        "others_delta": pl.Float32,
    },
    "ablation-by-class": IDENTITY
    | NEURON
    | ABLATION
    | {
        "class": pl.Int32,
        "class_n": pl.Int32,
        "class_loss_delta": pl.Float32,
        "class_top1_delta": pl.Float32,
    },
    "cumulative": IDENTITY
    | {
        "order": pl.String,
        "scope": pl.String,  # a stage, or "all"
        "value": pl.String,
        "draw": pl.Int32,
        "fraction": pl.Float64,
        "top1": pl.Float32,
        "loss": pl.Float32,
    },
    "linearity": IDENTITY
    | {
        "measure": pl.String,
        "layer": pl.String,  # "logits" for the network's output
        "other": pl.String,  # what it is compared with; empty where nothing is
        "value": pl.Float64,
        "anchor": pl.Float64,  # the same for the network without its ReLUs
    },
    "history": {
        "condition": pl.String,
        "seed": pl.Int64,
        "step": pl.Int64,
        "epoch": pl.Float64,
        "split": pl.String,  # train: mean over the steps since the row before; test: the test set at this step
        "loss": pl.Float64,
        "top1": pl.Float64,
        "top5": pl.Float64,  # null where there are five classes or fewer
        "lr": pl.Float64,
    },
}


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
