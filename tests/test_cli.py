"""The command line as a user meets it: answers, and one clear message for everything that cannot be."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vestige.cli import split_settings


def test_help_names_every_command(vestige):
    done = vestige("--help")
    assert done.returncode == 0
    for command in ("run", "train", "measure", "claims", "report", "status", "studies"):
        assert f"• {command}" in done.stdout


def test_studies_lists_what_ships_and_says_when_it_knows_no_cost(vestige):
    done = vestige("studies")
    assert done.returncode == 0
    for name in ("digits", "cifar10-resnet20", "tiny-imagenet-resnet18", "imagenet-resnet50"):
        assert name in done.stdout
    assert done.stdout.count("not calibrated") == 4


def test_settings_are_told_from_options():
    plain, settings = split_settings(
        [
            "run",
            "digits",
            "--recipe.epochs",
            "10",
            "--seeds",
            "0",
            "1",
            "--only",
            "a",
            "b",
            "--data.limit=5",
            "--debug",
        ]
    )
    assert plain == ["run", "digits", "--only", "a", "b", "--debug"]
    assert settings == [("recipe.epochs", 10), ("seeds", [0, 1]), ("data.limit", 5)]


def image_folder(root: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(np.full((8, 8, 3), 40 * k, np.uint8)).save(root / name / f"{k}.png")
    return root


def folder_data(root: Path) -> list[str]:
    return ["--data.channels", "3", f"--data.train=folder:{root}", f"--data.test=folder:{root}"]


def not_an_image(tmp_path: Path) -> list[str]:
    root = image_folder(tmp_path / "broken", {"a": 3, "b": 3})
    (root / "a" / "1.png").write_text("no image")
    return folder_data(root)


def empty_class(tmp_path: Path) -> list[str]:
    root = image_folder(tmp_path / "empty", {"a": 3, "b": 3})
    (root / "c").mkdir()
    return folder_data(root)


def labels_outside(tmp_path: Path) -> list[str]:
    train = image_folder(tmp_path / "two", {"a": 3, "b": 3})
    test = image_folder(tmp_path / "three", {"a": 3, "b": 3, "c": 3})
    return ["--data.channels", "3", f"--data.train=folder:{train}", f"--data.test=folder:{test}"]


def unwritable(tmp_path: Path) -> list[str]:
    (tmp_path / "file").write_text("")
    return ["--out", "file/below"]


BAD: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "misspelt field": (
        lambda _: ["--recpie.epochs", "3"],
        ["unknown field 'recpie'", "Did you mean 'recipe'?"],
    ),
    "negative epochs": (lambda _: ["--recipe.epochs", "-3"], ["recipe.epochs is -3", "greater than 0"]),
    "window ends before it starts": (
        lambda _: ["--conditions.late.interventions.0.window.stop", "3"],
        ["the window ends at 3 steps, not after its start at 12"],
    ),
    "window after the last step": (
        lambda _: ["--conditions.late.interventions.0.window.stop", "99"],
        ["99", "25"],
    ),
    "no such data": (lambda _: ["--data.train", "parquet:nowhere.parquet"], ["nowhere.parquet", "data"]),
    "not an image": (not_an_image, ["broken/a/1.png"]),
    "class without image": (empty_class, ["empty/c"]),
    "labels outside the classes": (labels_outside, ["three", "2 classes"]),
    "unknown model": (lambda _: ["--model.name", "resnet21"], ["resnet21", "resnet20"]),
    "unknown torchvision model": (
        lambda _: ["--model.name", "torchvision:resnet81"],
        ["resnet81", "resnet18"],
    ),
    "unwritable folder": (unwritable, ["file", "Give a folder that can be written (--out)"]),
    "unknown condition": (lambda _: ["--only", "erly"], ["no condition 'erly'", "Did you mean 'early'?"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_message(vestige, tiny: Path, tmp_path: Path, case: str):
    arguments, words = BAD[case]
    done = vestige("run", str(tiny), *arguments(tmp_path))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    for word in words:
        assert word in done.stderr, done.stderr
    assert not (tmp_path / "studies").exists()


def test_an_unknown_study_is_refused_with_the_nearest_name(vestige):
    done = vestige("run", "digist")
    assert done.returncode == 2
    assert "opening the study 'digist'" in done.stderr
    assert "Did you mean 'digits'?" in done.stderr


def test_only_debug_shows_a_traceback(vestige):
    assert "Traceback" in vestige("run", "digist", "--debug").stderr


@pytest.fixture
def begun(one_run: Path, tmp_path: Path) -> Path:
    """A study with one trained run."""
    return shutil.copytree(one_run, tmp_path / "begun")


def test_other_settings_are_refused_naming_what_differs(vestige, tiny: Path, begun: Path):
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    done = vestige("run", str(tiny), "--out", "begun", "--seeds", "0", "--recipe.lr", "0.2")
    assert done.returncode == 2
    assert "recipe.lr is 0.2, was 0.05" in done.stderr
    assert f"vestige run {begun}" in done.stderr
    assert "--out FOLDER" in done.stderr
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before


def test_other_settings_are_refused_for_conditions_and_seeds_not_begun_too(vestige, begun: Path):
    before = (begun / "study.yaml").read_bytes()
    done = vestige("train", "begun", "--only", "early", "--seeds", "1", "--recipe.lr", "0.2")
    assert done.returncode == 2
    assert "its run baseline/seed-0 was made by other settings: recipe.lr is 0.2, was 0.05" in done.stderr
    assert (begun / "study.yaml").read_bytes() == before


def test_a_device_that_is_not_there_is_refused_once(vestige, tiny: Path, tmp_path: Path):
    done = vestige("train", str(tiny), "--compute.device", "cuda:31")
    assert done.returncode == 2
    assert "choosing the device 'cuda:31'" in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "studies/tiny/study.yaml").exists()


def test_an_intervention_without_effect_is_refused_before_anything_changes(vestige, begun: Path):
    before = (begun / "study.yaml").read_bytes()
    for setting, words in {
        "--conditions.early.interventions.0.alpha=0": "alpha is 0, so it changes nothing",
        "--conditions.early.interventions.0.stages=[layer9]": "layer9",
    }.items():
        done = vestige("train", "begun", "--seeds", "1", setting)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert done.stderr.count("error:") == 1
        assert (begun / "study.yaml").read_bytes() == before


def test_a_lost_history_is_made_again_and_a_damaged_table_is_named(vestige, finished: Path, tmp_path: Path):
    study = shutil.copytree(finished, tmp_path / "study")
    history = study / "runs/baseline/seed-0/history.parquet"
    whole = history.read_bytes()
    history.unlink()
    assert vestige("run", "study").returncode == 0
    assert history.read_bytes() == whole
    table = sorted(study.glob("runs/baseline/seed-1/selectivity-corrected-test/*.parquet"))[1]
    table.write_bytes(bytes(len(table.read_bytes())))
    (study / "claims.json").unlink()
    done = vestige("run", "study")
    assert done.returncode == 2
    assert f"reading {table}: it is damaged" in done.stderr
    assert vestige("run", "study", "--verify").returncode == 0
    assert table.read_bytes() == (finished / table.relative_to(study)).read_bytes()


def test_measuring_nothing_trained_is_refused(vestige, tiny: Path, tmp_path: Path):
    for command in ("measure", "claims", "report"):
        done = vestige(command, str(tiny))
        assert done.returncode == 2
        assert "no run of it is trained. Train first: `vestige train`" in done.stderr
    assert not (tmp_path / "studies").exists()


def test_a_full_disk_is_said(vestige, begun: Path, monkeypatch: pytest.MonkeyPatch):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))"
    (begun.parent / "sitecustomize.py").write_text(limit)  # a disk with room for small files alone
    monkeypatch.setenv("PYTHONPATH", str(begun.parent))
    done = vestige("train", "begun", "--only", "baseline", "--seeds", "1")
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "with room on its disk; nothing that was there is lost" in done.stderr
    assert not list(begun.rglob("*.tmp"))


def test_a_truncated_checkpoint_is_named_and_everything_else_goes_on(vestige, begun: Path):
    weights = sorted(begun.glob("runs/baseline/seed-0/checkpoints/*.safetensors"))[2]
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    done = vestige("run", "begun", "--only", "baseline", "--seeds", "0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"reading {weights}: it is damaged" in done.stderr
    assert "Delete this file and run again" in done.stderr
    weights.unlink()
    done = vestige("run", "begun", "--only", "baseline", "--seeds", "0")
    assert done.returncode == 0, done.stderr
    assert weights.read_bytes() == whole


def test_more_seeds_keep_what_is_there(vestige, begun: Path):
    first = begun / "runs/baseline/seed-0/manifest.json"
    before = first.stat().st_mtime_ns
    done = vestige("train", "begun", "--only", "baseline", "--seeds", "0", "3")
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == before
    assert (begun / "runs/baseline/seed-3/history.parquet").exists()


def test_status_counts_what_is_done_and_what_it_costs(vestige, tiny: Path, begun: Path, tmp_path: Path):
    said = vestige("status", "begun").stdout
    assert "training runs: 1 done, 0 running, 2 missing, 0 stale" in said
    assert "left to do: not calibrated" in said
    assert vestige("run", "begun").returncode == 0
    said = vestige("status", "begun").stdout
    assert "training runs: 3 done, 0 running, 0 missing, 0 stale" in said
    assert "left to do: nothing" in said
    assert vestige("claims", "begun", "--claims.accuracy_effect", "0.05").returncode == 0
    assert "left to do: report\n" in vestige("status", "begun").stdout
    assert vestige("report", "begun").returncode == 0
    assert "left to do: nothing" in vestige("status", "begun").stdout
    shutil.rmtree(begun / "runs/late")
    said = vestige("status", "begun").stdout
    assert "1 missing" in said
    assert "left to do: about" in said


def test_a_study_from_python_reads_like_the_command(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import vestige

    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    study = vestige.Study.load(tiny, out=tmp_path / "out", overrides=[("seeds", [0])])
    outcome = study.run(only=["baseline"])
    assert not outcome.errors
    assert outcome.claims is not None
    assert {claim["verdict"] for claim in outcome.claims["claims"]} <= {"fewer than 3 seeds", "not measured"}
    tables = sorted((tmp_path / "out/runs/baseline/seed-0/ablation-zero-test").glob("*.parquet"))
    assert pl.read_parquet(tables[0])["neuron"].len() == 8 + 16 + 32


SCRIPT = """
import vestige
outcome = vestige.Study.load("tiny.yaml", out="out", overrides=[("seeds", [0])]).run(parts=["train"], only=["baseline"])
print("errors", len(outcome.errors))
"""


def test_a_plain_script_needs_no_main_guard(tiny: Path, tmp_path: Path, environment: dict[str, str]):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "errors 0\n"), done.stderr
    assert (tmp_path / "out/runs/baseline/seed-0/history.parquet").exists()
