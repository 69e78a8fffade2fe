"""The folders that `vestige measure`, `ablate` and `linearity --model ...` write, and what is made already.

```
measured.json                 what was measured and how; one entry a checkpoint, with the hash of its inputs
selectivity.parquet           one row a neuron and protocol      (several: selectivity/step-00000128.parquet)
class_means.safetensors       PROTOCOL/LAYER, classes x neurons  (several: class_means/step-00000128.safetensors)
skipped.txt                   images that were left out, where there are any
report.html
```
```
ablated.json                  what was ablated and how; one entry a checkpoint, with the hash of its inputs
ablation.parquet  ablation_by_class.parquet  ranking.parquet  groups.parquet  cumulative.parquet
per_input/VALUE/LAYER.npy     neurons x images
pieces/                       finished work, from which the tables are; it may be deleted when all is done
ablation.html
```
```
linearity.json                what was measured and how; one entry a checkpoint, with the hash of its inputs
linearity.parquet             one row a measure, layer and what it is compared with
linearity.html
pieces/                       the linear model that networks are compared with; it may be deleted when all is done
```
Of several checkpoints each has the tables of ablation and linearity, `per_input` and `pieces` in
`checkpoints/step-00000128`; the tables in the folder itself hold all of them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from vestige.config import differences
from vestige.errors import StoreError
from vestige.runs.manifest import Artifact
from vestige.runs.store import read_json, try_lock, write_json, write_table, write_tensors, write_text

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
RECORDS = ("measured.json", "ablated.json", "linearity.json")
"""A folder may hold the records of several commands side by side."""


@dataclass(frozen=True)
class ResultFolder:
    """The folder of what a command found out about a foreign model."""

    kind: ClassVar[str]
    """What the record says that it is."""
    record_name: ClassVar[str]
    page_name: ClassVar[str]
    doing: ClassVar[str]
    """What an error says was being done: `measuring into`."""

    path: Path

    @property
    def record(self) -> Path:
        """`measured.json`."""
        return self.path / self.record_name

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / self.page_name

    @property
    def skipped(self) -> Path:
        """Images that could not be read, one a line."""
        return self.path / "skipped.txt"

    def read(self) -> dict[str, Any]:
        """What was recorded; empty where nothing is.

        Raises:
          StoreError: the record is damaged.
        """
        return read_json(self.record) if self.record.exists() else {}

    @property
    def _lock(self) -> str:
        return f".{self.kind.replace(' ', '-')}.lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out.

        Raises:
          StoreError: another one is at work here, or the folder cannot be written.
        """
        with try_lock(self.path / self._lock) as held:
            if not held:
                raise StoreError(
                    f"{self.doing} {self.path}",
                    found="another vestige is at work in it",
                    remedy="Wait until it has ended, or give another --out",
                )
            yield

    def refuse_others(self, identity: Mapping[str, Any]) -> None:
        """Make sure that the folder is new, or holds a measurement of the same kind.

        Args:
          identity: everything but the weights that can change a number.

        Raises:
          StoreError: it holds something else, or was made by other settings.
        """
        doing, remedy = f"{self.doing} {self.path}", "Give another --out"
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(doing, found="it is a file", remedy=remedy)
        if not self.record.exists():
            there = self._other_things()
            if there and not any((self.path / name).exists() for name in RECORDS):
                found = f"it holds other things: {', '.join(there[:3])}{', ...' if len(there) > 3 else ''}"
                raise StoreError(doing, found=found, remedy=remedy)
            return
        stored = self.read()
        if stored.get("kind") != self.kind or stored.get("version") != VERSION:
            raise StoreError(doing, found=f"its {self.record_name} is not of this version of vestige", remedy=remedy)
        differing = [
            f"{name} is {_short(new)}, was {_short(old)}"
            for name, new, old in differences(identity, stored["identity"])
        ]
        if differing:
            found = f"what it holds was made by other settings: {'; '.join(differing[:4])}"
            raise StoreError(doing, found=found, remedy=f"{remedy}, or delete it")

    def is_done(self, entry: Mapping[str, Any] | None, key: str, *, verify: bool = False) -> bool:
        """Whether a checkpoint's files, or those of a whole record, are made from these inputs and whole."""
        return bool(
            entry
            and entry["key"] == key
            and all(
                Artifact(**one).is_whole(self.path / name, verify=verify) for name, one in entry["artifacts"].items()
            )
        )

    def artifacts(self, paths: Iterable[Path], key: str) -> dict[str, dict[str, Any]]:
        """What the record holds of files that were written, by their paths in the folder."""
        return {path.relative_to(self.path).as_posix(): asdict(Artifact.of(path, key, 0.0)) for path in paths}

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record."""
        write_json(self.record, {"kind": self.kind, "version": VERSION, **record})

    def write_skipped(self, lines: Sequence[str]) -> None:
        """Name the images that were left out; the file is not there where none were."""
        if lines:
            write_text(self.skipped, "".join(f"{line}\n" for line in lines))

    def _other_things(self) -> list[str]:
        """What lies there, but for what does before anything is written."""
        names = sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
        return [name for name in names if name != "pieces" and not name.startswith(".vestige-")]


@dataclass(frozen=True)
class MeasuredFolder(ResultFolder):
    """The folder of a measurement of one model with one or several sets of weights."""

    kind = "vestige measure"
    record_name = "measured.json"
    page_name = "report.html"
    doing = "measuring into"

    def table(self, label: str | None) -> Path:
        """The table of a checkpoint; of the only one where `label` is None."""
        return self.path / ("selectivity.parquet" if label is None else f"selectivity/{label}.parquet")

    def class_means(self, label: str | None) -> Path:
        """Its class means."""
        return self.path / ("class_means.safetensors" if label is None else f"class_means/{label}.safetensors")

    def write(
        self,
        label: str | None,
        key: str,
        table: pl.DataFrame,
        means: Mapping[str, "Tensor"],
        settings: Mapping[str, str],
    ) -> dict[str, dict[str, Any]]:
        """Write a checkpoint's files; return what the record holds of them."""
        write_tensors(self.class_means(label), means, settings)
        write_table(self.table(label), table, settings)
        return self.artifacts((self.class_means(label), self.table(label)), key)

    def tables(self, record: Mapping[str, Any]) -> list[pl.DataFrame]:
        """The tables that a record names, in its order.

        Raises:
          StoreError: one is gone or damaged.
        """
        return [_read_table(self.path / entry["table"]) for entry in record["checkpoints"]]


@dataclass(frozen=True)
class TabledFolder(ResultFolder):
    """A folder in which each of several sets of weights has a folder of its tables."""

    def of(self, label: str | None) -> Path:
        """Where the files of a checkpoint lie; of the only one where `label` is None."""
        return self.path if label is None else self.path / "checkpoints" / label


@dataclass(frozen=True)
class AblatedFolder(TabledFolder):
    """The folder of an ablation of one model with one or several sets of weights."""

    kind = "vestige ablate"
    record_name = "ablated.json"
    page_name = "ablation.html"
    doing = "ablating into"


@dataclass(frozen=True)
class LinearityFolder(TabledFolder):
    """The folder of how linear one model is with one or several sets of weights."""

    kind = "vestige linearity"
    record_name = "linearity.json"
    page_name = "linearity.html"
    doing = "measuring linearity into"

    @property
    def linear_model(self) -> Path:
        """The linear model that all sets of weights are compared with."""
        return self.path / "pieces" / "linear-model.safetensors"


def labels(names: Sequence[str], steps: Sequence[int | None]) -> list[str]:
    """What the files of each checkpoint are called: by its step; without one, by the name of its file."""
    chosen = [f"step-{step:08d}" if step is not None else _slug(name) for name, step in zip(names, steps, strict=True)]
    return [
        label if chosen.count(label) == 1 else f"{label}-{chosen[:i].count(label) + 1}"
        for i, label in enumerate(chosen)
    ]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rpartition(".")[0] or name).strip("-.") or "weights"


def _short(value: Any) -> str:
    text = "not there" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _read_table(path: Path) -> pl.DataFrame:
    from vestige.runs.store import damaged

    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise damaged(path, " ".join(str(error).split())) from error
