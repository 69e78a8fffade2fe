"""Atomic files, locks between processes, and manifests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch

from vestige.errors import StoreError
from vestige.runs.manifest import Artifact, Manifest, read_manifest, record_artifacts, update_manifest
from vestige.runs.store import (
    RunFolder,
    read_json,
    read_tensors,
    try_lock,
    value_hash,
    wait_lock,
    write_json,
    write_table,
    write_tensors,
    writing,
)
from vestige.runs.tables import SCHEMAS, conform, empty


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "deep" / "file"

    def write_half() -> None:
        with writing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert list(path.parent.iterdir()) == []
    with writing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_text() == "whole"


def test_the_old_file_survives_a_failed_write(tmp_path: Path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}


def test_an_unwritable_folder_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        write_json(tmp_path / "file" / "below.json", {})
    assert "the system says File exists" in str(caught.value)
    assert "Give a folder that can be written (--out)" in str(caught.value)


def test_unchanged_json_is_not_written_again(tmp_path: Path):
    path = tmp_path / "x.json"
    assert write_json(path, {"a": 1})
    os.utime(path, (1, 1))
    assert not write_json(path, {"a": 1})
    assert path.stat().st_mtime == 1


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    frame = pl.DataFrame({"x": [1.5, None, 3.0], "y": ["a", "b", "a"]})
    tensors = {"b": torch.arange(4.0), "a": torch.eye(3)}
    for name in ("1", "2"):
        write_table(tmp_path / f"{name}.parquet", frame)
        write_tensors(tmp_path / f"{name}.safetensors", tensors, {"step": "3"})
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
    back, metadata = read_tensors(tmp_path / "1.safetensors")
    assert metadata == {"step": "3"}
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_a_truncated_tensor_file_is_named(tmp_path: Path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StoreError) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "it is damaged" in str(caught.value)
    assert "Delete this file and run again" in str(caught.value)


def test_value_hash_is_of_the_value_and_not_of_its_order():
    assert value_hash({"a": 1, "b": [2.5, None]}) == value_hash({"b": [2.5, None], "a": 1})
    assert value_hash({"a": 1}) != value_hash({"a": 1.5})


HOLDER = """
import sys, time
from pathlib import Path
from vestige.runs.store import wait_lock
with wait_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_holds_between_processes_and_is_freed_by_sigkill(tmp_path: Path):
    lock = tmp_path / "l.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with try_lock(lock) as held:
        assert not held
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with wait_lock(lock):
        assert time.monotonic() - began < 5
    with try_lock(lock) as held:
        assert held


WRITER = """
import sys
from pathlib import Path
from vestige.runs.manifest import Artifact, update_manifest
from vestige.runs.store import RunFolder
for k in range(20):
    update_manifest(RunFolder(Path(sys.argv[1])), artifacts={f"{sys.argv[2]}-{k}": Artifact("k", 1, "h", 0.0)})
"""


def test_processes_lose_none_of_each_others_entries(tmp_path: Path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    assert len(read_manifest(RunFolder(tmp_path)).artifacts) == 40


def test_an_artifact_counts_only_with_its_key_and_size(tmp_path: Path):
    run = RunFolder(tmp_path)
    path = run.table("selectivity-corrected-test", 3)
    write_table(path, pl.DataFrame({"x": [1.0]}))
    record_artifacts(run, "key", [path], 2.0)
    manifest = read_manifest(run)
    assert manifest.has(run, path, "key")
    assert not manifest.has(run, path, "other")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    assert manifest.has(run, path, "key")
    assert not manifest.has(run, path, "key", verify=True)
    path.write_bytes(whole[:-1])
    assert not manifest.has(run, path, "key")


def test_a_manifest_reads_as_it_was_written(tmp_path: Path):
    run = RunFolder(tmp_path)
    assert read_manifest(run) == Manifest()
    update_manifest(run, key="k", settings={"a": 1}, checkpoints={8: (0.5, Artifact("", 1, "h", 0.1))})
    written = update_manifest(run, complete=True, checkpoints={4: (0.25, Artifact("", 2, "g", 0.1))})
    assert written == read_manifest(run)
    assert list(written.checkpoints) == [4, 8]
    assert written.settings == {"a": 1}
    run.manifest.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        read_manifest(run)


def test_conform_gives_the_schema_and_nothing_else():
    frame = pl.DataFrame({"measure": ["cka"], "layer": ["l"], "other": ["logits"], "value": [1], "anchor": [None]})
    identity = {
        "condition": "b",
        "seed": 0,
        "step": 1,
        "epoch": 0.5,
        "protocol": "corrected",
        "dataset": "d",
        "split": "test",
        "n": 9,
    }
    table = conform(frame, "linearity", **identity)
    assert dict(table.schema) == {n: (t() if isinstance(t, type) else t) for n, t in SCHEMAS["linearity"].items()}
    assert table["seed"].to_list() == [0]
    assert empty("linearity").schema == table.schema


def test_history_keeps_what_interventions_log():
    row = {
        "step": [1],
        "epoch": [0.1],
        "split": ["train"],
        "loss": [1.0],
        "top1": [0.1],
        "top5": [None],
        "lr": [0.1],
    }
    table = conform(pl.DataFrame({**row, "selectivity.csi": [0.2]}), "history", condition="b", seed=0)
    assert table.columns == [*SCHEMAS["history"], "selectivity.csi"]
