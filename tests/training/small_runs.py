"""Small runs on scikit-learn's digits, for the tests of training."""

import sys
import tempfile
from functools import cache
from pathlib import Path

import polars as pl

from vestige.config import parse_study
from vestige.data.datasets import balanced_indices, open_images
from vestige.data.loader import recalibration_batches, tiles
from vestige.measurement.keeping import Place
from vestige.measurement.network import Network
from vestige.measurement.selectivity import measure_selectivity
from vestige.models.batchnorm import recalibrate
from vestige.models.weights import load_weights
from vestige.models.zoo import build
from vestige.runs.store import RunFolder, read_tensors
from vestige.training.interventions import Given
from vestige.training.loop import train_run

PENALTIES = {
    "selectivity, mean": {"kind": "selectivity"},
    "selectivity, running": {"kind": "selectivity", "estimator": "running", "momentum": 0.7},
    "selectivity, sum": {"kind": "selectivity", "estimator": "sum"},
    "selectivity, permuted": {"kind": "selectivity", "labels": "permuted"},
    "selectivity, partition": {"kind": "selectivity", "labels": "partition"},
    "eta2": {"kind": "eta2"},
    "eta2, permuted": {"kind": "eta2", "labels": "permuted"},
    "eta2, partition": {"kind": "eta2", "labels": "partition"},
}
"""Every penalty there is, in every mode."""
OWN = Path(__file__).with_name("own_intervention.py")
INTERVENTIONS = {
    **PENALTIES,
    "selectivity, matched": {"kind": "selectivity", "dose": "matched"},
    "eta2, matched": {"kind": "eta2", "dose": "matched", "share": 0.2},
    "noise": {"kind": "noise"},
    "offset-sham": {"kind": "offset-sham"},
    "clamp": {"kind": "clamp", "fraction": 0.25},
    "clamp, random": {"kind": "clamp", "fraction": 0.25, "order": "random"},
    "rewind": {"kind": "rewind", "to": 2, "modules": ["layer3", "layer1.*.conv1"]},
    "lr": {"kind": "lr", "factor": 0.3},
    "own": {"kind": f"{OWN}:Shrink", "settings": {"strength": 0.3}},
}
"""Every intervention there is: the common suite goes through them all."""

KEY = "0" * 32


def small_study(interventions=(), **settings):
    """40 images, batches of 10, 3 epochs of 4 steps, a ResNet-8 of width 8."""
    base = {
        "name": "small",
        "data": {"limit": 40, "limit_test": 30, "channels": 1},
        "model": {"name": "resnet8", "width": 8},
        "recipe": {"epochs": 3, "batch_size": 10, "lr": 0.05, "schedule": "constant"},
        "checkpoints": {"log_spaced": None, "young_epochs": 1, "per_young_epoch": 2},
        "conditions": {"baseline": {}, "changed": {"interventions": list(interventions)}},
        "measurements": {"tile": 16},
    }
    for name, value in settings.items():
        base[name] = {**base[name], **value} if isinstance(value, dict) and name in base else value
    return parse_study(base, source="a test")


def train(study, folder: Path, condition="baseline", seed=0, **options):
    """Train a run in `folder` and return its folder."""
    run = RunFolder(folder)
    train_run(study, condition, seed, run, key=options.pop("key", KEY), settings={"made by": "a test"}, **options)
    return run


@cache
def given() -> Given:
    """A selectivity table for those that need one: of a run that was penalised for 4 steps, at step 4."""
    study = small_study([{"kind": "selectivity", "window": {"stop": 4}}])
    with tempfile.TemporaryDirectory() as folder:
        table = measured(study, train(study, Path(folder), "changed"), 4)
    return Given(tables=dict.fromkeys(("offset-sham", "clamp"), table))


def measured(study, run, step) -> pl.DataFrame:
    """The selectivity table of a checkpoint, as a study makes it: corrected, on the test images."""
    train_set, test_set = (open_images("digits", split, study.data) for split in ("train", "test"))
    tile = study.measurements.tile
    model = build(study.model, classes=10, channels=1, size=8, seed=0)
    load_weights(model, read_tensors(run.checkpoint(step))[0], "")
    images = recalibration_batches(train_set, study.measurements.batch_norm.images, study.data, tile)
    recalibrate(model, images)
    chosen = balanced_indices(test_set.labels, study.measurements.selectivity.images)
    batches = list(tiles(test_set, chosen, study.data, tile))
    network = Network.prepare(model.eval(), images[0][:2])
    return measure_selectivity(network, batches, protocol="corrected", permutations=2, place=Place(1.0, 1e9)).table


def weights(run, step):
    return run.checkpoint(step).read_bytes()


def longer_run(folder: Path, progress=None):
    """160 steps, long enough for a process to be killed on its way."""
    study = small_study([{"kind": "selectivity", "window": {"start": 30}}], recipe={"epochs": 40})
    return train(study, folder, "changed", onsets=(30,), progress=progress)


if __name__ == "__main__":
    longer_run(Path(sys.argv[1]), progress=lambda done, total: print(done, flush=True))
