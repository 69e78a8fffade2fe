"""`vestige ablate --model ...` as a user meets it: killed at any moment, on any number of processes, the same."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from polars.testing import assert_frame_equal
from torch import nn

import vestige
from foreign_models import MODEL, PREPARED, as_inputs, digits, last_model
from processes import alive, children, wait_for
from vestige.runs.tables import SCHEMAS

torch.set_num_threads(1)
IMAGES = (120, 60)
ALONE = ("--workers", "1", "--device", "cpu")
OWN = ("--model", "model.py:make", "--weights", "ck/ckpt_30.pth", "--data", "folder:images", *PREPARED)


@pytest.fixture
def ablate(called):
    """Run `vestige ablate` in `home`."""
    return partial(called, "ablate")


@torch.no_grad()
def test_a_stranger_s_model(ablate, home: Path):
    done = ablate(*OWN, *ALONE, "--out", "out", "--value", "zero", "resample", "--per-input")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (home / "out").iterdir() if not path.name.startswith(".")} == {
        "ablated.json",
        "ablation.parquet",
        "ablation_by_class.parquet",
        "ranking.parquet",
        "ablation.html",
        "pieces",
        "per_input",
    }
    table = pl.read_parquet("out/ablation.parquet")
    assert dict(table.schema) == SCHEMAS["ablation"]
    assert table.height == 2 * (4 + 8 + 16)
    assert table["n"].unique().to_list() == [120]
    # the same by hand: images as they were written, and a hook
    pixels, labels = digits("test", 120)
    model, targets = last_model(), torch.from_numpy(labels)
    losses = []
    for neuron in (None, 5):
        handle = model.layer2[0].register_forward_hook(lambda _m, _i, out, n=neuron: zeroed(out, n))
        losses.append(nn.functional.cross_entropy(model(as_inputs(pixels)).double(), targets, reduction="none"))
        handle.remove()
    row = table.row(
        by_predicate=(pl.col("layer") == "layer2.0") & (pl.col("neuron") == 5) & (pl.col("value") == "zero")
    )
    assert row[table.columns.index("loss_delta")] == pytest.approx((losses[1] - losses[0]).mean().item(), abs=1e-6)
    assert np.load("out/per_input/resample/layer3.0.npy").shape == (16, 120)
    page = Path("out/ablation.html").read_text()
    assert "replaced by its map from another image" in page
    assert "of the same images" in page
    assert "model.py:make (zero): top-1" in done.stdout
    assert "report: out/ablation.html" in done.stdout


def zeroed(output: torch.Tensor, neuron: int | None) -> torch.Tensor:
    output = output.clone()
    if neuron is not None:
        output[:, neuron] = 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_what_is_there_is_not_done_again_and_more_is_added(ablate, home: Path):
    first = ablate(*OWN, *ALONE, "--out", "out")
    before = {path: path.stat().st_mtime_ns for path in (home / "out").rglob("*")}
    again = ablate(*OWN, "--out", "out", "--workers", "2", "--memory", "100 MB")
    assert again.returncode == 0, again.stderr
    assert "nothing to do: everything that was asked for is there already" in again.stdout
    assert again.stdout.endswith(first.stdout)
    assert {path: path.stat().st_mtime_ns for path in (home / "out").rglob("*")} == before
    pieces = {path: path.stat().st_mtime_ns for path in (home / "out/pieces").rglob("*.safetensors")}
    more = ablate(*OWN, *ALONE, "--out", "out", "--value", "zero", "mean")
    assert more.returncode == 0, more.stderr
    assert {path: path.stat().st_mtime_ns for path in pieces} == pieces
    table = pl.read_parquet("out/ablation.parquet")
    assert table["value"].unique().sort().to_list() == ["mean", "zero"]
    ablate(*OWN, *ALONE, "--out", "fresh", "--value", "zero", "mean")
    assert contents(home / "out") == contents(home / "fresh")
    (home / "out/ablation.parquet").unlink()
    assert "nothing to do" not in ablate(*OWN, *ALONE, "--out", "out", "--value", "zero", "mean").stdout
    assert contents(home / "out") == contents(home / "fresh")


def test_groups_neurons_and_cumulative(ablate, home: Path):
    rows = [("layer1.0", 0, "low"), ("layer2.0", 3, "low"), ("layer3.0", 4, "high")]
    table = pl.DataFrame(rows, schema=["layer", "neuron", "group"], orient="row")
    table.write_csv("groups.csv")
    table.drop("group").head(1).write_parquet("neurons.parquet")
    some = ("--groups", "groups.csv", "--neurons", "neurons.parquet", "--layers", "layer*")
    done = ablate(*OWN, *ALONE, "--out", "out", "--cumulative", *some)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet("out/ablation.parquet").select("layer", "neuron").rows() == [("layer1.0", 0)]
    assert pl.read_parquet("out/groups.parquet").select("group", "neurons").rows() == [("low", 2), ("high", 1)]
    cumulative = pl.read_parquet("out/cumulative.parquet")
    assert dict(cumulative.schema) == SCHEMAS["cumulative"]
    assert cumulative["scope"].unique().sort().to_list() == ["all", "layer1", "layer2", "layer3"]
    assert pl.read_parquet("out/cumulative_areas.parquet").height == 4 * (1 + 5 + 5)
    page = Path("out/ablation.html").read_text()
    assert "Neurons ablated together" in page
    assert "Areas under the curves of growing sets" in page
    wide = pl.read_csv("groups.csv").with_columns(group=pl.lit("all"))
    wide.write_csv("groups.csv")  # the same file, with something else in it
    ablate(*OWN, *ALONE, "--out", "out", "--cumulative", *some)
    assert pl.read_parquet("out/groups.parquet").select("group", "neurons").rows() == [("all", 3)]


def test_a_measurement_and_an_ablation_share_a_folder(ablate, called):
    measure = ("measure", *OWN, "--device", "cpu", "--permutations", "0", "--threads", "1", "--out", "out")
    measured = called(*measure)
    done = ablate(*OWN, *ALONE, "--out", "out")
    again = called(*measure)
    assert [measured.returncode, done.returncode, again.returncode] == [0, 0, 0], done.stderr + again.stderr
    both = pl.read_parquet("out/selectivity.parquet").join(
        pl.read_parquet("out/ranking.parquet"), on=["layer", "neuron"]
    )
    assert both["csi"].to_numpy() == pytest.approx(both["csi_right"].to_numpy(), abs=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_python_the_same(ablate, home: Path):
    ablate(*OWN, *ALONE, "--out", "out", "--training-data", "folder:train")
    pixels, labels = digits("test", 120)
    result = vestige.ablate(last_model(), (as_inputs(pixels), labels), batch_norm="stored")
    stored = ablate(*OWN, *ALONE, "--out", "stored")
    assert stored.returncode == 0, stored.stderr
    table = pl.read_parquet("stored/ablation.parquet").sort("layer", "neuron")
    assert_frame_equal(table.select(result.table.columns), result.table.sort("layer", "neuron"), abs_tol=1e-6)
    recalibrated = pl.read_parquet("out/ablation.parquet").sort("layer", "neuron")
    assert not np.allclose(recalibrated["loss_delta"].to_numpy(), table["loss_delta"].to_numpy(), atol=1e-4)


def test_a_model_that_knows_nothing_is_said(ablate, home: Path):
    untrained = ablate(*OWN, *ALONE, "--out", "out", "--weights", "ck/ckpt_0.pth", "--layers", "layer3.0")
    assert "not better than chance (10.00% with 10 classes" in untrained.stderr
    trained = ablate(*OWN, *ALONE, "--out", "trained", "--layers", "layer3.0")
    assert "chance" not in trained.stderr


def test_a_screen_says_what_it_is_worth(ablate, home: Path):
    done = ablate(*OWN, *ALONE, "--out", "out", "--mode", "screen")
    assert done.returncode == 0, done.stderr
    assert "Their rank correlation with exact ablation" in done.stderr
    assert "Their rank correlation with exact ablation" in Path("out/ablation.html").read_text()
    assert set(pl.read_parquet("out/ablation.parquet")["mode"]) == {"screen"}


VALUES = ("--value", "zero", "mean", "resample")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="waits for a system with /proc")
def test_killed_at_three_moments_the_tables_are_those_of_an_undisturbed_run(ablate, home: Path):
    undisturbed = ablate(*OWN, *ALONE, *VALUES, "--out", "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    out, environment = home / "out", {**os.environ, "COLUMNS": "200"}
    pieces = lambda: len(list((out / "pieces").rglob("*.safetensors")))  # noqa: E731
    for moment, memory in ((1, "1 KB"), (4, "10MB"), (8, "1GiB")):
        command = [sys.executable, "-m", "vestige", "ablate", *OWN, *VALUES, "--device", "cpu", "--out", "out"]
        parent = subprocess.Popen(
            [*command, "--workers", "2", "--memory", memory], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert wait_for(lambda moment=moment, parent=parent: pieces() >= moment or parent.poll() is not None, 120)
        below = children(parent.pid)
        assert parent.poll() is None, parent.stderr.read() if parent.stderr else ""
        assert len(below) >= 1
        os.kill(parent.pid, signal.SIGKILL)
        parent.communicate()
        assert wait_for(lambda below=below: not any(alive(pid) for pid in below), 20)
        there = pieces()
        time.sleep(0.3)
        assert pieces() == there
    again = ablate(*OWN, *VALUES, "--device", "cpu", "--out", "out", "--workers", "3", "--memory", "3MB")
    assert again.returncode == 0, again.stderr
    assert contents(out) == contents(home / "undisturbed")
    assert len(contents(out)) == 3
    assert not list(out.rglob("*.tmp"))


BAD = {
    "value": (
        ("--value", "nought"),
        "reading --value: unknown value 'nought'. Choose one of 'zero', 'mean', 'resample'.",
    ),
    "mode": (("--mode", "exactly"), "reading --mode: unknown value 'exactly'. Did you mean 'exact'?"),
    "memory": (
        ("--memory", "1 banana"),
        "reading the memory limit: '1 banana' is no amount of memory. Write bytes, '4GiB' or '500MB'.",
    ),
    "workers": (("--workers", "0"), "reading --workers: 0 is less than 1. Give a whole number from 1."),
    "no groups": (
        ("--groups", "none.csv"),
        "reading --groups none.csv: there is no such file. Give a Parquet or CSV table.",
    ),
    "groups": (
        ("--groups", "bad.csv"),
        "reading the groups of neurons: the table has no column 'group', but layer and neuron. "
        "Give a table with the columns layer, neuron and group.",
    ),
    "neurons": (
        ("--neurons", "bad.csv"),
        "choosing neurons to ablate: layer 'layer1.0' has no neuron 77. Its neurons are 0 to 3.",
    ),
    "layer": (("--layers", "layer9*"), "layer9*"),
    "both": (("--checkpoints", "ck"), "reading the command line: both --weights and --checkpoints. Give one file as"),
    "option": (("--permutations", "3"), "reading the command line: unknown option --permutations."),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_said(ablate, home: Path, name: str):
    (home / "bad.csv").write_text("layer,neuron\nlayer1.0,77\n")
    options, message = BAD[name]
    done = ablate(*OWN, *ALONE, "--out", "out", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_and_data_must_be_named(ablate):
    assert "no --model. Give a model" in ablate("--data", "digits").stderr
    assert "no --data. Give images" in ablate("--model", "resnet8").stderr


def test_a_folder_of_another_model_is_refused(ablate, home: Path):
    assert ablate(*OWN, *ALONE, "--out", "out").returncode == 0
    done = ablate(*OWN, *ALONE, "--out", "out", "--weights", "ck/ckpt_5.pth")
    assert done.returncode == 2
    assert "error: ablating into out: what it holds was made by other settings: weights is " in done.stderr
    (home / "mine").mkdir()
    (home / "mine/thesis.tex").write_text("")
    done = ablate(*OWN, *ALONE, "--out", "mine")
    assert "error: ablating into mine: it holds other things: thesis.tex. Give another --out." in done.stderr


def test_help_names_the_options_quickly(vestige):
    done = vestige("ablate", "--help")
    assert done.returncode == 0
    options = "--model --checkpoints --value --mode --precision --memory --workers --groups --cumulative"
    for option in options.split():
        assert option in done.stdout
    code = "import sys, vestige.cli; sys.exit(bool({'torch', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PAGE = Path(__file__).parents[1] / "docs/how-to/ablate-your-model.md"
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL) if PAGE.exists() else []
COMMANDS = [" ".join(block.replace("\\\n", " ").split()) for kind, block in BLOCKS if kind == "bash"]


def prepare_how_to(home: Path) -> None:
    """The files that the page speaks of."""
    (home / "my_model.py").write_text(MODEL)
    shutil.copytree(home / "images", home / "val")
    safetensors.torch.save_file(last_model().state_dict(), home / "weights.safetensors")
    (home / "checkpoints").symlink_to(home / "ck")
    rows = [("layer1.0", 0, "a"), ("layer2.0", 3, "a"), ("layer3.0", 4, "b")]
    pl.DataFrame(rows, schema=["layer", "neuron", "group"], orient="row").write_csv("groups.csv")


def test_the_how_to_has_commands():
    assert len(COMMANDS) >= 4
    assert all(command.startswith("vestige ablate --model") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_how_to_do_what_they_say(ablate, home: Path, command: str):
    prepare_how_to(home)
    done = ablate(*shlex.split(command.removeprefix("vestige ablate ")), *ALONE, "--limit", "40")
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_python_of_the_how_to_runs(home: Path):
    prepare_how_to(home)
    pixels, labels = digits("test", 40)
    names = {"model": last_model(), "inputs": as_inputs(pixels), "labels": torch.from_numpy(labels)}
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert len(blocks) >= 2
    for block in blocks:
        exec(block, names)
