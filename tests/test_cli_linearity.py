"""`vestige linearity --model ...` as a user meets it: a table, a page, and one clear message for what cannot be."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from torch import nn

import vestige
from foreign_models import MODEL, PREPARED, STEPS, as_inputs, digits, last_model
from processes import stopped_after
from vestige.foreign import linearising
from vestige.foreign.request import LinearityRequest
from vestige.measurement import comparing
from vestige.runs.tables import SCHEMAS
from vestige.study.plan import FORMULA_VERSIONS

torch.set_num_threads(1)
IMAGES = (120, 60)
QUICK = ("--threads", "1", "--device", "cpu", "--pairs", "30", "--cka-images", "40", "--batch-size", "40")
OWN = ("--model", "model.py:make", *PREPARED, *QUICK)
LAST = ("--weights", "ck/ckpt_30.pth", "--data", "folder:images")
CHECKPOINTS = ("--checkpoints", "ck", "--data", "folder:images")


@pytest.fixture(name="linearity")
def _linearity(called):
    """Run `vestige linearity` in `home`."""
    return partial(called, "linearity")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_stranger_s_model_as_from_python(linearity, home: Path):
    done = linearity(*OWN, *LAST, "--out", "out")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (home / "out").iterdir() if not path.name.startswith(".")}
    assert written == {"linearity.json", "linearity.parquet", "linearity.html"}
    table = pl.read_parquet("out/linearity.parquet")
    assert dict(table.schema) == SCHEMAS["linearity"]
    assert table["n"].unique().to_list() == [120]
    pixels, labels = digits("test", 120)
    order = labels.argsort(kind="stable")  # as a folder has them: by class
    given = (as_inputs(pixels[order]), torch.from_numpy(labels[order]))
    result = vestige.linearity(last_model(), given, pairs=30, cka_images=40, batch_size=40)
    assert table.select("measure", "layer", "other").equals(result.table.select("measure", "layer", "other"))
    for column in ("value", "anchor"):
        np.testing.assert_allclose(table[column], result.table[column], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        logits = last_model()(given[0])
    top1 = (logits.argmax(1) == given[1]).float().mean().item()
    found = json.loads((home / "out/linearity.json").read_text())["checkpoints"][0]["results"][0]
    assert found["top1"] == pytest.approx(top1)
    assert found["loss"] == pytest.approx(nn.functional.cross_entropy(logits, given[1]).item(), rel=1e-5)
    midpoint = table.filter(measure="midpoint", layer="logits")["value"].item()
    assert (
        f"top-1 {top1:.2%}, loss {found['loss']:.3f} on 120 images, midpoint nonlinearity of the logits " in done.stdout
    )
    assert f"logits {midpoint:.3f}" in done.stdout
    assert "report: out/linearity.html" in done.stdout
    assert "note: Batch-norm statistics are the stored ones" in done.stderr
    assert (
        "note: 3 layers measured (ReLU after a residual addition; of residual blocks only the outputs, others where "
        "--layers names them).\n" in done.stderr
    )


def test_what_is_there_is_not_done_again(linearity, home: Path):
    first = linearity(*OWN, *LAST, "--out", "out")
    before = {path: path.stat().st_mtime_ns for path in (home / "out").rglob("*")}
    again = linearity(*OWN, *LAST, "--out", "out", "--verify")
    assert again.returncode == 0, again.stderr
    assert again.stdout == f"nothing to do: everything that was asked for is there already\n{first.stdout}"
    assert {path: path.stat().st_mtime_ns for path in (home / "out").rglob("*")} == before
    table = home / "out/linearity.parquet"
    content = table.read_bytes()
    table.write_bytes(bytes(len(content)))
    assert "nothing to do" not in linearity(*OWN, *LAST, "--out", "out", "--verify").stdout
    assert table.read_bytes() == content
    for changed, words in (
        (("--weights", "ck/ckpt_5.pth", "--data", "folder:images"), "weights is"),
        ((*LAST, "--pairs", "7"), "pairs is 7, was 30"),
        ((*LAST, "--top-k", "2"), "top_k is [2], was [1, 2, 3]"),
    ):
        done = linearity(*OWN, *changed, "--out", "out")
        assert done.returncode == 2
        assert f"measuring linearity into out: what it holds was made by other settings: {words}" in done.stderr
        assert table.read_bytes() == content


def test_a_formula_that_has_changed_makes_the_table_again(linearity, home: Path, monkeypatch: pytest.MonkeyPatch):
    assert linearity(*OWN, *LAST, "--out", "out").returncode == 0
    assert linearity(*OWN, *LAST, "--out", "out").stdout.startswith("nothing to do")
    monkeypatch.setitem(FORMULA_VERSIONS, "selectivity", 1000)  # of other tables
    assert linearity(*OWN, *LAST, "--out", "out").stdout.startswith("nothing to do")
    monkeypatch.setitem(FORMULA_VERSIONS, "linearity", 1000)
    done = linearity(*OWN, *LAST, "--out", "out")
    assert (done.returncode, "nothing to do" in done.stdout) == (0, False), done.stderr


def test_a_folder_of_checkpoints_killed_and_run_again(linearity, home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "ck/ckpt_7.pth").write_text("no weights")
    whole = linearity(*OWN, *CHECKPOINTS, "--out", "whole")
    assert whole.returncode == 2
    assert whole.stderr.count("error:") == 1
    assert "error: reading weights ck/ckpt_7.pth: it is damaged" in whole.stderr
    assert "note: last.safetensors holds the same weights as ckpt_30.pth: measured once." in whole.stderr
    assert [line.split(":")[0] for line in whole.stdout.splitlines()[:-1]] == [
        f"ckpt_{s}.pth (step {s})" for s in STEPS
    ]
    table = pl.read_parquet("whole/linearity.parquet")
    assert table["step"].unique(maintain_order=True).to_list() == list(STEPS)
    parts = [pl.read_parquet(f"whole/checkpoints/step-{step:08d}/linearity.parquet") for step in STEPS]
    assert pl.concat(parts).equals(table)
    with monkeypatch.context() as patched:
        patched.setattr(linearising, "linearity", stopped_after(2, linearising.linearity))
        assert linearity(*OWN, *CHECKPOINTS, "--out", "again").returncode == 130
    times = {path: path.stat().st_mtime_ns for path in (home / "again").rglob("*.parquet")}
    assert len(times) == 2
    (home / "ck/ckpt_7.pth").unlink()
    done = linearity(*OWN, *CHECKPOINTS, "--out", "again")
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert (home / "again/linearity.parquet").read_bytes() == (home / "whole/linearity.parquet").read_bytes()
    page = (home / "again/linearity.html").read_text()
    assert "Through the checkpoints" in page
    (home / "ck/ckpt_7.pth").write_text("no weights")
    (home / "ck/more.pth").write_bytes((home / "ck/ckpt_5.pth").read_bytes())
    more = linearity(*OWN, *CHECKPOINTS, "--out", "again")
    assert more.returncode == 2
    assert more.stderr.count("error:") == 1
    assert "nothing to do" not in more.stdout
    assert "note: more.pth holds the same weights as ckpt_5.pth: measured once." in more.stderr
    (home / "ck/ckpt_7.pth").unlink()
    assert linearity(*OWN, *CHECKPOINTS, "--out", "again").stdout.startswith("nothing to do: ")
    one = linearity(*OWN, *LAST, "--out", "one")
    assert one.returncode == 0
    alone = pl.read_parquet("one/linearity.parquet")
    assert alone["value"].equals(parts[-1]["value"])


def test_training_images_that_are_those_measured_are_said(linearity, home: Path, monkeypatch: pytest.MonkeyPatch):
    """Of every set of weights, by a command that goes on from a linear model that is kept too."""
    n, command = len(list((home / "images").rglob("*.*"))), (*OWN, *CHECKPOINTS, "--training-data", "folder:images")
    with monkeypatch.context() as patched:
        patched.setattr(linearising, "linearity", stopped_after(1, linearising.linearity))
        assert linearity(*command, "--out", "same").returncode == 130
    done = linearity(*command, "--out", "same")
    assert done.returncode == 0, done.stderr
    said = f"Of the {n} images measured {n} are among those that the linear model"
    assert said in done.stderr
    record = json.loads((home / "same/linearity.json").read_text())
    notes = [one["results"][0]["notes"] for one in record["checkpoints"]]
    assert len(notes) == len(STEPS)
    assert all(sum(note.startswith(said) for note in of_file) == 1 for of_file in notes)


def test_training_images_make_the_linear_model(linearity, home: Path):
    done = linearity(*OWN, *CHECKPOINTS, "--training-data", "folder:train", "--out", "o")
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet("o/linearity.parquet").filter(layer="logits")
    accuracy = table.filter(measure="kalimeris-linear-top1")["value"].unique()
    assert accuracy.len() == 1, "one linear model for all checkpoints"
    assert accuracy.item() > 0.5
    last = table.filter(measure="kalimeris", step=30)["value"].item()
    assert f"explained by a linear model {last:.3f}" in done.stdout.splitlines()[-2]
    assert "left out" not in done.stderr
    assert "are among those that the linear model" not in done.stderr
    assert "Explained by a linear model" in (home / "o/linearity.html").read_text()
    record = json.loads((home / "o/linearity.json").read_text())
    assert record["checkpoints"][0]["results"][0]["batch_norm"].startswith("recomputed from up to 2,048 images of")


def test_the_linear_model_is_kept(linearity, home: Path, monkeypatch: pytest.MonkeyPatch):
    fits = []
    fit = comparing.fit_pixels
    monkeypatch.setattr(comparing, "fit_pixels", lambda tiles: (fits.append(1), fit(tiles))[1])
    training = ("--training-data", "folder:train")
    whole = linearity(*OWN, *CHECKPOINTS, *training, "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    assert whole.stderr.count("fitting the linear model of the pixels of folder:train\n") == len(fits) == 1
    with monkeypatch.context() as patched:
        patched.setattr(linearising, "linearity", stopped_after(2, linearising.linearity))
        assert linearity(*OWN, *CHECKPOINTS, *training, "--out", "again").returncode == 130
    assert len(fits) == 2
    again = linearity(*OWN, *CHECKPOINTS, *training, "--out", "again")
    assert again.returncode == 0, again.stderr
    assert len(fits) == 2
    assert "fitting" not in again.stderr
    assert (home / "again/linearity.parquet").read_bytes() == (home / "whole/linearity.parquet").read_bytes()
    notes = [[line for line in done.stderr.splitlines() if line.startswith("note:")] for done in (whole, again)]
    assert notes[0] == notes[1]


def test_a_linear_model_of_other_images_is_not_taken(linearity, home: Path):
    """All but the linear model is deleted each time."""

    def fitted(*more):
        done = linearity(*OWN, *CHECKPOINTS, "--training-data", "folder:train", *more, "--out", "o")
        assert done.returncode == 0, done.stderr
        for path in (home / "o").iterdir():
            if path.name != "pieces":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return "fitting" in done.stderr, "are among those that the linear model" in done.stderr

    assert fitted() == (True, False)
    assert fitted() == (False, False)
    assert fitted("--data", "folder:train") == (True, True)  # what is said of it is of what is measured too
    assert fitted("--data", "folder:train") == (False, True)
    next((home / "train/digit 3").iterdir()).unlink()
    assert fitted() == (True, False)


def test_one_set_of_weights_leaves_no_linear_model(linearity, home: Path):
    assert linearity(*OWN, *LAST, "--training-data", "folder:train", "--out", "o").returncode == 0
    assert not (home / "o/pieces").exists()


def test_one_that_diverged_does_not_stop_the_others(linearity, home: Path):
    content = torch.load("ck/ckpt_10.pth")
    content["state_dict"]["module.fc.bias"] += torch.nan
    torch.save(content, "ck/ckpt_10.pth")
    done = linearity(*OWN, *CHECKPOINTS, "--out", "o")
    assert done.returncode == 2
    assert "error: measuring linearity of ck/ckpt_10.pth: measuring linearity: its output gives values" in done.stderr
    assert "failed: ckpt_10.pth; the others go on" in done.stderr
    assert pl.read_parquet("o/linearity.parquet")["step"].unique(maintain_order=True).to_list() == [0, 5, 30]


def test_a_folder_holds_other_records_beside_it(linearity, called, home: Path):
    measured = called("measure", *OWN[:-6], *LAST, "--permutations", "0", "--out", "out")
    done = linearity(*OWN, *LAST, "--out", "out")
    again = called("measure", *OWN[:-6], *LAST, "--permutations", "0", "--out", "out")
    assert [measured.returncode, done.returncode, again.returncode] == [0, 0, 0], measured.stderr + done.stderr
    (home / "mine").mkdir()
    (home / "mine/thesis.tex").write_text("")
    done = linearity(*OWN, *LAST, "--out", "mine")
    assert "error: measuring linearity into mine: it holds other things: thesis.tex. Give another --out." in done.stderr


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_resnet"])
def test_models_of_the_libraries_with_fresh_weights(linearity, home: Path, name: str):
    size = ("--preprocess", "cifar10") if name != "timm:test_vit" else ()
    done = linearity("--model", name, "--data", "folder:images", "--limit", "20", *size, *QUICK, "--out", "o")
    assert done.returncode == 0, done.stderr
    anchors = pl.read_parquet("o/linearity.parquet")["anchor"]
    if name == "timm:test_vit":
        assert anchors.is_nan().all()
        assert "note: There is no anchor: the network has no ReLU" in done.stderr
        assert "There is no network without ReLUs to compare with" in (home / "o/linearity.html").read_text()
    else:
        assert anchors.is_finite().any()


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no model": (("--data", "folder:images"), "no --model. Give a model: --model torchvision:NAME"),
    "no data": (OWN, "no --data. Give images: --data folder:PATH"),
    "no such layer": ((*OWN, *LAST, "--layers", "layer9.0"), "layer9.0"),
    "no such weights": (
        (*OWN, "--weights", "ck/ckpt_3.pth", "--data", "folder:images"),
        "reading weights ck/ckpt_3.pth: there is no such file. Did you mean 'ckpt_30.pth'",
    ),
    "a misspelt option": ((*OWN, *LAST, "--pars", "3"), "unknown option --pars. Did you mean 'pairs'"),
    "too few of CKA": ((*OWN, *LAST, "--cka-images", "3"), "reading --cka-images: 3 is less than 4. Give 4 or more"),
    "no pairs": ((*OWN, *LAST, "--pairs", "0"), "reading --pairs: 0 is less than 1"),
    "k of 0": ((*OWN, *LAST, "--top-k", "1", "0"), "reading --top-k: (1, 0). Give whole numbers from 1"),
    "unknown dtype": ((*OWN, *LAST, "--dtype", "float16"), "reading --dtype: unknown value 'float16'"),
    "too few images": ((*OWN, *LAST, "--limit", "3"), "there are 3 images. Give at least 4 images"),
    "a file and a folder of weights": ((*OWN, *LAST, "--checkpoints", "ck"), "both --weights and --checkpoints"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_clear_message(linearity, home: Path, case: str):
    arguments, words = REFUSED[case]
    done = linearity(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert words in done.stderr, done.stderr
    assert not list(home.rglob("linearity.json"))


def test_only_debug_shows_a_traceback(linearity):
    assert "Traceback" in linearity(*OWN, "--debug").stderr


def test_defaults_are_those_of_python():
    defaults = inspect.signature(vestige.linearity).parameters
    request = LinearityRequest()
    for name in ("images", "pairs", "cka_images", "top_k", "batch_norm", "dtype", "batch_size"):
        assert getattr(request, name) == defaults[name].default


def test_help_names_the_options_quickly(vestige):
    done = vestige("linearity", "--help")
    assert done.returncode == 0
    options = "--model --weights --checkpoints --layers --pairs --cka-images --top-k --images --verify"
    for option in options.split():
        assert option in done.stdout
    code = "import sys, vestige.cli; sys.exit(bool({'torch', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PAGE = Path(__file__).parents[1] / "docs/how-to/how-linear-is-your-model.md"
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL) if PAGE.exists() else []
COMMANDS = [" ".join(block.replace("\\\n", " ").split()) for kind, block in BLOCKS if kind == "bash"]


def prepare_how_to(home: Path) -> None:
    """The files that the page speaks of."""
    (home / "my_model.py").write_text(MODEL)
    shutil.copytree(home / "images", home / "val")
    safetensors.torch.save_file(last_model().state_dict(), home / "weights.safetensors")
    (home / "checkpoints").symlink_to(home / "ck")


def test_the_how_to_has_commands():
    assert len(COMMANDS) >= 3
    assert all(command.startswith("vestige linearity --model") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_how_to_do_what_they_say(linearity, home: Path, command: str):
    prepare_how_to(home)
    done = linearity(*shlex.split(command.removeprefix("vestige linearity ")), "--threads", "1", "--limit", "40")
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_python_of_the_how_to_runs(home: Path):
    prepare_how_to(home)
    pixels, labels = digits("test", 40)
    names = {"model": last_model(), "inputs": as_inputs(pixels), "labels": torch.from_numpy(labels)}
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        exec(block, names)
