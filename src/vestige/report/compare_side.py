"""One of two studies that are compared: its settings, tables and verdicts, read only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from vestige.config import StudyConfig
from vestige.report.figures.source import Source
from vestige.report.panels import Key
from vestige.report.style import count
from vestige.runs.manifest import Manifest


@dataclass(frozen=True)
class Side:
    """One of the two studies.

    Attributes:
      label: A or B.
      folder: the name of its folder.
      study: its settings.
      tables: by kind, see `page.write_report`.
      claims: its verdicts; None where it claims nothing.
      manifests: of every run that was begun, by condition and seed.
      note: on its verdicts.
      left_out: how many tables of a kind are there that do not belong to its settings.
    """

    label: str
    folder: str
    study: StudyConfig
    tables: Mapping[str, pl.DataFrame]
    claims: Mapping[str, Any] | None
    manifests: Mapping[tuple[str, int], Manifest]
    note: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`A · digits`: two studies may have one name."""
        return f"{self.label} · {self.study.name}"

    @property
    def key(self) -> Key:
        """Its legend entry: a colour and a dash of its own."""
        return Key(self.name, *((1, "solid") if self.label == "A" else (2, "dash")))

    @cached_property
    def source(self) -> Source:
        """What its figures are drawn from."""
        return Source(self.study, self.tables, self.claims, self.manifests, (self.claims or {}).get("classes"))

    def rows(self, kind: str) -> pl.DataFrame:
        """The rows of its baseline: corrected protocol, the split that the study measures, the study's seeds."""
        table = self.source.table(kind).filter(pl.col("seed").is_in(self.study.seeds), condition=self.source.baseline)
        wanted = getattr(self.study.measurements, kind, None)
        if kind == "history":
            return table
        split = wanted.split if wanted else "test"
        return table.filter(protocol="corrected", split=split)

    def state(self) -> list[str]:
        """What a reader must know of it before anything else."""
        runs = len(self.study.conditions) * len(self.study.seeds)
        whole = sum(manifest.complete for manifest in self.manifests.values())
        said = [f"{whole} of {count(runs, 'training run')} complete."] if whole < runs else []
        said += [
            f"Training of {condition}, seed {seed}, stopped: {manifest.failed}."
            for (condition, seed), manifest in self.manifests.items()
            if manifest.failed
        ]
        if len(self.study.seeds) < 3:
            said.append(f"{count(len(self.study.seeds), 'seed')}: fewer than 3 can support no claim.")
        said += [
            f"{count(tables, 'table')} of {kind} of other settings, or by another version of vestige: left out."
            for kind, tables in self.left_out.items()
        ]
        if self.note:
            said.append(f"Its verdicts were {self.note}.")
        if self.claims and self.claims.get("note"):
            said.append(f"Of its verdicts: {self.claims['note']}.")
        return [f"{self.label}: {line}" for line in said]


def files(side: Side, kind: str) -> str:
    """Where its tables of a kind lie."""
    return f"{side.folder}/runs/*/*/" + ("history.parquet" if kind == "history" else f"{kind}-*/*.parquet")
