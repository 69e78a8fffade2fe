"""Tables of every set of weights, and of all together: made once, killed at any moment and gone on with."""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import polars as pl

from vestige.errors import VestigeError
from vestige.foreign.bench import Bench
from vestige.foreign.counting import Counting
from vestige.foreign.folder import TabledFolder
from vestige.foreign.record import entry_of, record_of
from vestige.foreign.turns import Entry, Outcome, duplicates, in_turn, notes_of
from vestige.foreign.weight_files import WeightFile
from vestige.report.foreign_page import shown_checkpoint
from vestige.runs.store import value_hash, write_table


class Made(NamedTuple):
    """What was made of one set of weights: tables by name, and what the record holds of it, given the seconds."""

    frames: Mapping[str, pl.DataFrame]
    found: Any
    skipped: Sequence[str]


@dataclass(frozen=True)
class Tabling(ABC):
    """The work on one folder."""

    doing: ClassVar[str]
    """What is being done to each set of weights, and was: `ablating`, `ablated`."""
    done: ClassVar[str]
    through: ClassVar[str]
    """The table whose numbers the page shows through all sets of weights."""

    bench: Bench
    folder: TabledFolder

    @abstractmethod
    def key(self, file: WeightFile) -> str:
        """Hash of everything that can change the tables of a set of weights."""

    @abstractmethod
    def counted(self, files: int, done: Collection[str], *, show: bool) -> AbstractContextManager[Counting]:
        """What shows how it goes on, with so many files to do; `done`: hashes of those that are done."""

    @abstractmethod
    def make(self, file: WeightFile, label: str | None, count: Counting) -> Made:
        """Make the tables of a set of weights, whose files are called so."""

    @abstractmethod
    def write_page(
        self, record: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], through: pl.DataFrame | None
    ) -> None:
        """Write the page of the tables that `shown_checkpoint` names, and of those of all checkpoints."""

    @abstractmethod
    def lines(self, record: Mapping[str, Any], entry: Entry) -> list[str]:
        """What is said of a set of weights."""

    def notes(self, record: Mapping[str, Any]) -> list[str]:
        """What must be said once the work is done."""
        return notes_of(self.bench, record, self.done)

    def run(self, *, verify: bool, show: bool) -> Outcome:
        """Do what is not done.

        Args:
          verify: hash files that are there again, rather than trust their size.
          show: how it goes on.

        Raises:
          VestigeError: nothing could be done.
        """
        bench, folder = self.bench, self.folder
        record = folder.read()
        stored = {entry["weights"]: entry for entry in record.get("checkpoints", ())}
        keys = {file.hash: self.key(file) for file, _ in bench.chosen}
        done = {
            name: stored[name] for name, key in keys.items() if folder.is_done(stored.get(name), key, verify=verify)
        }
        made = not (len(done) == len(keys) and folder.is_done(record, value_hash([*keys.values()]), verify=verify))
        failed: list[VestigeError] = []
        if made:
            with folder.alone():
                if bench.request.checkpoints:  # so that it is known whose the folder is
                    self._write_record([*done.values()], failed)
                with self.counted(len(keys) - len(done), tuple(done), show=show) as count:
                    work = partial(self._made, keys=keys, count=count)
                    entries, failed = in_turn(bench, done, work, count, self.doing, self._write_record)
                record = self._finish(entries, failed)
        outcome = Outcome(folder, errors=[*bench.unreadable, *failed], made=made)
        outcome.notes = self.notes(record) if made else duplicates(bench, self.done)
        outcome.lines = [line for entry in record["checkpoints"] for line in self.lines(record, entry)]
        return outcome

    def _made(self, file: WeightFile, label: str | None, *, keys: Mapping[str, str], count: Counting) -> Entry:
        bench, began, key = self.bench, time.perf_counter(), keys[file.hash]
        if bench.request.checkpoints:
            bench.subject.load(file.path)
        made = self.make(file, label, count)
        paths = {name: self.folder.of(label) / f"{name}.parquet" for name in made.frames}
        for name, frame in made.frames.items():
            write_table(paths[name], frame, {**self._about(key), "weights": file.hash})
        self.folder.write_skipped(made.skipped)
        seconds = time.perf_counter() - began
        tables = {name: path.relative_to(self.folder.path).as_posix() for name, path in paths.items()}
        artifacts = self.folder.artifacts(paths.values(), key)
        return entry_of(bench, file, key, [made.found(seconds)], seconds, tables=tables, artifacts=artifacts)

    def _about(self, key: str) -> dict[str, str]:
        return {"vestige": self.folder.kind.removeprefix("vestige "), "key": key}

    def _write_record(self, entries: Sequence[Entry], failed: Sequence[VestigeError], **more: Any) -> dict[str, Any]:
        record = {"key": "", "artifacts": {}, **record_of(self.bench, entries, failed), **more}
        self.folder.write_record(record)
        return record

    def _finish(self, entries: Sequence[Entry], failed: Sequence[VestigeError]) -> dict[str, Any]:
        """Write the tables of all sets of weights, where there may be several, the record and the page."""
        key, paths = value_hash([entry["key"] for entry in entries]), []
        if self.bench.request.checkpoints:
            for name in dict.fromkeys(name for entry in entries for name in entry["tables"]):
                parts = [pl.read_parquet(self.folder.path / entry["tables"][name]) for entry in entries]
                paths.append(self.folder.path / f"{name}.parquet")
                write_table(paths[-1], pl.concat(parts), self._about(key))
        record = self._write_record(entries, failed, key=key, artifacts=self.folder.artifacts(paths, key))
        shown = entries[shown_checkpoint(record)]["tables"]
        read = {name: pl.read_parquet(self.folder.path / path) for name, path in shown.items()}
        through = pl.read_parquet(self.folder.path / f"{self.through}.parquet") if paths else None
        self.write_page(record, read, through)
        return record
