"""Small runs on scikit-learn's digits, for the tests of training."""

import sys
from pathlib import Path

from vestige.config import parse_study
from vestige.runs.store import RunFolder
from vestige.training.loop import train_run

PENALTIES = {
    "selectivity, mean": {"kind": "selectivity"},
    "selectivity, sum": {"kind": "selectivity", "estimator": "sum"},
    "selectivity, permuted": {"kind": "selectivity", "labels": "permuted"},
    "eta2": {"kind": "eta2"},
    "eta2, permuted": {"kind": "eta2", "labels": "permuted"},
}
"""Every intervention there is, in every mode: the common suite goes through them all."""

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


def weights(run, step):
    return run.checkpoint(step).read_bytes()


def longer_run(folder: Path, progress=None):
    """160 steps, long enough for a process to be killed on its way."""
    study = small_study([{"kind": "selectivity", "window": {"start": 30}}], recipe={"epochs": 40})
    return train(study, folder, "changed", onsets=(30,), progress=progress)


if __name__ == "__main__":
    longer_run(Path(sys.argv[1]), progress=lambda done, total: print(done, flush=True))
