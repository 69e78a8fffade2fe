"""Class means and top inputs as jobs of a study, and the pictures of top inputs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vestige.config import DataConfig, load_study, parse_study
from vestige.runs.store import StudyFolder, read_json
from vestige.study import portraits
from vestige.study.facts import Facts
from vestige.study.plan import Unit, make_plan

FACTS = Facts(
    key="k",
    data={"train": "a", "test": "b"},
    model={"name": "made up"},
    train_images=500,
    test_images=100,
    class_names=("a", "b"),
    input_shape=(1, 8, 8),
    layers=(("layer1.0", "layer1", 16),),
    device="cpu",
)


def plan_of(tiny: Path, *overrides):
    return make_plan(load_study(tiny, overrides), FACTS)


def portrayed(plan, condition):
    steps = plan.own_checkpoints(condition)
    return [step for step in steps if any(job.kind == "portraits" for job in plan.jobs(condition, step))]


def test_of_the_baseline_alone_at_few_checkpoints(tiny):
    plan = plan_of(tiny, ("measurements.portraits.checkpoints", 3))
    kept = portrayed(plan, "baseline")
    assert len(kept) == 3
    assert (kept[0], kept[-1]) == (0, plan.checkpoints[-1])
    assert portrayed(plan, "early") == []


def test_of_conditions_asked_for(tiny):
    plan = plan_of(tiny, ("measurements.portraits.conditions", ["late"]))
    assert portrayed(plan, "baseline") == []
    assert portrayed(plan, "late") == [step for step in plan.kept if step in plan.own_checkpoints("late")] != []


def test_of_all_where_there_is_no_baseline():
    window = {"interventions": [{"kind": "selectivity"}]}
    none = dict.fromkeys(("ablation", "cumulative", "linearity"))
    study = parse_study({"name": "x", "conditions": {"a": window}, "measurements": none}, source="x")
    assert portrayed(make_plan(study, FACTS), "a") != []


def test_null_leaves_them_out(tiny):
    assert portrayed(plan_of(tiny, ("measurements.portraits", None)), "baseline") == []


def test_how_many_checkpoints_keep_them_makes_none_anew_and_how_many_inputs_does(tiny):
    def key(*overrides):
        plan = plan_of(tiny, *overrides)
        job = next(job for job in plan.jobs("baseline") if job.kind == "portraits")
        return plan.job_key(job, "w")

    assert key() == key(("measurements.portraits.checkpoints", 3)) == key(("seeds", [4, 5]))
    assert key() != key(("measurements.portraits.inputs", 3))


def test_they_are_missing_where_they_are_kept_and_no_unit_waits_for_them_elsewhere(tiny):
    others = ("selectivity", "ablation", "cumulative", "linearity")
    plan = plan_of(tiny, *((f"measurements.{kind}", None) for kind in others), ("claims", None))
    measured = [unit for unit in plan.units if unit.step is not None]
    assert measured == [Unit("baseline", seed, step) for seed in (0, 1) for step in plan.kept]


@pytest.fixture
def odd(tmp_path):
    """A folder of two classes with images of every odd mode; the shade of each, as it should be seen."""
    shades = {}
    for i, mode in enumerate(("L", "P", "I;16", "CMYK", "RGBA", "1", "LA", "RGB")):
        home = tmp_path / "images" / ("a", "b")[i % 2]
        home.mkdir(parents=True, exist_ok=True)
        shade = 255 if mode == "1" else 40 + 20 * i
        if mode == "I;16":
            picture = Image.fromarray(np.full((8, 8), shade * 257, dtype=np.uint16))
        else:
            plain = Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8))
            picture = plain.quantize(2) if mode == "P" else plain.convert(mode)
        name = f"{i}.{'tif' if mode == 'CMYK' else 'png'}"
        picture.save(home / name)
        shades[home.name, name] = shade
    ordered = [shades[key] for key in sorted(shades)]
    return f"folder:{tmp_path / 'images'}", ordered


def made_up_plan(spec, shape=(3, 8, 8)) -> Any:
    data = DataConfig(train=spec, test=spec, channels=shape[0])
    measurements = SimpleNamespace(portraits=SimpleNamespace(split="test"))
    study = SimpleNamespace(data=data, measurements=measurements)
    return SimpleNamespace(study=study, facts=SimpleNamespace(data={"test": spec}, input_shape=shape))


def inputs_of(home, places):
    path = home / "top.parquet"
    pl.DataFrame({"input": places}).write_parquet(path)
    return {("baseline", 0): {0: [path]}}


def test_images_of_odd_modes_show(odd, tmp_path):
    spec, shades = odd
    folder = StudyFolder(tmp_path / "study")
    sheets = portraits._sheets(made_up_plan(spec), folder, inputs_of(tmp_path, [0, 3, 7]))
    assert sheets
    pixels = np.asarray(Image.open(sheets.files[0]).convert("L")).astype(int)
    seen = [pixels[i // 8 * 8 : i // 8 * 8 + 8, i % 8 * 8 : i % 8 * 8 + 8] for i in range(8)]
    assert all(np.ptp(cell) == 0 for cell in seen)
    assert [int(cell[0, 0]) for cell in seen] == pytest.approx(shades, abs=1)


def test_a_sheet_is_made_once_and_for_these_images(odd, tmp_path):
    folder, plan = StudyFolder(tmp_path / "study"), made_up_plan(odd[0])
    sheets = portraits._sheets(plan, folder, inputs_of(tmp_path, [1]))
    assert sheets
    before = sheets.files[0].stat().st_mtime_ns
    plan.study.data = DataConfig(train="folder:gone", test="folder:gone")
    assert portraits._sheets(plan, folder, inputs_of(tmp_path, [2])) == sheets
    assert sheets.files[0].stat().st_mtime_ns == before
    plan.facts.data = {"test": "other images"}
    assert portraits._sheets(plan, folder, inputs_of(tmp_path, [2])) is None, "there are no pictures of those"


def test_large_images_are_made_small(tmp_path):
    home = tmp_path / "images" / "a"
    home.mkdir(parents=True)
    wide = np.zeros((100, 200, 3), dtype=np.uint8)
    wide[:, 100:] = 255
    for i in range(2):
        Image.fromarray(wide).save(home / f"{i}.png")
    (tmp_path / "images" / "b").mkdir()
    Image.fromarray(wide).save(tmp_path / "images" / "b" / "0.png")
    folder = StudyFolder(tmp_path / "study")
    sheets = portraits._sheets(
        made_up_plan(f"folder:{tmp_path / 'images'}", (3, 100, 200)), folder, inputs_of(tmp_path, [0])
    )
    assert sheets
    assert sheets.files[0].suffix == ".jpg"
    assert read_json(folder.path / "thumbnails" / "test" / "about.json")["cell"] == 64
    cell = np.asarray(Image.open(sheets.files[0]).convert("L"))[:64, :64].astype(int)
    assert np.abs(cell[:10] - 128).max() < 12, "what the picture leaves free is grey"
    assert cell[32, 10] < 12
    assert cell[32, 54] > 243
