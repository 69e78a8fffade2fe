"""Class means, damage by class and top inputs of a made-up study, as the files that a study has, and its thumbnails."""

from pathlib import Path

import numpy as np
import polars as pl
from made_up_report import LAYERS
from PIL import Image

from vestige.report.neurons.portraits import Portraits, Sheets
from vestige.runs.tables import conform

KEPT = (0, 4, 16, 100)
IMAGES = 150


def identity(condition, seed, step):
    return {
        "condition": condition,
        "seed": seed,
        "step": step,
        "epoch": step / 4,
        "protocol": "corrected",
        "dataset": "digits",
        "split": "test",
        "n": IMAGES,
    }


def neurons_of(layers):
    rows = [(stage, layer, n) for stage, layer, units in layers for n in range(units)]
    return pl.DataFrame(rows, schema=["stage", "layer", "neuron"], orient="row")


def made_up_portraits(
    home: Path,
    class_names,
    *,
    runs=(("baseline", 0), ("baseline", 1)),
    kept=KEPT,
    layers=LAYERS,
    values=("zero", "mean"),
) -> Portraits:
    rng, neurons, classes = np.random.default_rng(1), neurons_of(layers), len(class_names)
    means, inputs, damage = {}, {}, {}
    for run in runs:
        for step in kept:
            name = f"{run[0]}-{run[1]}-{step}"
            of = identity(*run, step)
            table = neurons.with_columns(
                pl.Series("class_means", rng.gamma(1.0, 1.0, (len(neurons), classes)).tolist())
            )
            means.setdefault(run, {})[step] = (
                written(home / f"means-{name}.parquet", conform(table, "class-means", **of)),
            )
            table = top_inputs(neurons, rng, classes)
            inputs.setdefault(run, {})[step] = (
                written(home / f"inputs-{name}.parquet", conform(table, "top-inputs", **of)),
            )
            damage.setdefault(run, {})[step] = tuple(
                written(
                    home / f"damage-{value}-{name}.parquet",
                    conform(by_class(neurons, rng, classes, value), "ablation-by-class", **of),
                )
                for value in values
            )
    return Portraits(tuple(class_names), means, inputs, damage, sheets(home))


def top_inputs(neurons, rng, classes, k=4):
    """Neuron 5 of the first layer is excited by nothing."""
    rows = neurons.with_row_index("place").join(pl.DataFrame({"rank": range(k)}), how="cross")
    rows = rows.filter(pl.col("place") != 5)
    return rows.drop("place").with_columns(
        input=pl.Series(rng.integers(0, IMAGES, len(rows))),
        label=pl.Series(rng.integers(0, classes, len(rows))),
        activation=pl.Series(rng.gamma(2.0, 1.0, len(rows))),
    )


def by_class(neurons, rng, classes, value):
    rows = neurons.join(pl.DataFrame({"class": range(classes)}), how="cross")
    harm = rng.normal(0, 0.02, len(rows))
    return rows.with_columns(
        value=pl.lit(value),
        mode=pl.lit("exact"),
        class_n=pl.lit(15),
        class_loss_delta=pl.Series(harm),
        class_top1_delta=0.0,
    )


def sheets(home):
    files = {}
    for number in range(-(-IMAGES // 64)):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(home / f"sheet-{number:05d}.png")
        files[number] = home / f"sheet-{number:05d}.png"
    return Sheets(64, 8, 8, files)


def written(path, table):
    table.write_parquet(path)
    return path
