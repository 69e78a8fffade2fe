"""From the tables of all runs to the verdicts and the report, each made again only when something below it changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from vestige import __version__
from vestige.claims.departures import departures_table, judge_departures
from vestige.claims.verdicts import judge_study
from vestige.runs.manifest import Artifact, Manifest, read_manifest
from vestige.runs.store import (
    StudyFolder,
    damaged,
    file_hash,
    read_json,
    value_hash,
    wait_lock,
    write_json,
    write_table,
)
from vestige.runs.tables import empty
from vestige.study.plan import Plan, Unit
from vestige.study.portraits import find_portraits
from vestige.study.registering import add_registration, read_registration, tell_registration

KINDS = ("selectivity", "ablation", "cumulative", "linearity")


def make_claims(plan: Plan, folder: StudyFolder) -> dict[str, Any]:
    """Judge the study's claims from its tables into `claims.json`; the verdicts as they stand where nothing changed.

    What each departure of the released code would make of them stands there too, and in `departures.parquet`.
    """
    with wait_lock(folder.lock("claims")):
        if stored := _current_claims(plan, folder):
            return stored
        key = input_key(plan, folder, "claims")
        tables, classes = gather(plan, folder), len(plan.facts.class_names)
        verdicts = {"key": key, **judge_study(plan.study, tables, classes=classes)}
        verdicts["departures"] = judge_departures(plan.study, tables, verdicts, classes=classes)
        verdicts = add_registration(verdicts, read_registration(folder))
        write_table(folder.departures, departures_table(verdicts["departures"]))
        write_json(folder.claims, verdicts)
        return verdicts


def has_claims(plan: Plan, folder: StudyFolder) -> bool:
    """Whether the verdicts are those of the tables and claims as they are."""
    return _current_claims(plan, folder) is not None


def _current_claims(plan: Plan, folder: StudyFolder) -> dict[str, Any] | None:
    stored = read_json(folder.claims) if folder.claims.exists() and folder.departures.exists() else {}
    return stored if stored.get("key") == input_key(plan, folder, "claims") else None


def has_report(plan: Plan, folder: StudyFolder) -> bool:
    """Whether the report is that of the tables and claims as they are."""
    record = _record(folder)
    return record.exists() and _is_current(folder, read_json(record), input_key(plan, folder, "report"), verify=False)


def _record(folder: StudyFolder) -> Path:
    return folder.report / "provenance.json"


def make_report(plan: Plan, folder: StudyFolder, claims: dict[str, Any] | None, *, verify: bool = False) -> bool:
    """Write the report, unless it stands there made from these tables; return whether it was written."""
    record = _record(folder)
    with wait_lock(folder.lock("report")):
        key = input_key(plan, folder, "report")
        if record.exists() and _is_current(folder, read_json(record), key, verify=verify):
            return False
        from vestige.report.page import write_report

        manifests = read_manifests(plan, folder)
        portraits = find_portraits(plan, folder, manifests)
        write_report(folder, plan.study, gather(plan, folder), claims, manifests, portraits)
        found = sorted(folder.report.rglob("*"))
        files = [p for p in found if p.is_file() and p != record and not p.name.startswith(".")]
        made = {p.relative_to(folder.report).as_posix(): Artifact.of(p, key, 0.0).sha256 for p in files}
        write_json(record, {"key": key, "files": made})
        return True


def gather(plan: Plan, folder: StudyFolder) -> dict[str, pl.DataFrame]:
    """All tables of a study, concatenated over its runs, checkpoints, protocols and values, by kind.

    Only tables that the manifests name are read, so that a table of other settings never gets in.
    """
    parts: dict[str, list[pl.DataFrame]] = {kind: [] for kind in (*KINDS, "history")}
    for (condition, seed), manifest in read_manifests(plan, folder).items():
        run = folder.run(condition, seed)
        if run.history.exists():
            parts["history"].append(_read([run.history]))
        for job in plan.jobs(condition):
            if job.kind not in KINDS:
                continue
            paths = [
                run.table(job.tables[0], step)
                for step, (_, weights) in manifest.checkpoints.items()
                if manifest.has(run, run.table(job.tables[0], step), plan.job_key(job, weights.sha256))
            ]
            if paths:
                parts[job.kind].append(_read(paths))
    return {kind: pl.concat(tables, how="diagonal") if tables else empty(kind) for kind, tables in parts.items()}


def _read(paths: list[Path]) -> pl.DataFrame:
    try:
        return pl.read_parquet(paths, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        for path in paths:
            try:
                pl.read_parquet(path, hive_partitioning=False)
            except (pl.exceptions.PolarsError, OSError) as cause:
                raise damaged(path, " ".join(str(cause).split())[:200]) from error
        raise


def read_manifests(plan: Plan, folder: StudyFolder) -> dict[tuple[str, int], Manifest]:
    """Of every run of the study that these settings have begun, chosen now or not."""
    units = [Unit(condition, seed) for condition in plan.study.conditions for seed in plan.study.seeds]
    manifests = {unit: read_manifest(folder.run(unit.condition, unit.seed)) for unit in units}
    return {(u.condition, u.seed): m for u, m in manifests.items() if m.key == plan.training_key(u)}


def input_key(plan: Plan, folder: StudyFolder, what: str) -> str:
    """Hash of everything that the verdicts and the report are made from."""
    study = plan.study.model_dump(mode="json", exclude={"compute": {"workers"}})
    return value_hash(
        [
            what,
            __version__,
            study,
            tell_registration(read_registration(folder)),
            [
                [
                    *name,
                    manifest.complete,
                    *([manifest.failed] if manifest.failed else []),
                    {path: artifact.sha256 for path, artifact in manifest.artifacts.items()},
                    file_hash(history) if (history := folder.run(*name).history).exists() else None,
                ]
                for name, manifest in read_manifests(plan, folder).items()
            ],
        ]
    )


def _is_current(folder: StudyFolder, record: Mapping[str, Any], key: str, *, verify: bool) -> bool:
    files = {folder.report / name: sha256 for name, sha256 in record.get("files", {}).items()}
    return record.get("key") == key and all(
        path.is_file() and (not verify or file_hash(path) == sha256) for path, sha256 in files.items()
    )
