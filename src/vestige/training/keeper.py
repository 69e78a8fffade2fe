"""What a run leaves on disk and how it is taken up again: weights, full states, history and manifest.

At a planned step weights, state and history are written first, each whole, and then named in the manifest
with their hashes: what the manifest does not name was never made. Two states are kept until training is
complete, so that a damaged one costs no more than the way from the one before.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vestige.errors import StoreError
from vestige.runs.manifest import Artifact, Manifest, provenance, read_manifest, update_manifest
from vestige.runs.store import RunFolder, file_hash, update_json, write_table, write_tensors
from vestige.training.events import Intervention
from vestige.training.history import history_table
from vestige.training.state import Progress, read_state, weights_of, write_state

logger = logging.getLogger("vestige")


@dataclass(frozen=True)
class Parent:
    """The run that a late condition branches from, and where."""

    run: RunFolder
    condition: str
    seed: int
    step: int


@dataclass
class Keeper:
    """The files of one run.

    Attributes:
      run: its folder.
      condition: its condition.
      seed: its seed.
      key: hash of everything that can change its weights.
      settings: the same, readable.
      planned: steps at which weights are kept: those this run makes itself, ascending.
      onsets: steps at which the full state is kept for others to branch from.
      steps_per_epoch: optimiser steps an epoch.
      columns: history columns of its interventions.
      parent: what it branches from.
      begun: the state that this sitting began from; None: the initialisation.
      processes: how many share the run.
    """

    run: RunFolder
    condition: str
    seed: int
    key: str
    settings: dict[str, Any]
    planned: Sequence[int]
    onsets: Sequence[int]
    steps_per_epoch: int
    columns: Sequence[str] = ()
    parent: Parent | None = None
    seconds: float = 0.0
    last_good: int | None = None
    begun: Path | None = None
    processes: int = 1
    _since: float = field(default_factory=time.monotonic)
    _origin: dict[str, Any] | None = None

    def begin(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, acting: Sequence[Intervention] = ()
    ) -> Progress:
        """Put the latest whole state into the network: this run's, else its parent's, else leave it as it is.

        Raises:
          StoreError: the parent's state is missing or damaged, or the manifest is.
        """
        manifest = self._current(read_manifest(self.run))
        self.seconds = manifest.seconds
        limit = self._first_missing(manifest)
        states = self._states(manifest)
        expected = {*self.onsets, *(step for step, _ in states[:2])}
        for step, artifact in states:
            path = self.run.state(step)
            if not artifact.is_whole(path, verify=True):
                if path.exists() or step in expected:
                    found = "is damaged" if path.exists() else "is missing"
                    logger.warning("%s %s: going on from the state before it", path, found)
                continue
            if step > limit:
                continue
            progress = read_state(path, model, optimizer, acting)
            self._restore(model, progress, manifest)
            self.begun = path
            return progress
        return self._from_parent(model, optimizer) if self.parent else Progress()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        acting: Sequence[Intervention] = (),
    ) -> None:
        """Keep what is due: weights, state and history at a planned step, only the state at an onset."""
        step = progress.step
        state = self.run.state(step)
        write_state(state, model, optimizer, progress, acting)
        made = {state: Artifact.of(state, self.key, 0.0)}
        lap = self._lap()
        changes: dict[str, Any] = {}
        if step in self.planned:
            write_tensors(self.run.checkpoint(step), weights_of(model))
            write_table(self.run.history, self._history(progress))
            made[self.run.history] = Artifact.of(self.run.history, self.key, 0.0)
            changes["checkpoints"] = {step: self._weights(step, lap)}
        self._record(made, complete=self.planned[-1] == step, **changes)
        self.last_good = step
        self._drop_states(step)

    def last_checkpoint(self) -> str:
        """Which weights were kept last, in words; a state kept between checkpoints is none, and soon dropped."""
        good = -1 if self.last_good is None else self.last_good
        made = [step for step in self.planned if step <= good]
        if made:
            return f"the last good checkpoint is that of step {made[-1]}"
        if self.parent:
            return f"it has no checkpoint since it branched from {self.parent.condition!r} at step {self.parent.step}"
        return "there is no earlier checkpoint"

    def fail(self, why: str) -> None:
        """Say in the manifest why training could not go on; what goes on unsays it."""
        update_manifest(self.run, key=self.key, settings=self.settings, parent=self._origin, failed=why)

    def _current(self, manifest: Manifest) -> Manifest:
        """The manifest without what other settings, or another state of the parent, have left in it."""
        if self.parent:
            self._origin = _origin(self.parent, self.condition)
        if not manifest.key or (manifest.key == self.key and manifest.parent == self._origin):
            return manifest
        cause = "by other settings" if manifest.key != self.key else "from another state of its parent"
        logger.warning("%s was made %s: training begins anew", self.run.path, cause)
        for path in self.run.state(0).parent.glob("step-*.safetensors"):
            path.unlink(missing_ok=True)
        update_json(
            self.run.manifest,
            lambda stored: {**_without_states(stored), "checkpoints": [], "complete": False, "seconds": 0.0},
        )
        return Manifest()

    def _states(self, manifest: Manifest) -> list[tuple[int, Artifact]]:
        """States that the manifest names, the latest first."""
        steps = {
            int(Path(name).stem.removeprefix("step-")): artifact
            for name, artifact in manifest.artifacts.items()
            if name.startswith("state/") and artifact.key == self.key
        }
        return sorted(steps.items(), reverse=True)

    def _first_missing(self, manifest: Manifest) -> int:
        """The first step whose weights, or whose state where one is an onset, the manifest has not on disk."""
        states = {step for step, artifact in self._states(manifest) if artifact.is_whole(self.run.state(step))}
        missing = [onset for onset in self.onsets if onset not in states]
        for step in self.planned:
            _, artifact = manifest.checkpoints.get(step, (0.0, None))
            path = self.run.checkpoint(step)
            if artifact is not None and artifact.key == self.key and artifact.is_whole(path, verify=True):
                continue
            missing.append(step)
            if artifact is not None:
                found = "is damaged" if path.exists() else "is missing"
                logger.warning("%s %s: it is made again, from the state before it", path, found)
        return min(missing, default=self.planned[-1])

    def _restore(self, model: nn.Module, progress: Progress, manifest: Manifest) -> None:
        """Bring weights and history in line with the state: they may be damaged where it is not."""
        step = progress.step
        self.last_good = step
        changes: dict[str, Any] = {}
        if step in self.planned:
            _, artifact = manifest.checkpoints.get(step, (0.0, None))
            path = self.run.checkpoint(step)
            if artifact is None or not artifact.is_whole(path, verify=True):
                write_tensors(path, weights_of(model))
                changes["checkpoints"] = {step: self._weights(step)}
        write_table(self.run.history, self._history(progress))
        made = {self.run.history: Artifact.of(self.run.history, self.key, 0.0)}
        self._record(made, complete=self.planned[-1] == step, **changes)

    def _from_parent(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        parent = self.parent
        assert parent is not None
        assert self._origin is not None
        path = parent.run.state(parent.step)
        if not path.is_file() or file_hash(path) != self._origin["sha256"]:
            raise _no_parent_state(parent, self.condition, "damaged" if path.exists() else "missing")
        progress = read_state(path, model, optimizer)
        progress.rows, self.last_good, self.begun = [], parent.step, path
        return progress

    def _record(self, made: dict[Path, Artifact], *, complete: bool, **changes: Any) -> None:
        update_manifest(
            self.run,
            key=self.key,
            settings=self.settings,
            parent=self._origin,
            complete=complete,
            failed="",
            seconds=round(self.seconds, 3),
            made={**provenance(), "processes": self.processes},
            artifacts={path.relative_to(self.run.path).as_posix(): artifact for path, artifact in made.items()},
            **changes,
        )

    def _weights(self, step: int, seconds: float = 0.0) -> tuple[float, Artifact]:
        return step / self.steps_per_epoch, Artifact.of(self.run.checkpoint(step), self.key, seconds)

    def _history(self, progress: Progress):
        return history_table(progress.rows, self.columns, condition=self.condition, seed=self.seed)

    def _lap(self) -> float:
        now = time.monotonic()
        lap, self._since = now - self._since, now
        self.seconds += lap
        return lap

    def _drop_states(self, step: int) -> None:
        """Delete the states that nothing needs: all but the onsets' and the last two (when complete, one)."""
        found = sorted(self.run.state(0).parent.glob("step-*.safetensors"))
        older = [path for path in found if path < self.run.state(step)]
        spared = {self.run.state(onset) for onset in self.onsets} | {self.run.state(step)}
        complete = step == self.planned[-1]
        if not complete:
            spared |= set(older[-1:])
        for path in older:
            if path not in spared:
                path.unlink(missing_ok=True)
        if complete:
            names = [path.relative_to(self.run.path).as_posix() for path in spared]
            update_json(self.run.manifest, lambda stored: _without_states(stored, names))


def _origin(parent: Parent, condition: str) -> dict[str, Any]:
    """What the manifest of a branch says of its parent."""
    name = parent.run.state(parent.step).relative_to(parent.run.path).as_posix()
    artifact = read_manifest(parent.run).artifacts.get(name)
    if artifact is None:
        raise _no_parent_state(parent, condition, "not in the parent's manifest")
    return {
        "condition": parent.condition,
        "seed": parent.seed,
        "step": parent.step,
        "sha256": artifact.sha256,
    }


def _no_parent_state(parent: Parent, condition: str, found: str) -> StoreError:
    return StoreError(
        f"branching {condition!r} from {parent.condition!r} at step {parent.step}",
        found=f"the state {parent.run.state(parent.step)} is {found}",
        remedy=f"Delete {parent.run.state(parent.step)} and run again: the parent is trained to it again",
    )


def _without_states(stored: dict[str, Any], keep: Sequence[str] = ()) -> dict[str, Any]:
    """A manifest's JSON that names no state but those to keep."""
    artifacts = stored["artifacts"].items()
    kept = {name: entry for name, entry in artifacts if not name.startswith("state/") or name in keep}
    return {**stored, "artifacts": kept}
