"""From the tables of all runs to the verdicts and the report, each made again only when something below it changed."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from vestige import __version__
from vestige.claims.verdicts import judge_study
from vestige.runs.manifest import Artifact, Manifest, read_manifest
from vestige.runs.store import (
    StudyFolder,
    file_hash,
    read_json,
    value_hash,
    wait_lock,
    write_json,
)
from vestige.runs.tables import empty
from vestige.study.plan import Plan

KINDS = ("selectivity", "ablation", "cumulative", "linearity")


def make_claims(plan: Plan, folder: StudyFolder) -> dict[str, Any]:
    """Judge the study's claims from its tables into `claims.json`; the verdicts as they stand where nothing changed."""
    key = _key(plan, folder, "claims")
    with wait_lock(folder.lock("claims")):
        if folder.claims.exists():
            stored = read_json(folder.claims)
            if stored.get("key") == key:
                return stored
        verdicts = {"key": key, **judge_study(plan.study, gather(plan, folder), classes=len(plan.facts.class_names))}
        write_json(folder.claims, verdicts)
        return verdicts


def make_report(plan: Plan, folder: StudyFolder, claims: dict[str, Any] | None) -> bool:
    """Write the report, unless it stands there made from these tables; return whether it was written."""
    key = _key(plan, folder, "report")
    record = folder.report / "provenance.json"
    with wait_lock(folder.lock("report")):
        if record.exists() and _is_current(folder, read_json(record), key):
            return False
        from vestige.report.page import write_report

        write_report(folder, plan.study, gather(plan, folder), claims, _manifests(plan, folder))
        files = [p for p in sorted(folder.report.rglob("*")) if p.is_file() and p != record]
        made = {p.relative_to(folder.report).as_posix(): Artifact.of(p, key, 0.0).sha256 for p in files}
        write_json(record, {"key": key, "files": made})
        return True


def gather(plan: Plan, folder: StudyFolder) -> dict[str, pl.DataFrame]:
    """All tables of a study, concatenated over its runs, checkpoints, protocols and values, by kind.

    Only tables that the manifests name are read, so that a table of other settings never gets in.
    """
    parts: dict[str, list[pl.DataFrame]] = {kind: [] for kind in (*KINDS, "history")}
    for (condition, seed), manifest in _manifests(plan, folder).items():
        run = folder.run(condition, seed)
        if run.history.exists():
            parts["history"].append(pl.read_parquet(run.history))
        for job in plan.jobs(condition):
            paths = [
                run.table(job.tables[0], step)
                for step, (_, weights) in manifest.checkpoints.items()
                if manifest.has(run, run.table(job.tables[0], step), plan.job_key(job, weights.sha256))
            ]
            if paths:
                parts[job.kind].append(pl.read_parquet(paths, hive_partitioning=False))
    return {kind: pl.concat(tables, how="diagonal") if tables else empty(kind) for kind, tables in parts.items()}


def _manifests(plan: Plan, folder: StudyFolder) -> dict[tuple[str, int], Manifest]:
    """Of every run of the study that has begun, chosen now or not."""
    runs = {(c, s): folder.run(c, s) for c in plan.study.conditions for s in plan.study.seeds}
    return {name: read_manifest(run) for name, run in runs.items() if run.manifest.exists()}


def _key(plan: Plan, folder: StudyFolder, what: str) -> str:
    """Hash of everything that the verdicts and the report are made from."""
    study = plan.study.model_dump(mode="json", exclude={"compute": {"workers"}})
    return value_hash(
        [
            what,
            __version__,
            study,
            [
                [
                    *name,
                    manifest.complete,
                    {path: artifact.sha256 for path, artifact in manifest.artifacts.items()},
                    file_hash(history) if (history := folder.run(*name).history).exists() else None,
                ]
                for name, manifest in _manifests(plan, folder).items()
            ],
        ]
    )


def _is_current(folder: StudyFolder, record: Mapping[str, Any], key: str) -> bool:
    return record.get("key") == key and all((folder.report / name).is_file() for name in record["files"])
