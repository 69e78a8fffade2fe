"""Where the files of a study lie, and atomic writes, locks and hashes for them.

Layout: see `StudyFolder` and `RunFolder`. Every file is written under a temporary name, fsynced and renamed, so that
whatever stands under its final name is whole. torch is imported only by the functions that handle tensors.
"""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vestige.errors import StoreError

if TYPE_CHECKING:
    import polars as pl
    import torch


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: a condition and a seed."""

    path: Path

    @property
    def manifest(self) -> Path:
        """`manifest.json`: see `vestige.runs.manifest`."""
        return self.path / "manifest.json"

    @property
    def history(self) -> Path:
        """Loss and accuracy through training."""
        return self.path / "history.parquet"

    def checkpoint(self, step: int) -> Path:
        """Weights after `step` optimiser steps."""
        return self.path / "checkpoints" / f"step-{step:08d}.safetensors"

    def state(self, step: int) -> Path:
        """Full training state after `step` optimiser steps."""
        return self.path / "state" / f"step-{step:08d}.safetensors"

    def table(self, measurement: str, step: int) -> Path:
        """A table of a measurement, `selectivity-corrected-test`, at a checkpoint."""
        return self.path / measurement / f"step-{step:08d}.parquet"


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study."""

    path: Path

    @property
    def study_yaml(self) -> Path:
        """The resolved study: every default written out."""
        return self.path / "study.yaml"

    @property
    def claims(self) -> Path:
        """The verdicts."""
        return self.path / "claims.json"

    @property
    def departures(self) -> Path:
        """What the released code would have made of them, a row a departure and clause."""
        return self.path / "departures.parquet"

    @property
    def report(self) -> Path:
        """The folder of the report: `index.html` and `figures/`."""
        return self.path / "report"

    def run(self, condition: str, seed: int) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / "runs" / condition / f"seed-{seed}")

    def lock(self, name: str) -> Path:
        """The lock file of a work unit."""
        return self.path / ".locks" / f"{name.replace('/', '+')}.lock"

    def tables(self, condition: str, seed: int, measurement: str) -> list[Path]:
        """The tables of a measurement of one run, in the order of their steps."""
        return sorted((self.run(condition, seed).path / measurement).glob("step-*.parquet"))


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, its file becomes `path`, whole and on disk.

    Raises:
      StoreError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"writing {path}",
            found=f"the system says {error.strerror or error}",
            remedy="Give a folder that can be written (--out), with room on its disk; nothing that was there is lost",
        ) from error
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def write_text(path: Path, text: str) -> bool:
    """Write a text file atomically, unless it says this already; return whether it was written."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def write_json(path: Path, value: Any) -> bool:
    """Write a value as JSON atomically (NaN as null is the caller's to decide), unless it stands there already."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_table(path: Path, table: "pl.DataFrame", metadata: Mapping[str, str] | None = None) -> None:
    """Write a table as Parquet atomically; the same table and metadata give the same bytes."""
    content = io.BytesIO()  # written by us, so that a full disk is an OSError like any other
    table.write_parquet(content, compression="zstd", statistics=False, metadata=dict(metadata or {}))
    with writing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def write_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as safetensors atomically; the same tensors give the same bytes."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(plain, metadata=dict(metadata or {}))
    with writing(path) as temporary:
        temporary.write_bytes(content)


def read_tensors(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """Read named tensors and their metadata from a safetensors file.

    Raises:
      StoreError: there is no such file, or it is truncated or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise damaged(path, " ".join(str(error).split())) from error


def damaged(path: Path, found: str) -> StoreError:
    """The error for a file of a study that is not what was written."""
    return StoreError(
        f"reading {path}",
        found=f"it is damaged ({found})",
        remedy="Delete this file and run again: what is missing is made again",
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """SHA-256 of a JSON-like value with sorted keys, hexadecimal, 32 digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock between processes; yields False at once where another process holds it.

    The system frees the lock when its process ends, however it ends.
    """
    with _open_lock(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def wait_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes, waiting for it."""
    with _open_lock(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def joining(path: Path, first: Callable[[], None], joined: Callable[[], None]) -> Iterator[None]:
    """Work side by side with other processes: hold a shared lock, after a step that only one takes at a time.

    Args:
      path: the lock file.
      first: run alone where no other process holds the lock.
      joined: run where others are at work; in both, an error ends the matter.
    """
    with _open_lock(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            joined()
        else:
            first()
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


def update_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Read a JSON file (empty where there is none), change it and write it back, as one step among processes."""
    with wait_lock(path.with_name(f".{path.name}.lock")):
        value = change(read_json(path) if path.exists() else {})
        write_json(path, value)
        return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file.

    Raises:
      StoreError: there is no such file, or it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error


@contextmanager
def _open_lock(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(
            f"locking {path}",
            found=f"the system says {error.strerror}",
            remedy="Give a folder that can be written (--out)",
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
