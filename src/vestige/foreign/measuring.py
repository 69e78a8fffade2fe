"""`vestige measure` on somebody's model: every set of weights measured once, killed at any moment and run again."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch

from vestige.config import ComputeConfig
from vestige.errors import VestigeError
from vestige.foreign.bench import Bench
from vestige.foreign.counting import Counting, counting
from vestige.foreign.folder import MeasuredFolder, labels
from vestige.foreign.notes import summary
from vestige.foreign.processes import from_first, joined, of_all, own_device, world
from vestige.foreign.record import record_of, result_of
from vestige.foreign.request import Request, checked
from vestige.foreign.weight_files import WeightFile
from vestige.runs.tables import conform
from vestige.training.runtime import session


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
      folder: where everything is.
      lines: what was found, one for each set of weights and protocol.
      notes: what must be said aloud.
      errors: of the files that could not be measured.
      printing: whether this process is the one that prints.
    """

    folder: MeasuredFolder
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[VestigeError] = field(default_factory=list)
    printing: bool = True


def measure_foreign(request: Request, *, verify: bool = False, show: bool = True) -> Outcome:
    """Measure a model with one set of weights, or with each in a folder; what is measured already is left as it is.

    Under `torchrun` the processes share the images; the first writes and shows.

    Args:
      request: what to do.
      verify: hash files that are there again, rather than trust their size.
      show: how it goes on, on standard error.

    Raises:
      VestigeError: nothing can be measured; what was there stays.
    """
    request = checked(request)
    compute = ComputeConfig(device=own_device(request.device), threads=request.threads or torch.get_num_threads())
    with session(compute) as device, joined(device) as first:
        folder = MeasuredFolder(request.folder)
        try:
            bench = Bench.opened(request, device)
            problem = _refusal(folder, bench) if first else None
        except VestigeError:
            if not first:  # the first process meets the same, and says so
                raise SystemExit(2) from None
            raise
        if problem := from_first(problem):
            raise problem if first else SystemExit(2)
        with folder.alone() if first else nullcontext():
            return _Measuring(bench, folder, first, verify).run(show=show and first)


def _refusal(folder: MeasuredFolder, bench: Bench) -> VestigeError | None:
    try:
        folder.refuse_others(bench.identity)
    except VestigeError as error:
        return error
    return None


@dataclass(frozen=True)
class _Measuring:
    """The work on one folder. In all but the first process, whose `first` is true, nothing is written."""

    bench: Bench
    folder: MeasuredFolder
    first: bool
    verify: bool

    def run(self, *, show: bool) -> Outcome:
        bench, outcome = self.bench, Outcome(self.folder, printing=self.first)
        failed: list[VestigeError] = []
        chosen = [file for file in bench.files if file.measured]
        names = self._labels(chosen)
        start = next((file for file in chosen if file.step == 0), None)
        stored = {entry["weights"]: entry for entry in self.folder.read().get("checkpoints", ())} if self.first else {}
        done = from_first([file.hash for file in chosen if self._is_done(stored.get(file.hash), file, start)])
        entries: dict[str, dict[str, Any]] = {hashed: stored.get(hashed, {}) for hashed in done}
        passes = (len(chosen) - len(done)) * len(bench.protocols)
        with counting(passes, bench.inputs.images if passes else None, show=show) as count:
            for file, label in zip(chosen, names, strict=True):
                if file.hash in done:
                    continue
                try:
                    entries[file.hash] = self._measured(file, label, start, count)
                except VestigeError as error:
                    if world() > 1 or not bench.request.checkpoints:
                        raise
                    doing = f"measuring {file.path}"
                    failed.append(type(error)(doing, found=f"{error.doing}: {error.found}", remedy=error.remedy))
                    count.say(f"failed: {file.name}; the others go on")
                    continue
                if self.first:
                    self.folder.write_record(record_of(bench, _in_order(entries, chosen), failed))
        outcome.errors = [*(file.error for file in bench.files if file.error), *failed]
        if not entries and outcome.errors:
            raise outcome.errors[0]
        if self.first:
            self._finish(record_of(bench, _in_order(entries, chosen), failed), outcome)
        return outcome

    def _labels(self, chosen: list[WeightFile]) -> list[str | None]:
        if not self.bench.request.checkpoints:
            return [None]
        return list(labels([file.name for file in chosen], [file.step for file in chosen]))

    def _is_done(self, entry: dict[str, Any] | None, file: WeightFile, start: WeightFile | None) -> bool:
        return self.first and self.folder.is_done(entry, self.bench.key(file, start), verify=self.verify)

    def _measured(
        self, file: WeightFile, label: str | None, start: WeightFile | None, count: Counting
    ) -> dict[str, Any]:
        """Measure a set of weights by every protocol, and write its files."""
        bench, began = self.bench, time.perf_counter()
        if file.name:
            bench.subject.load(file.path)
        condition = file.name if label and file.step is None else bench.request.model
        frames, means, results = [], {}, []
        for protocol in bench.protocols:
            table, part, result = self._by_protocol(file, condition, protocol, start, count)
            frames.append(table)
            means |= part
            results.append(result)
        entry = {
            "file": file.name,
            "step": file.step,
            "epoch": file.epoch,
            "condition": condition,
            "weights": file.hash,
            "key": bench.key(file, start),
            "table": self.folder.table(label).relative_to(self.folder.path).as_posix(),
            "seconds": round(time.perf_counter() - began, 3),
            "results": results,
        }
        if self.first:
            metadata = {"vestige": "measure", "key": entry["key"], "weights": file.hash}
            entry["artifacts"] = self.folder.write(label, entry["key"], pl.concat(frames), means, metadata)
        return entry

    def _by_protocol(
        self, file: WeightFile, condition: str, protocol: str, start: WeightFile | None, count: Counting
    ) -> tuple[pl.DataFrame, dict[str, torch.Tensor], dict[str, Any]]:
        bench, began, processes = self.bench, time.perf_counter(), world()
        count.begin(f"{file.name} ({protocol})")
        initial = from_first(self._initial(file, start, protocol))
        result = bench.measure(protocol, initial, lambda done, of: count.at(done * processes, of))
        table = conform(
            result.table,
            "selectivity",
            condition=condition,
            seed=None,
            step=file.step,
            epoch=file.epoch,
            protocol=protocol,
            dataset=bench.inputs.name,
            split="",
            n=result.n,
        )
        means = {f"{protocol}/{name}": torch.as_tensor(value).float() for name, value in result.class_means.items()}
        means[f"{protocol}/class_counts"] = torch.as_tensor(result.class_counts)
        skipped = of_all(bench.inputs.skipped)
        if self.first:
            self.folder.write_skipped(skipped)
        seconds = time.perf_counter() - began
        return table, means, result_of(bench, file, result, skipped=len(skipped), seconds=seconds)

    def _initial(self, file: WeightFile, start: WeightFile | None, protocol: str) -> pl.DataFrame | None:
        """The table of step 0, for the measurement of a later one."""
        if not self.first or start is None or start.hash == file.hash:
            return None
        path = self.folder.table(labels([start.name], [0])[0])
        return pl.read_parquet(path).filter(protocol=protocol) if path.exists() else None

    def _finish(self, record: dict[str, Any], outcome: Outcome) -> None:
        """Write the record and the page, and say what was found."""
        from vestige.report.measured import write_measured

        self.folder.write_record(record)
        tables = self.folder.tables(record)
        write_measured(self.folder.report, record, tables)
        outcome.notes = _said(record)
        for entry, table in zip(record["checkpoints"], tables, strict=True):
            for result in entry["results"]:
                outcome.lines.append(summary(entry, result, table.filter(protocol=result["protocol"])))
        for file in self.bench.files:
            if file.duplicate_of:
                outcome.notes.append(f"{file.name} holds the same weights as {file.duplicate_of}: measured once.")


def _said(record: dict[str, Any]) -> list[str]:
    """Every note once; one that does not hold of all files, with the names of those it holds of."""
    said: dict[str, list[str]] = {}
    for entry in record["checkpoints"]:
        for note in dict.fromkeys(note for result in entry["results"] for note in result["notes"]):
            said.setdefault(note, []).append(entry["file"])
    every = len(record["checkpoints"])
    return record["notes"] + [note if len(of) == every else f"{', '.join(of)}: {note}" for note, of in said.items()]


def _in_order(entries: dict[str, dict[str, Any]], chosen: list[WeightFile]) -> list[dict[str, Any]]:
    return [entries[file.hash] for file in chosen if entries.get(file.hash)]
