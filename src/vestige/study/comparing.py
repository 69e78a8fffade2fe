"""Two studies side by side: each as its folder has it, read and never written."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vestige.config import StudyConfig
from vestige.errors import ConfigError, StoreError
from vestige.report.compare import write_comparison
from vestige.report.compare_side import Side
from vestige.runs.manifest import Manifest
from vestige.runs.store import StudyFolder, read_json
from vestige.study.facts import decode
from vestige.study.plan import Plan, make_plan
from vestige.study.study import Study


def compare(a: str | Path, b: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the comparison of two studies.

    Args:
      a: the folder of a study, or the name of one in `./studies`.
      b: the other.
      out: the folder to write in; by default `./compared/A-and-B`.

    Returns:
      The page, `index.html`.

    Raises:
      ConfigError: both are the same study, or one is none.
      StoreError: nothing of one is measured; a file of it is damaged; the folder cannot be written.
    """
    folders = [find_study(one) for one in (a, b)]
    if folders[0].path.resolve() == folders[1].path.resolve():
        raise ConfigError(
            f"comparing {a} with {b}",
            found="both are the same folder",
            remedy="Give the folders of two studies",
        )
    sides = [read_side(folder, label) for folder, label in zip(folders, "AB", strict=True)]
    named = "-and-".join(re.sub(r"[^A-Za-z0-9._-]", "-", folder.path.resolve().name) for folder in folders)
    return write_comparison(Path(out or Path("compared") / named), *sides)


def find_study(study: str | Path) -> StudyFolder:
    """The folder of a study that was begun.

    Raises:
      ConfigError: there is none of this name.
      StoreError: it was never begun.
    """
    folder = StudyFolder(Path(study)) if (Path(study) / "study.yaml").is_file() else Study.load(study).folder
    if not folder.study_yaml.is_file():
        raise StoreError(
            f"opening the study {str(study)!r}",
            found=f"it was not begun in {folder.path}",
            remedy="Run it first (`vestige run`), or give the folder that it lies in",
        )
    return folder


def read_side(folder: StudyFolder, label: str) -> Side:
    """A study as the comparison needs it. Its images need not be here: what they were stands in its `facts.json`.

    Raises:
      StoreError: nothing of it is measured, or a file of it is damaged.
    """
    from vestige.study.results import gather, read_manifests

    study = Study.load(folder.path)
    plan = recorded_plan(study)
    tables = gather(plan, folder) if plan else {}
    if all(table.is_empty() for table in tables.values()):
        raise StoreError(
            f"comparing the study in {folder.path}",
            found="nothing of it is trained or measured with its settings",
            remedy=f"Run it first: `vestige run {folder.path}`",
        )
    assert plan is not None, "without a plan there are no tables"
    manifests = read_manifests(plan, folder)
    claims, note = _claims(study.config, plan, folder, tables)
    others = _others(plan, folder, manifests)
    return Side(label, folder.path.resolve().name, study.config, tables, claims, manifests, note, others)


def recorded_plan(study: Study) -> Plan | None:
    """The plan by what was found in the study's images and network when it was begun; None where that is not kept."""
    path = study.folder.path / "facts.json"
    if not path.is_file():
        return None
    try:
        return make_plan(study.config, decode(read_json(path)))
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"reading {path}",
            found=f"it is damaged: {error}",
            remedy=f"Delete it and run `vestige report {study.folder.path}`, which makes it again",
        ) from error


def _others(plan: Plan, folder: StudyFolder, manifests: Mapping[tuple[str, int], Manifest]) -> dict[str, int]:
    """How many tables of each kind the manifests name that were made by other settings or formulas."""
    found: Counter[str] = Counter()
    for (condition, seed), manifest in manifests.items():
        run = folder.run(condition, seed)
        for job in plan.jobs(condition):
            for step, (_, weights) in manifest.checkpoints.items():
                path = run.table(job.tables[0], step)
                known = path.relative_to(run.path).as_posix() in manifest.artifacts
                if known and not manifest.has(run, path, plan.job_key(job, weights.sha256)):
                    found[job.kind] += 1
    return dict(found)


def _claims(
    config: StudyConfig, plan: Plan, folder: StudyFolder, tables: dict[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """The verdicts that belong to the tables: as they stand, else judged now and not written."""
    if config.claims is None:
        return None, ""
    from vestige.claims.verdicts import judge_study
    from vestige.study.results import input_key

    stored = read_json(folder.claims) if folder.claims.is_file() else {}
    if stored.get("key") == input_key(plan, folder, "claims"):
        return stored, ""
    why = "its claims.json is of other tables or another version" if stored else "it has no claims.json"
    judged = judge_study(config, tables, classes=len(plan.facts.class_names))
    return judged, f"judged now, for {why}"
