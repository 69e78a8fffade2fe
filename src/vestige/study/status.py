"""What of a study is done, running, missing or stale; what studies cost."""

from collections import Counter
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

from vestige.config import load_study
from vestige.runs.manifest import read_manifest
from vestige.runs.store import StudyFolder, try_lock
from vestige.study import cost
from vestige.study.plan import Plan, Unit, make_plan
from vestige.study.study import Study, default_workers, shipped

NOT_CALIBRATED = "not calibrated"


def describe(study: Study) -> Iterator[str]:
    """Lines that tell how far a study is."""
    from vestige.study.results import has_claims, has_report

    yield f"study {study.config.name} in {study.folder.path}"
    calibration = cost.read_calibration()
    plan = study.plan()
    if plan is None:
        facts = cost.remembered_facts(study.config, calibration)
        plan = make_plan(study.config, facts) if facts else None
    if plan is None:
        yield "not begun; cost: " + NOT_CALIBRATED
        return
    states = {unit: _state(plan, unit, study.folder) for unit in plan.units}
    for stage, title in ((True, "training runs"), (False, "checkpoints to measure")):
        counts = Counter(state for unit, state in states.items() if (unit.step is None) == stage)
        yield f"{title}: " + ", ".join(f"{counts[s]} {s}" for s in ("done", "running", "missing", "stale"))
    left = [unit for unit, state in states.items() if state != "done"]
    older = {"claims": not has_claims(plan, study.folder), "report": not has_report(plan, study.folder)}
    rest = " and ".join(name for name, is_older in older.items() if is_older) or "nothing"
    yield "left to do: " + (_cost(plan, left, study.folder, calibration) if left else rest)
    yield f"claims: {_made(study.folder.claims, 'not judged yet', older=older['claims'])}"
    yield f"report: {_made(study.folder.report / 'index.html', 'not written yet', older=older['report'])}"


def shipped_studies() -> Iterator[tuple[str, str, str]]:
    """Name, description and cost on this machine of every study that ships."""
    calibration = cost.read_calibration()
    for name in shipped():
        with as_file(files("vestige.studies") / f"{name}.yaml") as path:
            study = load_study(path)
        facts = cost.remembered_facts(study, calibration)
        if facts is None:
            yield name, study.description, NOT_CALIBRATED
            continue
        plan = make_plan(study, facts)
        yield name, study.description, _cost(plan, plan.units, None, calibration)


def _made(path: Path, otherwise: str, *, older: bool) -> str:
    if not path.exists():
        return otherwise
    return f"{path}{' (older than the tables, or than what is claimed)' if older else ''}"


def _cost(plan: Plan, units: "tuple[Unit, ...] | list[Unit]", folder: StudyFolder | None, calibration: dict) -> str:
    seconds = cost.core_seconds(plan, units, folder, calibration.get("rates", {}))
    if seconds is None:
        return NOT_CALIBRATED
    workers = plan.study.compute.workers or default_workers(plan.study.compute.threads)
    return f"about {_duration(seconds / workers)} on {workers} workers"


def _state(plan: Plan, unit: Unit, folder: StudyFolder) -> str:
    run = folder.run(unit.condition, unit.seed)
    manifest = read_manifest(run)
    if plan.is_done(unit, folder, manifest):
        return "done"
    lock = folder.lock(unit.name)
    if lock.exists():
        with try_lock(lock) as free:
            if not free:
                return "running"
    if unit.step is None:
        return "stale" if manifest.key and manifest.key != plan.training_key(unit) else "missing"
    made = any(run.table(t, unit.step).exists() for job in plan.jobs(unit.condition, unit.step) for t in job.tables)
    jobs = plan.missing_jobs(unit, run, manifest)
    return "stale" if made and len(jobs) == len(list(plan.jobs(unit.condition, unit.step))) else "missing"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
