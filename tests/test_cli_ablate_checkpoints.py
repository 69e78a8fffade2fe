"""`vestige ablate --checkpoints`: each set of weights of a training run as if it were alone, and one table of all."""

import json
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

from foreign_models import PREPARED, STEPS
from processes import stopped_after
from vestige.foreign import ablating
from vestige.runs.tables import SCHEMAS

torch.set_num_threads(1)
IMAGES = (60, 30)
OWN = ("--model", "model.py:make", "--data", "folder:images", *PREPARED, "--device", "cpu", "--workers", "1")
ALL = ("--checkpoints", "ck")
LAST_STAGE = ("--layers", "layer3.0")


@pytest.fixture
def ablate(called):
    """Run `vestige ablate` in `home`."""
    return partial(called, "ablate")


def tables_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_each_checkpoint_as_if_it_were_alone(ablate, home: Path):
    (home / "ck/ckpt_7.pth").write_text("no weights")
    rows = [("layer1.0", 0, "a"), ("layer3.0", 4, "a"), ("layer3.0", 5, "b")]
    pl.DataFrame(rows, schema=["layer", "neuron", "group"], orient="row").write_csv("groups.csv")
    more = ("--groups", "groups.csv", "--neurons", "groups.csv", "--cumulative")
    done = ablate(*OWN, *ALL, *more, "--out", "all")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "error: reading weights ck/ckpt_7.pth: it is damaged" in done.stderr
    assert "note: last.safetensors holds the same weights as ckpt_30.pth: ablated once." in done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()[:-1]] == [f"ckpt_{s}.pth (step {s}" for s in STEPS]
    table = pl.read_parquet("all/ablation.parquet")
    assert dict(table.schema) == SCHEMAS["ablation"]
    assert table["step"].unique(maintain_order=True).to_list() == list(STEPS)
    for step in (0, 30):
        alone = ablate(*OWN, "--weights", f"ck/ckpt_{step}.pth", *more, "--out", f"alone-{step}")
        assert alone.returncode == 0, alone.stderr
        for name in ("ablation", "ablation_by_class", "ranking", "groups", "cumulative", "cumulative_areas"):
            own = pl.read_parquet(f"alone-{step}/{name}.parquet")
            of_all = pl.read_parquet(f"all/{name}.parquet").filter(step=step)
            without = [column for column in own.columns if column != "step"]
            assert own.height > 0
            assert_frame_equal(of_all.select(without), own.select(without), check_exact=True)
    page = Path("all/ablation.html").read_text()
    for words in ("Through the checkpoints", "Of ckpt_30.pth (step 30), the last", "ckpt_7.pth was not ablated"):
        assert words in page
    assert json.loads(Path("all/ablated.json").read_text())["steps_from"] == "global_step"


def test_killed_and_run_again_and_more_checkpoints(ablate, home: Path, monkeypatch: pytest.MonkeyPatch):
    assert ablate(*OWN, *ALL, *LAST_STAGE, "--out", "whole").returncode == 0
    with monkeypatch.context() as patched:
        patched.setattr(ablating, "ablate", stopped_after(2, ablating.ablate))
        assert ablate(*OWN, *ALL, *LAST_STAGE, "--out", "again").returncode == 130
    half = {path: path.stat().st_mtime_ns for path in (home / "again").rglob("*.parquet")}
    assert {path.parent.name for path in half} == {"step-00000000", "step-00000005"}
    done = ablate(*OWN, *ALL, *LAST_STAGE, "--out", "again", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert tables_of(home / "again") == tables_of(home / "whole")
    assert all(path.stat().st_mtime_ns == before for path, before in half.items())
    assert not list((home / "again").rglob("*.tmp"))

    again = ablate(*OWN, *ALL, *LAST_STAGE, "--out", "again")
    assert "nothing to do: everything that was asked for is there already" in again.stdout
    assert again.stdout.endswith(done.stdout)
    content = torch.load("ck/ckpt_10.pth")
    content["global_step"] = 20
    content["state_dict"]["module.fc.bias"] += 1e-3
    torch.save(content, "ck/ckpt_20.pth")
    assert ablate(*OWN, *ALL, *LAST_STAGE, "--out", "again").returncode == 0
    steps = pl.read_parquet("again/ablation.parquet")["step"].unique(maintain_order=True).to_list()
    assert steps == [0, 5, 10, 20, 30]
    assert all(path.stat().st_mtime_ns == before for path, before in half.items())


@pytest.mark.parametrize("mode", ["controlled", "screen"])
def test_estimates_of_each_and_inputs_of_their_own(ablate, home: Path, mode: str):
    done = ablate(*OWN, *ALL, *LAST_STAGE, "--mode", mode, "--out", "out")
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet("out/ablation.parquet")
    assert table.group_by("step", "mode", maintain_order=True).len().rows() == [(s, mode, 16) for s in STEPS]
    assert table["loss_delta"].n_unique() > 16
    pieces = {path.relative_to(home / "out/checkpoints").parts[0] for path in home.rglob("out/**/key.json")}
    assert pieces == {f"step-{step:08d}" for step in STEPS}


def test_one_that_diverged_does_not_stop_the_others(ablate, home: Path):
    content = torch.load("ck/ckpt_10.pth")
    content["state_dict"]["module.fc.bias"] += torch.nan
    torch.save(content, "ck/ckpt_10.pth")
    done = ablate(*OWN, *ALL, *LAST_STAGE, "--per-input", "--out", "out")
    assert done.returncode == 2
    assert "error: ablating ck/ckpt_10.pth: " in done.stderr
    assert "failed: ckpt_10.pth; the others go on" in done.stderr
    assert pl.read_parquet("out/ablation.parquet")["step"].unique().sort().to_list() == [0, 5, 30]
    assert len(list((home / "out/checkpoints").glob("*/per_input/*/layer3.0.npy"))) == 3
    again = ablate(*OWN, *ALL, *LAST_STAGE, "--per-input", "--out", "out")
    assert again.returncode == 2
    assert "error: ablating ck/ckpt_10.pth: " in again.stderr


def test_a_folder_within_that_of_the_weights_holds_none(ablate, home: Path):
    first = ablate(*OWN, *ALL, *LAST_STAGE, "--out", "ck/ablated")
    assert first.returncode == 0, first.stderr
    assert list((home / "ck/ablated").rglob("*.safetensors"))
    again = ablate(*OWN, *ALL, *LAST_STAGE, "--out", "ck/ablated")
    assert "nothing to do" in again.stdout
