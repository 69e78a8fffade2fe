"""`vestige measure` on somebody's model: every set of weights measured once, killed at any moment and run again."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
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
from vestige.foreign.record import entry_of, record_of, result_of
from vestige.foreign.request import Request, checked
from vestige.foreign.turns import Entry, Outcome, in_turn, notes_of
from vestige.foreign.weight_files import WeightFile
from vestige.runs.tables import conform
from vestige.training.runtime import session


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


def _key(bench: Bench, file: WeightFile, start: WeightFile | None) -> str:
    """Hash of everything that can change the numbers of a file's table; `start`: that of step 0, where there is one."""
    initial = start.hash if start and start.hash != file.hash else None
    return bench.key(file, ("selectivity",), initial=initial)


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
        bench = self.bench
        start = next((file for file, _ in bench.chosen if file.step == 0), None)
        stored = {entry["weights"]: entry for entry in self.folder.read().get("checkpoints", ())} if self.first else {}
        whole = [file.hash for file, _ in bench.chosen if self._is_done(stored.get(file.hash), file, start)]
        done = {hashed: stored.get(hashed, {}) for hashed in from_first(whole)}
        passes = (len(bench.chosen) - len(done)) * len(bench.protocols)
        with counting(passes, bench.inputs.images if passes else None, show=show) as count:
            work = partial(self._measured, start=start, count=count)
            entries, failed = in_turn(bench, done, work, count, "measuring", self._write_record)
        outcome = Outcome(self.folder, errors=[*bench.unreadable, *failed], printing=self.first)
        if self.first:
            self._finish(self._write_record(entries, failed), outcome)
        return outcome

    def _write_record(self, entries: list[Entry], failed: list[VestigeError]) -> dict[str, Any]:
        record = record_of(self.bench, entries, failed) if self.first else {}
        if self.first:
            self.folder.write_record(record)
        return record

    def _is_done(self, entry: dict[str, Any] | None, file: WeightFile, start: WeightFile | None) -> bool:
        return self.first and self.folder.is_done(entry, _key(self.bench, file, start), verify=self.verify)

    def _measured(self, file: WeightFile, label: str | None, *, start: WeightFile | None, count: Counting) -> Entry:
        """Measure a set of weights by every protocol, and write its files."""
        bench, began = self.bench, time.perf_counter()
        if file.name:
            bench.subject.load(file.path)
        frames, means, results = [], {}, []
        for protocol in bench.protocols:
            table, part, result = self._by_protocol(file, protocol, start, count)
            frames.append(table)
            means |= part
            results.append(result)
        key, seconds = _key(bench, file, start), time.perf_counter() - began
        table = self.folder.table(label).relative_to(self.folder.path).as_posix()
        entry = entry_of(bench, file, key, results, seconds, table=table)
        if self.first:
            metadata = {"vestige": "measure", "key": key, "weights": file.hash}
            entry["artifacts"] = self.folder.write(label, key, pl.concat(frames), means, metadata)
        return entry

    def _by_protocol(
        self, file: WeightFile, protocol: str, start: WeightFile | None, count: Counting
    ) -> tuple[pl.DataFrame, dict[str, torch.Tensor], dict[str, Any]]:
        bench, began, processes = self.bench, time.perf_counter(), world()
        count.begin(f"{file.name} ({protocol})")
        initial = from_first(self._initial(file, start, protocol))
        result = bench.measure(protocol, initial, lambda done, of: count.at(done * processes, of))
        table = conform(result.table, "selectivity", **bench.rows_of(file), protocol=protocol, n=result.n)
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
        """Write the page, and say what was found."""
        from vestige.report.measured import write_measured

        tables = self.folder.tables(record)
        write_measured(self.folder.report, record, tables)
        outcome.notes = notes_of(self.bench, record, "measured")
        for entry, table in zip(record["checkpoints"], tables, strict=True):
            for result in entry["results"]:
                outcome.lines.append(summary(entry, result, table.filter(protocol=result["protocol"])))
