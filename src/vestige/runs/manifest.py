"""`manifest.json` of a run: what made it, its checkpoints, and every artifact made from them.

An artifact is made when the manifest names it with the key that its inputs have now, and its file has the recorded
size. The key is a hash of everything that can change the artifact's numbers, and of nothing else.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vestige.errors import StoreError
from vestige.runs.store import RunFolder, damaged, file_hash, read_json, update_json

MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Artifact:
    """One file: the key of its inputs, its size in bytes, its SHA-256 and the seconds it took."""

    key: str
    size: int
    sha256: str
    seconds: float

    @classmethod
    def of(cls, path: Path, key: str, seconds: float) -> "Artifact":
        """Describe a file that was just written."""
        return cls(key, path.stat().st_size, file_hash(path), round(seconds, 3))

    def is_whole(self, path: Path, *, verify: bool = False) -> bool:
        """Whether the file is there with the recorded size and, with `verify`, the recorded hash."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        return not verify or file_hash(path) == self.sha256


@dataclass(frozen=True)
class Manifest:
    """What is known of a run.

    Attributes:
      key: hash of everything that can change the run's weights; empty where training has not begun.
      settings: those inputs, readable.
      parent: for a run that branches: condition, seed, step and SHA-256 of the state it began from.
      complete: whether training has reached its last step.
      failed: why training could not go on; empty where it could.
      seconds: time spent in training, over all sittings.
      checkpoints: by step: epoch, and the artifact of the weights.
      artifacts: by path relative to the run's folder.
      made: versions and hardware of the last sitting of training.
      measured: versions and hardware of the last measurement.
    """

    key: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    parent: dict[str, Any] | None = None
    complete: bool = False
    failed: str = ""
    seconds: float = 0.0
    checkpoints: dict[int, tuple[float, Artifact]] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def has(self, run: RunFolder, path: Path, key: str, *, verify: bool = False) -> bool:
        """Whether this artifact is made from these inputs and whole."""
        artifact = self.artifacts.get(path.relative_to(run.path).as_posix())
        return artifact is not None and artifact.key == key and artifact.is_whole(path, verify=verify)


def read_manifest(run: RunFolder) -> Manifest:
    """The manifest of a run; an empty one where there is none.

    Raises:
      StoreError: the file is damaged.
    """
    if not run.manifest.exists():
        return Manifest()
    return _decode(run, read_json(run.manifest))


def checked_weights(run: RunFolder, step: int, manifest: Manifest | None = None) -> Path:
    """The file of a checkpoint's weights, which are those that were written, by their hash.

    Args:
      run: whose checkpoint.
      step: of it.
      manifest: the run's, where it has been read.

    Raises:
      StoreError: there is no such checkpoint, or its file is gone or another.
    """
    path = run.checkpoint(step)
    entry = (manifest or read_manifest(run)).checkpoints.get(step)
    if entry is None:
        raise StoreError(
            f"reading {path}",
            found=f"the run's manifest names no checkpoint of step {step}",
            remedy="Name a step at which weights are kept; `vestige status` tells what is there",
        )
    if not entry[1].is_whole(path, verify=True):
        raise damaged(path, "its hash is not the one that was recorded" if path.exists() else "it is gone")
    return path


def update_manifest(run: RunFolder, **changes: Any) -> Manifest:
    """Change fields of a run's manifest, safely beside other processes; `checkpoints` and `artifacts` are merged."""

    def change(stored: dict[str, Any]) -> dict[str, Any]:
        old = _decode(run, stored) if stored else Manifest()
        merged = {name: {**getattr(old, name), **changes.get(name, {})} for name in ("checkpoints", "artifacts")}
        return _encode(Manifest(**{**vars(old), **changes, **merged}))

    return _decode(run, update_json(run.manifest, change))


def record_artifacts(run: RunFolder, key: str, paths: list[Path], seconds: float) -> None:
    """Name a measurement's tables in the manifest, after their files are on disk."""
    share = seconds / len(paths)
    artifacts = {p.relative_to(run.path).as_posix(): Artifact.of(p, key, share) for p in paths}
    update_manifest(run, artifacts=artifacts, measured=provenance())


@cache
def provenance() -> dict[str, Any]:
    """Versions of what computes, the hardware, and the time."""
    packages = ("vestige", "torch", "torchvision", "timm", "numpy", "scipy", "polars", "safetensors")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _encode(manifest: Manifest) -> dict[str, Any]:
    return {
        "version": MANIFEST_VERSION,
        **{
            name: getattr(manifest, name)
            for name in ("key", "settings", "parent", "complete", "seconds", "made", "measured")
        },
        **({"failed": manifest.failed} if manifest.failed else {}),
        "checkpoints": [
            {"step": step, "epoch": epoch, **asdict(artifact)}
            for step, (epoch, artifact) in sorted(manifest.checkpoints.items())
        ],
        "artifacts": {name: asdict(artifact) for name, artifact in sorted(manifest.artifacts.items())},
    }


def _decode(run: RunFolder, stored: Mapping[str, Any]) -> Manifest:
    if stored.get("version", 0) > MANIFEST_VERSION:
        raise StoreError(
            f"reading {run.manifest}",
            found=f"it has version {stored['version']}, and this vestige knows {MANIFEST_VERSION}",
            remedy="Go on with the newer vestige that wrote it",
        )
    try:
        fields = {k: v for k, v in stored.items() if k not in ("version", "checkpoints", "artifacts")}
        checkpoints = {
            entry["step"]: (entry["epoch"], Artifact(**{k: entry[k] for k in Artifact.__match_args__}))
            for entry in stored["checkpoints"]
        }
        artifacts = {name: Artifact(**entry) for name, entry in stored["artifacts"].items()}
        return Manifest(**fields, checkpoints=checkpoints, artifacts=artifacts)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise damaged(run.manifest, f"{type(error).__name__}: {error}") from error
