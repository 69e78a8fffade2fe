"""Cumulative ablation with the departures of the released code, one at a time and all together."""

import shutil
from pathlib import Path

import polars as pl

from vestige.config import load_study
from vestige.runs.store import value_hash
from vestige.runs.tables import SCHEMA_VERSIONS, SCHEMAS
from vestige.study.facts import Facts
from vestige.study.plan import FORMULA_VERSIONS, make_plan

FACTS = Facts(
    key="k",
    data={"train": "a", "test": "b"},
    model={"name": "m"},
    train_images=200,
    test_images=160,
    class_names=tuple("0123456789"),
    input_shape=(1, 8, 8),
    layers=(("layer1.0", "layer1", 8),),
    device="cpu",
)
ALL = ["corrected", "faithful", "class-sums", "stored-batch-norm", "same-images", "redrawn"]


def keys_of(path, *overrides):
    plan = make_plan(load_study(path, overrides), FACTS)
    return {job.name: plan.job_key(job, "w") for job in plan.jobs("baseline") if job.kind == "cumulative"}


def test_protocols_add_tables_and_change_no_key(tiny: Path):
    plain = keys_of(tiny)
    assert set(plain) == {"cumulative-zero-test", "cumulative-mean-test"}
    settings = load_study(tiny).measurements.cumulative
    assert settings is not None
    parts = {
        "version": FORMULA_VERSIONS["cumulative"],
        "tables": SCHEMA_VERSIONS["cumulative"],
        "job": "cumulative-zero-test",
        "settings": settings.model_dump(
            mode="json", include={"split", "images", "orders", "fractions", "scopes", "draws"}
        ),
        "batch_norm": {"images": 80},
        "tile": 80,
        "data": FACTS.data,
        "dataset": "digits",
        "model": {"name": "m"},
        "weights": "w",
        "compute": {"device": "cpu", "threads": 1},
    }
    assert plain["cumulative-zero-test"] == value_hash(parts)
    more = keys_of(tiny, ("measurements.cumulative.protocols", ALL))
    assert plain.items() <= more.items()
    assert (
        set(more) - set(plain)
        == {
            "cumulative-zero-faithful-test",  # it knows no other value
            *(f"cumulative-{value}-{protocol}-test" for value in ("zero", "mean") for protocol in ALL[2:]),
        }
    )
    assert len(set(more.values())) == len(more)


def test_each_departs_in_one_thing(vestige, one_run: Path, tmp_path: Path):
    folder = tmp_path / "begun"
    shutil.copytree(one_run, folder)
    done = vestige(
        "measure", str(folder), "--only", "baseline", "--seeds", "0", "--measurements.cumulative.protocols", *ALL,
        "--measurements.cumulative.values", "zero", "--measurements.cumulative.draws", "1",
        "--measurements.linearity", "null", "--measurements.selectivity", "null", "--measurements.ablation", "null",
        "--claims", "null",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = folder / "runs/baseline/seed-0"
    paths = {p: run / f"cumulative-zero{'' if p == 'corrected' else '-' + p}-test" for p in ALL}
    curves = {p: pl.concat(map(pl.read_parquet, sorted(path.glob("*.parquet")))) for p, path in paths.items()}
    check_each_is_a_table_of_its_protocol(curves)
    check_what_a_departure_does_not_touch_is_as_corrected(curves)


def check_each_is_a_table_of_its_protocol(curves):
    for protocol, table in curves.items():
        assert dict(table.schema) == SCHEMAS["cumulative"]
        assert set(table["protocol"]) == {protocol}
        assert table["loss"].is_finite().all()
    whole = {protocol: table["n"].unique().item() for protocol, table in curves.items()}
    assert whole["faithful"] == 2 * whole["corrected"]  # no half is held out
    assert {whole[p] for p in ALL if p != "faithful"} == {whole["corrected"]}


def check_what_a_departure_does_not_touch_is_as_corrected(curves):
    keys = ["step", "scope", "order", "draw", "fraction"]

    def loss(protocol, order, **where):
        rows = curves[protocol].filter(order=order, **where).sort(keys)
        return rows["loss"].to_list()

    for protocol in ("same-images", "redrawn", "class-sums"):  # the same network on the same images
        assert loss(protocol, "random", fraction=0.0) == loss("corrected", "random", fraction=0.0)
    assert loss("stored-batch-norm", "random", fraction=0.0) != loss("corrected", "random", fraction=0.0)
    assert loss("same-images", "random") == loss("corrected", "random")
    assert loss("same-images", "csi-desc") != loss("corrected", "csi-desc")
    assert loss("class-sums", "csi-desc") == loss("corrected", "csi-desc")  # as many images of each class
    assert set(curves["redrawn"]["order"]) == {"random"}
    assert loss("redrawn", "random") != loss("corrected", "random")
