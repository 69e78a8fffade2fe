"""`vestige measure --model ...` as a user meets it: tables, a page, and one clear message for what cannot be."""

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
import torchvision
from torch import nn

from foreign_models import MODEL, PREPARED, STEPS, as_inputs, digits, last_model
from processes import stopped_after
from vestige import cli
from vestige.foreign import bench as foreign_bench

torch.set_num_threads(1)
IMAGES = (200, 100)
QUICK = ("--permutations", "10", "--threads", "1", "--device", "cpu")
OWN = ("--model", "model.py:make", *PREPARED, *QUICK)


@pytest.fixture
def measure(called):
    """Run `vestige measure` in `home`."""
    return partial(called, "measure")


LAST = ("--weights", "ck/ckpt_30.pth", "--data", "folder:images")
TRAINING_DATA = """
import torch
def smaller(): return torch.zeros(20, 3, 4, 4), torch.arange(20) % 10
def of_twelve(): return torch.zeros(24, 3, 8, 8), torch.arange(24) % 12
def from_one(): return torch.zeros(20, 3, 8, 8), torch.arange(20) % 10 + 1
"""


def test_a_stranger_s_weights_on_a_folder_of_images(measure, home: Path):
    done = measure(*OWN, *LAST, "--out", "out")
    assert done.returncode == 0, done.stderr
    record = json.loads((home / "out/measured.json").read_text())
    table = pl.read_parquet("out/selectivity.parquet")
    means = safetensors.torch.load_file("out/class_means.safetensors")
    assert {path.name for path in (home / "out").iterdir() if not path.name.startswith(".")} == {
        "measured.json",
        "selectivity.parquet",
        "class_means.safetensors",
        "report.html",
    }
    # the same by hand: images as they were written, the model's own forward, means by a loop over classes
    pixels, labels = digits("test", 200)
    model, seen = last_model(), {}
    model.layer3[0].register_forward_hook(lambda _m, _i, out: seen.update(out=out.mean((2, 3)).double()))
    with torch.no_grad():
        logits = model(as_inputs(pixels))
    expected = torch.stack([seen["out"][torch.from_numpy(labels == c)].mean(0) for c in range(10)])
    torch.testing.assert_close(means["corrected/layer3.0"].double(), expected, rtol=1e-5, atol=1e-7)
    assert means["corrected/class_counts"].tolist() == np.bincount(labels).tolist()
    top1 = (logits.argmax(1).numpy() == labels).mean()
    assert top1 > 0.5
    result = record["checkpoints"][0]["results"][0]
    assert result["top1"] == pytest.approx(top1)
    assert result["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item(), rel=1e-5
    )
    assert f"(corrected): top-1 {top1:.2%}, loss" in done.stdout
    assert "report: out/report.html" in done.stdout
    assert table.height == 4 + 8 + 16
    assert table["n"].unique().to_list() == [200]
    assert table["preferred_class"].to_list()[-16:] == expected.argmax(0).tolist()
    assert record["data"]["class_names"] == [f"digit {c}" for c in range(10)]
    assert "Batch-norm statistics are the stored ones: without --training-data they cannot" in done.stderr
    assert "(--batch-norm stored takes them without this warning)" in done.stderr


def test_what_is_measured_is_not_measured_again(measure, home: Path):
    assert measure(*OWN, *LAST, "--out", "out").returncode == 0
    table = home / "out/selectivity.parquet"
    before = table.stat().st_mtime_ns
    done = measure(*OWN, *LAST, "--out", "out", "--verify")
    assert done.returncode == 0
    assert "(corrected): top-1" in done.stdout
    assert table.stat().st_mtime_ns == before
    content = table.read_bytes()
    table.write_bytes(bytes(len(content)))
    assert measure(*OWN, *LAST, "--out", "out", "--verify").returncode == 0
    assert table.read_bytes() == content
    for changed, words in (
        (("--weights", "ck/ckpt_5.pth", "--data", "folder:images"), "weights is"),
        (("--weights", "ck/ckpt_30.pth", "--data", "folder:train"), "data is folder:"),
        ((*LAST, "--limit", "50"), "limit is 50, was not there"),
    ):
        done = measure(*OWN, *changed, "--out", "out")
        assert done.returncode == 2
        assert f"what it holds was made by other settings: {words}" in done.stderr
        assert table.read_bytes() == content


def test_both_protocols_stand_beneath_each_other(measure, home: Path):
    done = measure(*OWN, *LAST, "--training-data", "folder:train", "--protocol", "corrected", "faithful", "--out", "o")
    assert done.returncode == 0, done.stderr
    table = pl.read_parquet("o/selectivity.parquet")
    assert table["protocol"].value_counts(sort=True)["count"].to_list() == [28, 28]
    first, second = json.loads((home / "o/measured.json").read_text())["checkpoints"][0]["results"]
    assert first["batch_norm"] == "recomputed from up to 2,048 images of folder:train, not augmented"
    assert second["batch_norm"] == "the statistics stored with the weights"
    assert first["loss"] != second["loss"]
    assert "Batch-norm statistics are the stored ones" not in done.stderr


CHECKPOINTS = ("--checkpoints", "ck", "--data", "folder:images")


def tables_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "selectivity").iterdir())}


def test_a_folder_of_checkpoints_killed_and_run_again(measure, home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "ck/ckpt_7.pth").write_text("no weights")
    whole = measure(*OWN, *CHECKPOINTS, "--out", "whole")
    assert whole.returncode == 2
    assert whole.stderr.count("error:") == 1
    assert "error: reading weights ck/ckpt_7.pth: it is damaged, or holds more" in whole.stderr
    assert "plain values (Unsupported operand" in whole.stderr
    assert "note: last.safetensors holds the same weights as ckpt_30.pth: measured once." in whole.stderr
    assert [line.split(",")[0] for line in whole.stdout.splitlines()[:-1]] == [f"ckpt_{s}.pth (step {s}" for s in STEPS]
    expected = tables_of(home / "whole")
    assert list(expected) == [f"step-{step:08d}.parquet" for step in STEPS]

    with monkeypatch.context() as patched:
        patched.setattr(foreign_bench, "measure", stopped_after(2, foreign_bench.measure))
        stopped = measure(*OWN, *CHECKPOINTS, "--out", "again")
    assert stopped.returncode == 130
    assert "run the same command again to go on" in stopped.stderr
    half = tables_of(home / "again")
    assert len(half) == 2
    times = {path: path.stat().st_mtime_ns for path in (home / "again/selectivity").iterdir()}
    (home / "ck/ckpt_7.pth").unlink()
    done = measure(*OWN, *CHECKPOINTS, "--out", "again")
    assert done.returncode == 0, done.stderr
    assert tables_of(home / "again") == expected
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert not list((home / "again").rglob("*.tmp"))

    (home / "ck/more.pth").write_bytes((home / "ck/ckpt_5.pth").read_bytes())
    done = measure(*OWN, *CHECKPOINTS, "--out", "again")
    assert "note: more.pth holds the same weights as ckpt_5.pth" in done.stderr
    assert tables_of(home / "again") == expected


def test_step_0_tells_what_untrained_neurons_have(measure, home: Path):
    assert measure(*OWN, *CHECKPOINTS, "--out", "o").returncode == 0
    start, last = (pl.read_parquet(f"o/selectivity/step-{step:08d}.parquet") for step in (0, 30))
    bars = start.group_by("layer").agg(pl.col("csi_cv").quantile(0.95, "linear").alias("bar"))
    chosen = last.join(bars, on="layer").filter("selective")
    assert 0 < chosen.height < last.height
    assert (chosen["csi_cv"] > chosen["bar"]).all()
    assert last["step"].unique().to_list() == [30]
    record = json.loads((home / "o/measured.json").read_text())
    assert record["steps_from"] == "global_step"
    warned = [
        entry["step"] for entry in record["checkpoints"] if any("chance" in n for n in entry["results"][0]["notes"])
    ]
    assert 0 not in warned, "an untrained network is at chance, which is no news"


def test_one_that_diverged_does_not_stop_the_others(measure, home: Path):
    content = torch.load("ck/ckpt_10.pth")
    content["state_dict"]["module.fc.bias"] += torch.nan
    torch.save(content, "ck/ckpt_10.pth")
    done = measure(*OWN, *CHECKPOINTS, "--out", "o")
    assert done.returncode == 2
    assert "error: measuring ck/ckpt_10.pth: " in done.stderr
    assert "failed: ckpt_10.pth; the others go on" in done.stderr
    assert list(tables_of(home / "o")) == [f"step-{step:08d}.parquet" for step in (0, 5, 30)]


def test_more_classes_than_the_data_need_a_map(measure, home: Path):
    places = [11, 3, 5, 0, 1, 2, 7, 8, 9, 10]
    state = last_model().state_dict()
    for name in ("fc.weight", "fc.bias"):
        wide = torch.full((12, *state[name].shape[1:]), -9.0)
        wide[places] = state[name]
        state[name] = wide
    safetensors.torch.save_file(state, "wide.safetensors")
    wide = ("--weights", "wide.safetensors", "--data", "folder:images")
    done = measure(*OWN, *wide)
    assert done.returncode == 2
    assert "the model has 12 classes, the data have 10. Say which is which: --class-map FILE" in done.stderr
    (home / "map.txt").write_text("".join(f"digit {c} {place}\n" for c, place in enumerate(places)))
    plain, mapped = measure(*OWN, *LAST, "--out", "a"), measure(*OWN, *wide, "--class-map", "map.txt", "--out", "b")
    assert mapped.returncode == 0, mapped.stderr
    assert mapped.stdout.split(", ")[0].endswith(plain.stdout.split(", ")[0].split("top-1")[1])
    a, b = pl.read_parquet("a/selectivity.parquet"), pl.read_parquet("b/selectivity.parquet")
    assert [places[c] for c in a["preferred_class"]] == b["preferred_class"].to_list()
    assert json.loads((home / "b/measured.json").read_text())["data"]["class_names"][11] == "digit 0"
    at_chance = measure(*OWN, *wide, "--classes", "12", "--out", "c")
    assert at_chance.returncode == 0
    assert "not better than chance (10.00% with 10 classes" in at_chance.stderr
    assert "chance" not in plain.stderr + mapped.stderr


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the file ran')",))


def test_a_file_of_weights_is_never_run(measure):
    torch.save({"state_dict": Evil()}, "evil.pth")
    done = measure(*OWN, "--weights", "evil.pth", "--data", "folder:images")
    assert done.returncode == 2
    assert "reading weights evil.pth: it is damaged, or holds more than tensors and plain values" in done.stderr
    assert "ran" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown torchvision model": (
        ("--model", "torchvision:resnet81", "--data", "folder:images"),
        "Did you mean 'torchvision:resnet18'",
    ),
    "unknown timm model": (("--model", "timm:resnet81", "--data", "folder:images"), "Did you mean 'timm:resnet"),
    "unknown model": (
        ("--model", "resnet18", "--data", "folder:images", *PREPARED),
        "Did you mean 'torchvision:resnet18'?",
    ),
    "no such object": (("--model", "model.py:mak", "--data", "folder:images", *PREPARED), "Did you mean 'make'?"),
    "no such layer": ((*OWN, *LAST, "--layers", "layer9.0"), "layer9.0"),
    "no such pattern": ((*OWN, *LAST, "--layers", "layer9.*"), "layer9.*"),
    "no such weights": (
        (*OWN, "--weights", "ck/ckpt_3.pth", "--data", "folder:images"),
        "reading weights ck/ckpt_3.pth: there is no such file. Did you mean 'ckpt_30.pth'",
    ),
    "another width": (
        ("--model", "resnet8", *PREPARED, *LAST),
        "they do not fit the ResNet: 46 of another shape (conv1.weight 4x3x3x3 for 16x3x3x3",
    ),
    "no such images": ((*OWN, "--weights", "ck/ckpt_5.pth", "--data", "folder:imges"), "imges does not exist"),
    "no such file of images": (
        (*OWN, "--data", "parquet:nope.parquet"),
        "reading --data 'parquet:nope.parquet': nope.parquet does not exist",
    ),
    "a folder of weights": ((*OWN, "--weights", "ck", "--data", "folder:images"), "Give it as --checkpoints ck, or"),
    "no ending of a file": (("--model", "model:make", "--data", "folder:images"), "of your own file, model.py:make"),
    "unknown kind of data": ((*OWN, "--data", "images"), "Write 'folder:images'"),
    "no data": (OWN, "--model without --data. Give images: --data folder:PATH"),
    "how images are prepared": (
        ("--model", "model.py:make", "--data", "folder:images"),
        "Say how its inputs are prepared: --preprocess imagenet",
    ),
    "a study too": (("digits", *OWN, *LAST), "the study 'digits' and --model. Give one of them"),
    "conditions": ((*OWN, *LAST, "--only", "early"), "--only and --model"),
    "a misspelt option": ((*OWN, *LAST, "--wieghts", "x"), "unknown option --wieghts. Did you mean 'weights'?"),
    "a field of a study": ((*OWN, *LAST, "--recipe.epochs", "3"), "unknown option --recipe.epochs"),
    "no model": (("--data", "folder:images"), "--data without --model. Give --model too"),
    "no model, and a study": (("digits", "--weights", "ck/ckpt_5.pth"), "--weights without --model"),
    "no such device": ((*OWN, *LAST, "--device", "cuda:31"), "choosing the device 'cuda:31'"),
    "no such class map": ((*OWN, *LAST, "--class-map", "map.json"), "reading the class map map.json: No such file"),
    "too few classes": ((*OWN, *LAST, "--classes", "7"), "--classes is 7, and the weights are for 10 classes"),
    "images too small": (
        ("--model", "torchvision:vgg11", "--data", "folder:images", *PREPARED),
        "Check --preprocess (size, channels)",
    ),
    "an empty folder": ((*OWN, "--checkpoints", "train/none", "--data", "folder:images"), "there is no such folder"),
    "a folder in use": (
        (*OWN, *LAST, "--out", "ck"),
        "it holds other things: ckpt_0.pth, ckpt_10.pth, ckpt_30.pth, ...",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_clear_message(measure, home: Path, case: str):
    arguments, words = REFUSED[case]
    done = measure(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert words in done.stderr, done.stderr
    assert not list(home.rglob("measured.json"))


UNFIT = {
    "smaller": "reading --training-data 'other.py:smaller': its inputs have shape (3, 4, 4), those of --data "
    "(3, 8, 8). Give the images that the model was trained on",
    "of_twelve": "comparing the classes of the model and the training data: the model has 10 classes, the training "
    "data have 12. Give the images that the model was trained on.",
    "from_one": "the training data have 11 (labels 1 to 10). If the labels count from 1, subtract 1",
}


@pytest.mark.parametrize("name", UNFIT)
def test_training_data_of_another_kind_are_refused(measure, home: Path, name: str):
    (home / "other.py").write_text(TRAINING_DATA)
    done = measure(*OWN, *LAST, "--training-data", f"other.py:{name}")
    assert done.returncode == 2
    assert UNFIT[name] in done.stderr
    assert not list(home.rglob("measured.json"))


def test_labels_that_count_from_1_are_recognised(measure, home: Path):
    (home / "other.py").write_text(TRAINING_DATA)
    done = measure(*OWN, "--weights", "ck/ckpt_30.pth", "--data", "other.py:from_one")
    assert done.returncode == 2
    assert "the data have 11 (labels 1 to 10). If the labels count from 1, subtract 1" in done.stderr


def test_only_debug_shows_a_traceback(measure):
    assert "Traceback" in measure(*OWN, "--debug").stderr


def test_options_of_other_commands_are_as_they_were():
    plain, settings = cli.split_settings(["run", "digits", "--model", "{name: resnet20}", "--limit", "3"])
    assert plain == ["run", "digits"]
    assert settings == [("model", {"name": "resnet20"}), ("limit", 3)]
    plain, settings = cli.split_settings(["measure", "--model", "resnet8", "--data.limit", "3"])
    assert plain == ["measure", "--model", "resnet8"]
    assert settings == [("data.limit", 3)]


def test_bad_images_are_named_or_left_out(measure, home: Path):
    bad = sorted((home / "images/digit 3").iterdir())[:2]
    for path in bad:
        path.write_text("no image")
    done = measure(*OWN, *LAST, "--out", "o")
    assert done.returncode == 2
    assert "digit 3/" in done.stderr
    done = measure(*OWN, *LAST, "--out", "o", "--on-bad-image", "skip")
    assert done.returncode == 0, done.stderr
    lines = (home / "o/skipped.txt").read_text().splitlines()
    assert [Path(line.split(" is not an image")[0]).name for line in lines] == [path.name for path in bad]
    record = json.loads((home / "o/measured.json").read_text())
    assert (record["checkpoints"][0]["results"][0]["n"], record["data"]["skipped"]) == (198, 2)
    assert pl.read_parquet("o/selectivity.parquet")["n"].unique().to_list() == [198]


DATA = """
import torch
from foreign_models import as_inputs, digits
def batches(train):
    pixels, labels = digits("train" if train else "test", 100)
    inputs = as_inputs(pixels)
    return [(inputs[i : i + 30], torch.from_numpy(labels[i : i + 30])) for i in range(0, 100, 30)]
"""


def test_inputs_that_are_prepared_already(measure, home: Path):
    (home / "data.py").write_text(DATA)
    done = measure("--model", "model.py:make", "--weights", "ck/last.safetensors", "--data", "data.py:batches", *QUICK)
    assert done.returncode == 0, done.stderr
    pixels, labels = digits("test", 100)
    with torch.no_grad():
        top1 = (last_model()(as_inputs(pixels)).argmax(1).numpy() == labels).mean()
    assert f"top-1 {top1:.2%}" in done.stdout
    record = json.loads((home / "measured/model.py-make/measured.json").read_text())
    assert record["data"]["preprocess"] == "as the data give them"
    assert record["data"]["images"] is None


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:test_vit", "timm:test_resnet"])
def test_models_of_the_libraries_with_fresh_weights(measure, home: Path, name: str):
    size = ("--preprocess", "cifar10") if name != "timm:test_vit" else ()
    done = measure("--model", name, "--data", "folder:images", "--limit", "20", *size, *QUICK, "--out", "o")
    assert done.returncode == 0, done.stderr
    assert "the model has fresh random weights (vestige never downloads any)" in done.stderr
    assert "chance" not in done.stderr
    assert pl.read_parquet("o/selectivity.parquet").height > 50


def test_layers_by_name_and_pattern(measure):
    assert measure(*OWN, *LAST, "--layers", "layer1.*", "layer3.0", "--out", "o").returncode == 0
    assert pl.read_parquet("o/selectivity.parquet")["layer"].unique(maintain_order=True).to_list() == [
        "layer1.0",
        "layer3.0",
    ]


def test_two_processes_give_the_table_of_one(measure, home: Path, environment: dict[str, str]):
    arguments = (*OWN, *CHECKPOINTS, "--training-data", "folder:train", "--batch-size", "32")
    assert measure(*arguments, "--out", "one").returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "vestige", "measure", *arguments, "--out", "two"]
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        command, cwd=home, env=environment | path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == 1
    assert done.stdout.count("ckpt_30.pth (step 30, corrected)") == 1
    for name in tables_of(home / "one"):
        one, two = (pl.read_parquet(home / folder / "selectivity" / name) for folder in ("one", "two"))
        assert one.select(pl.col(pl.String, pl.Boolean, pl.Int32)).equals(
            two.select(pl.col(pl.String, pl.Boolean, pl.Int32))
        )
        for column in one.select(pl.col(pl.Float32)).columns:
            np.testing.assert_allclose(one[column].to_numpy(), two[column].to_numpy(), rtol=2e-7, atol=1e-9)


def test_help_of_measure_names_the_options(vestige):
    done = vestige("measure", "--help")
    assert done.returncode == 0
    for option in ("--model", "--weights", "--checkpoints", "--class-map", "--on-bad-image", "STUDY"):
        assert option in done.stdout


PAGE = Path(__file__).parents[1] / "docs/how-to/measure-your-model.md"
COMMANDS = [
    " ".join(block.replace("\\\n", " ").split())
    for block in re.findall(r"```(?:bash|shell)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
]


def test_the_how_to_has_commands():
    assert len(COMMANDS) >= 6
    assert all(command.startswith(("vestige measure --model", "torchrun")) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_how_to_do_what_they_say(measure, home: Path, command: str):
    """With the files that the page speaks of, the network being small and fewer permutations being made."""
    words = shlex.split(command.split("vestige measure ")[1])
    (home / "my_model.py").write_text(MODEL)
    (home / "my_data.py").write_text(DATA)
    shutil.copytree(home / "images", home / "val")
    safetensors.torch.save_file(last_model().state_dict(), home / "weights.safetensors")
    (home / "classes.json").write_text(json.dumps({f"digit {c}": c + 2 for c in range(10)}))
    (home / "checkpoints").symlink_to(home / "ck")
    resnet = torchvision.models.resnet18(num_classes=1000)
    torch.save({"state_dict": resnet.state_dict()}, home / "resnet18.pth")
    done = measure(*words, "--threads", "1", "--limit" if "my_data.py:batches" not in words else "--batch-size", "40")
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
