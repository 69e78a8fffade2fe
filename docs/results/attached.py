"""A study's tables, small enough to be kept beside its page, and its verdicts and report made again from them.

    python docs/results/attached.py pack STUDY_FOLDER docs/results/NAME
    python docs/results/attached.py rebuild docs/results/NAME OUT

`pack` writes `study.yaml`, `runs.json` (what made each run, without weights and files) and a Parquet file for each kind
of table, its float32 columns rounded to 12 bits (a part in 4,096): half the size, and no figure shows more. `rebuild`
judges the claims anew and writes the report, as `vestige claims` and `vestige report` do.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from vestige.acting import ConditionConfig
from vestige.claims.departures import judge_departures
from vestige.claims.verdicts import judge_study
from vestige.config import ComputeConfig, StudyConfig, dump_study, load_study
from vestige.data.fingerprint import dataset_name
from vestige.report.page import write_report
from vestige.runs.manifest import Artifact, Manifest, read_manifest
from vestige.runs.store import StudyFolder, write_json, write_text
from vestige.study.results import gather
from vestige.study.study import Study

BITS_DROPPED = 12
"""Of the 24 of a float32's mantissa."""
MADE = ("complete", "failed", "seconds", "parent", "made", "measured")


class Attached(NamedTuple):
    """What was packed."""

    study: StudyConfig
    facts: dict[str, Any]
    tables: dict[str, pl.DataFrame]
    manifests: dict[tuple[str, int], Manifest]

    @classmethod
    def read(cls, folder: Path) -> "Attached":
        """What `pack` wrote."""
        stored = json.loads((folder / "runs.json").read_text())
        tables = {path.stem: pl.read_parquet(path) for path in sorted((folder / "tables").glob("*.parquet"))}
        return cls(load_study(folder / "study.yaml"), stored["facts"], tables, _manifests(stored["runs"]))

    def claims(self) -> dict[str, Any]:
        """The verdicts, judged from the tables, and what each departure of the released code would make of them."""
        classes = self.facts["classes"]
        found = judge_study(self.study, self.tables, classes=classes)
        return {**found, "departures": judge_departures(self.study, self.tables, found, classes=classes)}


def pack(study_folder: Path, target: Path) -> None:
    """Write what `Attached.read` reads."""
    study = Study.load(study_folder)
    plan = study.plan()
    assert plan is not None, "the study has not been run"
    kept = trained(study.config, study.folder)
    (target / "tables").mkdir(parents=True, exist_ok=True)
    tables = {
        kind: table.filter(pl.col("condition").is_in(list(kept))) for kind, table in gather(plan, study.folder).items()
    }
    for kind, table in tables.items():
        if len(table):
            path = target / "tables" / f"{kind}.parquet"
            rounded(table).write_parquet(path, compression="zstd", compression_level=19)
            print(f"{path.name}: {len(table):,} rows, {path.stat().st_size / 1e6:.2f} MB")
    runs = []
    for condition in kept:
        for seed in study.config.seeds:
            manifest = read_manifest(study.folder.run(condition, seed))
            steps = {step: epoch for step, (epoch, _) in manifest.checkpoints.items()}
            made = {name: getattr(manifest, name) for name in MADE}
            runs.append({"condition": condition, "seed": seed, "checkpoints": steps, **made})
    facts = {
        "classes": len(plan.facts.class_names),
        "train_images": plan.facts.train_images,
        "total_steps": plan.total_steps,
    }
    write_json(target / "runs.json", {"facts": facts, "runs": runs})
    data = study.config.data
    names = {split: dataset_name(getattr(data, split)) for split in ("train", "test")}
    settings = {"data": data.model_copy(update=names), "compute": ComputeConfig(), "conditions": kept}
    config = study.config.model_copy(update=settings)
    write_text(target / "study.yaml", dump_study(config))
    there, here = judge_study(config, tables, classes=facts["classes"]), Attached.read(target).claims()
    assert verdicts(there) == verdicts(here), "rounding changed a verdict"


def trained(study: StudyConfig, folder: StudyFolder) -> dict[str, ConditionConfig]:
    """The conditions whose runs are all complete; the others are named and left out."""
    kept = {
        name: condition
        for name, condition in study.conditions.items()
        if all(read_manifest(folder.run(name, seed)).complete for seed in study.seeds)
    }
    if left_out := sorted(set(study.conditions) - set(kept)):
        print(f"left out, for not all of their runs are complete: {', '.join(left_out)}")
    return kept


def rebuild(source: Path, out: Path) -> None:
    """Write the report and `claims.json` from what was packed."""
    attached, folder = Attached.read(source), StudyFolder(out)
    claims = attached.claims()
    write_json(folder.claims, claims)
    print(write_report(folder, attached.study, attached.tables, claims, attached.manifests))


def draw(attached: Attached, claims: dict[str, Any], folder: Path, figures: Mapping[str, str]) -> str:
    """Draw the report's figures and keep some beside the tables.

    Args:
      figures: what each is called on the page, by its name.

    Returns:
      The page's lines for those that there are.
    """
    with tempfile.TemporaryDirectory() as made:
        write_report(StudyFolder(Path(made)), attached.study, attached.tables, claims, attached.manifests)
        there = [name for name in figures if (Path(made) / "report" / "figures" / f"{name}.png").exists()]
        for name in there:
            shutil.copy(Path(made) / "report" / "figures" / f"{name}.png", folder)
    return "\n\n".join(f"![{figures[name]}]({folder.name}/{name}.png)" for name in there)


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """The table with its float32 columns rounded to the nearest that ends in `BITS_DROPPED` zeros."""
    unit = np.uint32(1 << BITS_DROPPED)

    def one(column: pl.Series) -> pl.Series:
        bits = column.to_numpy().view(np.uint32)
        near = np.where(np.isfinite(column.to_numpy()), (bits + unit // 2) & ~(unit - 1), bits)
        return pl.Series(column.name, near.view(np.float32)).set(column.is_null(), None)

    return table.with_columns(one(table[name]) for name, dtype in table.schema.items() if dtype == pl.Float32)


def verdicts(claims: dict[str, Any]) -> dict[str, str]:
    """By id of claim and clause."""
    return {part["id"]: part["verdict"] for claim in claims["claims"] for part in (claim, *claim["clauses"])}


def _manifests(runs: list[dict[str, Any]]) -> dict[tuple[str, int], Manifest]:
    weights = Artifact("", 0, "", 0.0)  # not kept
    return {
        (run["condition"], run["seed"]): Manifest(
            checkpoints={int(step): (epoch, weights) for step, epoch in run["checkpoints"].items()},
            **{name: run[name] for name in MADE},
        )
        for run in runs
    }


if __name__ == "__main__":
    {"pack": pack, "rebuild": rebuild}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
