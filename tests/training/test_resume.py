"""Going on after a kill at any moment, after damage, from another run's state: always to the same bytes."""

import logging
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from small_runs import longer_run, small_study, train

from vestige.errors import StoreError
from vestige.runs.manifest import read_manifest
from vestige.runs.store import RunFolder
from vestige.training.loop import Parent

PENALTY = {"kind": "selectivity", "labels": "permuted", "window": {"start": 3}}
ONSETS = (3,)


def study():
    return small_study([PENALTY])


def files(run):
    """Content of everything but the manifest, which has times in it."""
    return {
        path.relative_to(run.path).as_posix(): path.read_bytes()
        for path in sorted(run.path.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path != run.manifest
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(study(), tmp_path_factory.mktemp("undisturbed"), "changed", onsets=ONSETS)


def finish(folder):
    return train(study(), folder, "changed", onsets=ONSETS)


def stop_at_replace(monkeypatch, count):
    """Stop the process, as far as it can tell, before the count-th file gets its final name."""
    replace, left = Path.replace, [count]

    def stopping(self, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopping)


@pytest.mark.parametrize("count", range(0, 22, 3))
def test_stopped_between_any_two_files(count, undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stop_at_replace(patched, count)
        with pytest.raises(KeyboardInterrupt):
            finish(tmp_path)
    run = finish(tmp_path)
    assert files(run) == files(undisturbed)
    assert read_manifest(run).complete


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The longer run, left alone."""
    return files(longer_run(tmp_path_factory.mktemp("whole")))


def interrupted(run, checkpoints, how):
    """Train in a process of its own until there are so many checkpoints; end it; what it ended with and had said."""
    command = [sys.executable, str(Path(__file__).with_name("small_runs.py")), str(run.path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while len(list(run.path.glob("checkpoints/*.safetensors"))) < checkpoints and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(how)
    said, _ = child.communicate(timeout=60)
    return child.returncode, [int(line) for line in said.split()]


def test_killed_when_there_are_k_checkpoints(whole, tmp_path):
    """A real SIGKILL of a real process for five random k, each going on from the one before; no byte is another."""
    run = RunFolder(tmp_path / "killed")
    ended = [interrupted(run, k, signal.SIGKILL)[0] for k in sorted(random.sample(range(1, 38), 5))]
    assert ended.count(-signal.SIGKILL) >= 4, "runs were over before they were killed: make them longer"
    longer_run(run.path)
    assert files(run) == whole


def test_sigterm_keeps_the_full_state_and_stops(whole, tmp_path):
    """At whatever step it comes: the state is of that step, which need be no checkpoint, and nothing is lost."""
    run = RunFolder(tmp_path / "ended")
    code, said = interrupted(run, random.randrange(1, 30), signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    manifest = read_manifest(run)
    kept = max(int(Path(name).stem.removeprefix("step-")) for name in manifest.artifacts if name.startswith("state/"))
    assert kept >= max([max(manifest.checkpoints), *said])
    assert run.state(kept).exists()
    longer_run(run.path)
    assert files(run) == whole


def test_states_at_an_interval_change_nothing(undisturbed, tmp_path, monkeypatch):
    """A state after every step, and stopped between any two."""
    often = small_study([PENALTY], compute={"state_minutes": 1e-9})
    for count in (5, 17, 30):
        with monkeypatch.context() as patched:
            stop_at_replace(patched, count)
            with pytest.raises(KeyboardInterrupt):
                train(often, tmp_path / str(count), "changed", onsets=ONSETS)
        run = train(often, tmp_path / str(count), "changed", onsets=ONSETS)
        assert files(run) == files(undisturbed)


def stopped_late(folder, monkeypatch):
    """A run stopped on its way to step 12, with the states of steps 3 (an onset), 4 and 8."""
    with monkeypatch.context() as patched:
        stop_at_replace(patched, 21)  # 4 files at 0, 2, 4, 8 and 2 at the onset, then 3 of 4
        with pytest.raises(KeyboardInterrupt):
            finish(folder)
    run = RunFolder(folder)
    assert sorted(path.name for path in run.path.glob("state/step*")) == [
        f"step-{step:08d}.safetensors" for step in (3, 4, 8, 12)
    ]
    return run


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def swap(one, other):
    one_content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(one_content)


DAMAGE = {
    "the last state truncated": (
        lambda run: truncate(run.state(8)),
        ["step-00000008.safetensors is damaged"],
    ),
    "a bit of the last state": (
        lambda run: flip_a_bit(run.state(8)),
        ["step-00000008.safetensors is damaged"],
    ),
    "both last states truncated": (
        lambda run: (truncate(run.state(8)), truncate(run.state(4))),
        ["step-00000008.safetensors is damaged", "step-00000004.safetensors is damaged"],
    ),
    "all states gone": (
        lambda run: [path.unlink() for path in run.path.glob("state/*")],
        [f"step-{step:08d}.safetensors is missing" for step in (8, 4, 3)],
    ),
    "weights truncated": (lambda run: truncate(run.checkpoint(8)), ["checkpoints/step-00000008.safetensors"]),
    "weights swapped": (
        lambda run: swap(run.checkpoint(2), run.checkpoint(8)),
        ["checkpoints/step-00000002.safetensors", "checkpoints/step-00000008.safetensors"],
    ),
    "weights gone": (
        lambda run: run.checkpoint(4).unlink(),
        ["checkpoints/step-00000004.safetensors is missing"],
    ),
    "history truncated": (lambda run: truncate(run.history), []),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_and_mended(case, undisturbed, tmp_path, monkeypatch, caplog):
    run = stopped_late(tmp_path, monkeypatch)
    damage, named = DAMAGE[case]
    damage(run)
    with caplog.at_level(logging.WARNING, logger="vestige"):
        finish(tmp_path)
    assert files(run) == files(undisturbed)
    for words in named:
        assert words in caplog.text
    assert len(caplog.records) == len(named)


def test_damage_of_a_complete_run_is_mended(undisturbed, tmp_path, caplog):
    run = finish(tmp_path)
    truncate(run.checkpoint(2))
    with caplog.at_level(logging.WARNING, logger="vestige"):
        finish(tmp_path)
    assert "checkpoints/step-00000002.safetensors is damaged" in caplog.text
    assert files(run) == files(undisturbed)


def test_a_complete_run_is_left_alone(tmp_path):
    run = finish(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.path.glob("*/*.safetensors")}
    finish(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in run.path.glob("*/*.safetensors")} == before


@pytest.mark.parametrize("onset", [4, 5])
def test_a_branch_equals_the_run_that_was_trained_whole(onset, tmp_path):
    """At a checkpoint (4) and between two (5): a running mean then goes on from the parent's."""
    branching = small_study([{**PENALTY, "window": {"start": onset}}])
    parent = train(branching, tmp_path / "parent", "baseline", onsets=(onset,))
    whole = train(branching, tmp_path / "whole", "changed")
    origin = Parent(parent, "baseline", 0, onset)
    branch = train(branching, tmp_path / "branch", "changed", parent=origin)
    later = [step for step in (0, 2, 4, 8, 12) if step > onset]
    assert sorted(read_manifest(branch).checkpoints) == later
    assert all(branch.checkpoint(s).read_bytes() == whole.checkpoint(s).read_bytes() for s in later)
    expected = pl.read_parquet(whole.history).filter(pl.col("step") > onset)
    assert pl.read_parquet(branch.history).equals(expected)
    entry = read_manifest(branch).parent
    state = read_manifest(parent).artifacts[f"state/step-{onset:08d}.safetensors"]
    assert entry == {"condition": "baseline", "seed": 0, "step": onset, "sha256": state.sha256}


def test_a_branch_is_taken_up_again(tmp_path, monkeypatch):
    branching = small_study([{**PENALTY, "window": {"start": 4}}])
    origin = Parent(train(branching, tmp_path / "parent", onsets=(4,)), "baseline", 0, 4)
    whole = train(branching, tmp_path / "whole", "changed", parent=origin)
    with monkeypatch.context() as patched:
        stop_at_replace(patched, 6)
        with pytest.raises(KeyboardInterrupt):
            train(branching, tmp_path / "stopped", "changed", parent=origin)
    again = train(branching, tmp_path / "stopped", "changed", parent=origin)
    assert files(again) == files(whole)


def test_a_branch_of_another_state_begins_anew(tmp_path, caplog):
    branching = small_study([{**PENALTY, "window": {"start": 4}}])
    train(branching, tmp_path / "parent", onsets=(4,))
    train(branching, tmp_path / "other", onsets=(4,), seed=1)
    folder = tmp_path / "branch"
    before = Parent(RunFolder(tmp_path / "other"), "baseline", 0, 4)
    train(branching, folder, "changed", parent=before)
    now = Parent(RunFolder(tmp_path / "parent"), "baseline", 0, 4)
    with caplog.at_level(logging.WARNING, logger="vestige"):
        branch = train(branching, folder, "changed", parent=now)
    assert "was made from another state of its parent: training begins anew" in caplog.text
    assert files(branch) == files(train(branching, tmp_path / "fresh", "changed", parent=now))


@pytest.mark.parametrize(("onset", "found"), [(5, "not in the parent's manifest"), (4, "damaged")])
def test_a_parent_without_its_state(onset, found, tmp_path):
    branching = small_study([{**PENALTY, "window": {"start": 4}}])
    parent = train(branching, tmp_path / "parent", onsets=(4,))
    truncate(parent.state(4))
    with pytest.raises(StoreError) as error:
        train(branching, tmp_path / "branch", "changed", parent=Parent(parent, "baseline", 0, onset))
    assert f"branching 'changed' from 'baseline' at step {onset}: the state" in str(error.value)
    assert f"is {found}. Delete {parent.state(onset)} and run again: the parent is trained to it again" in str(
        error.value
    )


def test_a_complete_run_makes_the_state_of_a_new_onset(undisturbed, tmp_path):
    run = train(study(), tmp_path, "changed")
    assert not run.state(ONSETS[0]).exists()
    finish(tmp_path)
    assert files(run) == files(undisturbed)
