"""A study small enough to run whole in seconds, and the command line as a user starts it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from vestige import cli

TINY = """
name: tiny
data: {train: digits, test: digits, limit: 200, limit_test: 160, channels: 1, mean: [0.3], std: [0.38]}
model: {name: resnet8, width: 8}
recipe: {epochs: 5, batch_size: 40, lr: 0.05, schedule: constant}
checkpoints: {log_spaced: 2, young_epochs: 1, per_young_epoch: 1, every_epochs: 2}
conditions:
  baseline: {}
  early: {interventions: [{kind: selectivity, window: {start: 0, stop: 5}}]}
  late: {interventions: [{kind: selectivity, window: {start: 12, stop: 17}}]}
seeds: [0, 1]
measurements:
  batch_norm: {images: 80}
  tile: 80
  selectivity: {permutations: 10}
  cumulative: {fractions: 5, draws: 2}
  linearity: {pairs: 40, cka_images: 40}
claims: {early_window: 5}
compute: {workers: 2}
"""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a test draws must not depend on which tests its process ran before."""
    torch.manual_seed(0)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return surroundings(tmp_path)


@pytest.fixture
def vestige(tmp_path: Path):
    """Run the command line in `tmp_path`; return what it ended with and said."""
    return partial(run_vestige, tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole tiny study that nothing disturbed; to be copied, not changed."""
    home = tmp_path_factory.mktemp("finished")
    (home / "tiny.yaml").write_text(TINY)
    done = run_vestige(home, "run", "tiny.yaml", "--out", "study")
    assert done.returncode == 0, done.stderr
    return home / "study"


@pytest.fixture(scope="session")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny study with one trained run; to be copied, not changed."""
    home = tmp_path_factory.mktemp("one_run")
    (home / "tiny.yaml").write_text(TINY)
    done = run_vestige(home, "train", "tiny.yaml", "--only", "baseline", "--seeds", "0", "--out", "begun")
    assert done.returncode == 0, done.stderr
    return home / "begun"


class Done(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def strangers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stranger's images, as many for testing and training as the module's `IMAGES`, model file and checkpoints; to
    be copied, not changed."""
    from foreign_models import MODEL, write_checkpoints, write_images

    home = tmp_path_factory.mktemp("made")
    for folder, split, most in zip(("images", "train"), ("test", "train"), request.module.IMAGES, strict=True):
        write_images(home / folder, split, most)
    write_checkpoints(home / "ck")
    (home / "model.py").write_text(MODEL)
    return home


@pytest.fixture
def home(strangers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stranger is at work."""
    shutil.copytree(strangers, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def called(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run a command in `home`, in this process."""

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return run


def run_vestige(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vestige", *arguments]
    return subprocess.run(command, cwd=home, env=surroundings(home), capture_output=True, text=True, check=False)


def surroundings(home: Path) -> dict[str, str]:
    return {**os.environ, "VESTIGE_CACHE": str(home / "cache"), "COLUMNS": "200"}
