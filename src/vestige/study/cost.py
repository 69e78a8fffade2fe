"""What a study costs, from rates seen on this machine and kept in the user's cache."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vestige.config import StudyConfig
from vestige.errors import StoreError
from vestige.runs.manifest import Manifest, read_manifest
from vestige.runs.store import StudyFolder, read_json, value_hash, wait_lock, write_json
from vestige.study.facts import FACTS_VERSION, Facts, decode
from vestige.study.plan import Job, Plan, Unit

CALIBRATION_VERSION = 1


def cache_file() -> Path:
    """Where the rates are kept: `$VESTIGE_CACHE`, else `vestige` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VESTIGE_CACHE") or Path(home) / "vestige") / "calibration.json"


def read_calibration() -> dict[str, Any]:
    """The rates, and the facts of the studies that they were seen in; empty where nothing was calibrated."""
    path = cache_file()
    try:
        stored = read_json(path) if path.exists() else {}
    except StoreError:
        stored = {}  # made anew by the next study
    current = isinstance(stored, dict) and stored.get("version") == CALIBRATION_VERSION
    return stored if current else {}


def core_seconds(
    plan: Plan, units: Iterable[Unit], folder: StudyFolder | None, rates: dict[str, float]
) -> float | None:
    """Seconds that units will take, one after the other; None where a rate is not calibrated.

    Args:
      plan: the study laid out.
      units: those still to do.
      folder: counts only what is missing of each; None: all of it.
      rates: seconds by kind of work, of `read_calibration()["rates"]`.
    """
    total = 0.0
    manifests: dict[tuple[str, int], Manifest] = {}
    for unit in units:
        if unit.step is None:
            pieces = [(_training_rate(plan), len(range(_first_step(plan, unit), plan.total_steps)))]
        else:
            jobs: Iterable[Job] = plan.jobs(unit.condition, unit.step)
            if folder is not None:
                run = folder.run(unit.condition, unit.seed)
                manifest = manifests.setdefault((unit.condition, unit.seed), read_manifest(run))
                jobs = [job for job, _ in plan.missing_jobs(unit, run, manifest)]
            pieces = [(_job_rate(plan, job), 1) for job in jobs]
        for rate, amount in pieces:
            if rate not in rates:
                return None
            total += rates[rate] * amount
    return total


def remember(plan: Plan, folder: StudyFolder) -> None:
    """Keep the rates of a study's finished work in the user's cache; a cache that cannot be written is left alone."""
    seen: dict[str, list[float]] = {}
    for unit in plan.units:
        run = folder.run(unit.condition, unit.seed)
        if unit.step is not None:
            continue
        manifest = read_manifest(run)
        if manifest.complete and manifest.seconds:
            steps = plan.total_steps - _first_step(plan, unit)
            seen.setdefault(_training_rate(plan), []).append(manifest.seconds / steps)
        for job in plan.jobs(unit.condition):
            made = [manifest.artifacts.get(f"{job.tables[0]}/step-{s:08d}.parquet") for s in manifest.checkpoints]
            seen.setdefault(_job_rate(plan, job), []).extend(a.seconds * len(job.tables) for a in made if a)
    rates = {signature: sum(values) / len(values) for signature, values in seen.items() if values}

    try:
        with wait_lock(cache_file().with_suffix(".lock")):
            stored = read_calibration()
            changed = {
                "version": CALIBRATION_VERSION,
                "rates": {**stored.get("rates", {}), **rates},
                "facts": {**stored.get("facts", {}), _facts_signature(plan.study): asdict(plan.facts)},
            }
            write_json(cache_file(), changed)
    except StoreError:
        return


def remembered_facts(study: StudyConfig, calibration: dict[str, Any]) -> Facts | None:
    """Facts of a study that ran on this machine before, without opening its data."""
    stored = calibration.get("facts", {}).get(_facts_signature(study))
    return decode(stored) if stored else None


def _first_step(plan: Plan, unit: Unit) -> int:
    return plan.onset(unit.condition) if plan.parent(unit.condition) else 0


def _training_rate(plan: Plan) -> str:
    study = plan.study
    recipe = study.recipe.model_dump(mode="json", include={"batch_size", "dtype", "channels_last"})
    shared = [plan.study.compute.processes] if plan.study.compute.processes > 1 else []
    return value_hash(["train", plan.facts.model, plan.facts.input_shape, recipe, _machine(plan), *shared])


def _job_rate(plan: Plan, job: Job) -> str:
    settings = getattr(plan.study.measurements, job.kind).model_dump(mode="json")
    images = plan.facts.test_images if job.split == "test" else plan.facts.train_images
    return value_hash([job.name, settings, images, plan.facts.model, plan.facts.input_shape, _machine(plan)])


def _machine(plan: Plan) -> list[Any]:
    return [os.cpu_count(), plan.study.compute.threads, plan.study.compute.device]


def _facts_signature(study: StudyConfig) -> str:
    return value_hash([FACTS_VERSION, study.data.model_dump(mode="json"), study.model.model_dump(mode="json")])
