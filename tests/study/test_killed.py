"""Killed at any moment and run again, a study ends in the very bytes of an undisturbed one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from processes import alive, children, wait_for

MOMENTS: dict[str, Callable[[Path], bool]] = {
    "training": lambda study: len(list(study.glob("runs/*/*/checkpoints/*.safetensors"))) >= 5,
    "measuring": lambda study: len(list(study.glob("runs/*/*/ablation-zero-test/*.parquet"))) >= 3,
    "reporting": lambda study: len(list(study.glob("report/figures/*"))) >= 2,
}


def results(study: Path) -> dict[str, bytes]:
    """All weights and tables by their path."""
    kept = [*study.glob("runs/*/*/checkpoints/*.safetensors"), *study.glob("runs/**/*.parquet")]
    return {path.relative_to(study).as_posix(): path.read_bytes() for path in kept}


@pytest.fixture
def undisturbed(finished: Path) -> dict[str, bytes]:
    return results(finished)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="waits for a system with /proc")
def test_sigkill_of_the_parent_alone_leaves_no_orphan_and_changes_no_byte(
    vestige, tiny: Path, tmp_path: Path, environment: dict[str, str], undisturbed: dict[str, bytes]
):
    for workers, (moment, reached) in zip(("2", "1", "3"), MOMENTS.items(), strict=True):
        study = tmp_path / moment
        command = [sys.executable, "-m", "vestige", "run", str(tiny), "--out", moment]
        parent = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        assert wait_for(lambda study=study, reached=reached: reached(study), 120), moment
        workers_alive = children(parent.pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert wait_for(lambda pids=workers_alive: not any(alive(pid) for pid in pids), 10), moment
        before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
        time.sleep(0.5)
        assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before, moment
        again = vestige("run", moment, "--compute.workers", workers)
        assert again.returncode == 0, again.stderr
        assert results(study) == undisturbed, moment
        assert not list(study.rglob("*.tmp")), moment


def test_two_at_once_share_the_work_and_do_none_twice(
    tiny: Path, tmp_path: Path, environment: dict[str, str], undisturbed: dict[str, bytes]
):
    study = tmp_path / "both"
    command = [sys.executable, "-m", "vestige", "run", str(tiny), "--out", "both"]
    logs = [(tmp_path / f"{number}.log").open("w+") for number in range(2)]
    pair = [subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log) for log in logs]
    made: dict[Path, set[int]] = {}  # a file that is made again is another file of the same name
    while any(process.poll() is None for process in pair):
        for path in (*study.glob("runs/*/*/checkpoints/*.safetensors"), *study.glob("runs/*/*/*-test/*.parquet")):
            made.setdefault(path, set()).add(path.stat().st_ino)
        time.sleep(0.02)
    for log in logs:
        log.seek(0)
    said = [log.read() for log in logs]
    assert [process.returncode for process in pair] == [0, 0], said
    assert results(study) == undisturbed
    assert len(made) > 50
    assert {path: inodes for path, inodes in made.items() if len(inodes) > 1} == {}
    assert "another vestige is at work on this study" in said[0] + said[1]


def test_a_second_run_does_nothing(vestige, finished: Path, tmp_path: Path):
    study = tmp_path / "again"
    shutil.copytree(finished, study)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in study.rglob("*")}
    done = vestige("run", "again")
    assert done.returncode == 0, done.stderr
    assert "report: again/report/index.html" in done.stdout
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in study.rglob("*")} == before


def test_two_at_once_with_other_settings_do_not_touch_each_other(vestige, tiny: Path, tmp_path: Path, environment):
    longer = ["--recipe.epochs", "60", "--checkpoints.every_epochs", "1"]
    command = [sys.executable, "-m", "vestige", "train", str(tiny), "--out", "both", *longer]
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    study = tmp_path / "both"
    try:
        assert wait_for(lambda: (study / "study.yaml").exists(), 60)
        settings = (study / "study.yaml").read_bytes()
        second = vestige("train", str(tiny), "--out", "both", *longer, "--recipe.lr", "0.2")
        assert first.poll() is None, "the first ended before the second had begun"
        assert second.returncode == 2
        assert "it works with other settings: recipe.lr is 0.2, theirs is 0.05" in second.stderr
        assert (study / "study.yaml").read_bytes() == settings
    finally:
        first.kill()
        first.wait()
