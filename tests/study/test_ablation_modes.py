"""The study's single-neuron ablation: its modes and values, and the keys of what was made before there were any."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from vestige.config import load_study
from vestige.errors import ConfigError
from vestige.runs.store import value_hash
from vestige.runs.tables import SCHEMA_VERSIONS, SCHEMAS
from vestige.study.facts import Facts
from vestige.study.plan import FORMULA_VERSIONS, Plan, make_plan

FACTS = Facts(
    key="k",
    data={"train": "a", "test": "b"},
    model="m",
    train_images=200,
    test_images=160,
    class_names=tuple("0123456789"),
    input_shape=(1, 8, 8),
    layers=(("layer1.0", "layer1", 8),),
    device="cpu",
)
NAMES = ("ablation-zero-test", "ablation-mean-test")


def plan_of(path: Path, *overrides: tuple[str, object]) -> Plan:
    return make_plan(load_study(path, overrides), FACTS)


def keys_of(plan: Plan) -> dict[str, str]:
    return {job.name: plan.job_key(job, "w") for job in plan.jobs("baseline")}


def test_the_keys_of_what_exists_did_not_change(tiny: Path):
    """Tables of studies made before there were modes have keys of these settings and no others."""
    plan = plan_of(tiny)
    for name in NAMES:
        parts = {
            "version": FORMULA_VERSIONS["ablation"],
            "tables": SCHEMA_VERSIONS["ablation"],
            "job": name,
            "settings": {"split": "test", "images": None, "mode": "exact"},
            "batch_norm": {"images": 80},
            "tile": 80,
            "data": FACTS.data,
            "dataset": "digits",
            "model": "m",
            "weights": "w",
            "compute": {"device": "cpu", "threads": 1},
        }
        assert keys_of(plan)[name] == value_hash(parts)


def test_what_changes_a_key(tiny: Path):
    plain = keys_of(plan_of(tiny))
    assert keys_of(plan_of(tiny, ("measurements.ablation.precision", 1.5))) == plain
    controlled = keys_of(plan_of(tiny, ("measurements.ablation.mode", "controlled")))
    finer = keys_of(
        plan_of(tiny, ("measurements.ablation.mode", "controlled"), ("measurements.ablation.precision", 1.05))
    )
    for name in NAMES:
        assert len({plain[name], controlled[name], finer[name]}) == 3
    more = keys_of(plan_of(tiny, ("measurements.ablation.values", ["zero", "mean", "resample"])))
    assert set(more) - set(plain) == {"ablation-resample-test"}
    assert plain.items() <= more.items()


def test_a_precision_of_one_is_refused(tiny: Path):
    with pytest.raises(ConfigError, match="greater than 1"):
        load_study(tiny, [("measurements.ablation.precision", 1.0)])


def test_a_study_with_another_mode_and_value(vestige, one_run: Path, tmp_path: Path):
    shutil.copytree(one_run, tmp_path / "begun")
    done = vestige(
        "measure", "begun", "--only", "baseline", "--seeds", "0", "--measurements.ablation.mode", "controlled",
        "--measurements.ablation.values", "resample", "--measurements.cumulative.values", "resample",
        "--measurements.linearity", "null", "--measurements.selectivity", "null", "--claims", "null",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "begun/runs/baseline/seed-0"
    table = pl.concat(map(pl.read_parquet, sorted((run / "ablation-resample-test").glob("*.parquet"))))
    assert dict(table.schema) == SCHEMAS["ablation"]
    assert set(table["mode"]) == {"controlled"}
    assert set(table["value"]) == {"resample"}
    assert table["loss_delta"].is_finite().all()
    assert not list(run.glob(".pieces/*"))
    curves = pl.read_parquet(sorted((run / "cumulative-resample-test").glob("*.parquet"))[-1])
    assert set(curves["value"]) == {"resample"}
