"""`vestige ablate` on somebody's model: pieces of work shared by processes, killed at any moment and run again."""

import os
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from vestige.config import ComputeConfig
from vestige.errors import ConfigError, VestigeError
from vestige.foreign.bench import KEYED, Bench
from vestige.foreign.counting import Counting, counting
from vestige.foreign.folder import AblatedFolder
from vestige.foreign.record import ablation_of, entry_of, record_of
from vestige.foreign.request import AblationRequest, checked
from vestige.foreign.turns import Entry, Outcome, in_turn, notes_of
from vestige.foreign.weight_files import WeightFile
from vestige.foreign.workers import helped
from vestige.measurement.ablation.ablating import AblationResult, ablate
from vestige.measurement.ablation.budget import memory_bytes
from vestige.measurement.ablation.cumulating import CumulativeResult, ablate_cumulatively
from vestige.runs.manifest import provenance
from vestige.runs.store import value_hash, write_table
from vestige.runs.tables import SCHEMA_VERSIONS, SCHEMAS, conform
from vestige.training.runtime import choose_device, session

_ADDING = ("layers", "value", "mode", "precision", "neurons", "groups", "cumulative", "per_input")
"""Options that say what is wanted, and change nothing that is there."""


def ablate_foreign(request: AblationRequest, *, verify: bool = False, show: bool = True) -> Outcome:
    """Ablate the neurons of a model with one set of weights, or with each in a folder; what is done is left as it is.

    Args:
      request: what to do.
      verify: hash files that are there again, rather than trust their size.
      show: how it goes on, on standard error.

    Raises:
      VestigeError: nothing can be done; what was there stays.
    """
    request = _settled(checked(request))
    folder = AblatedFolder(request.folder)
    with session(_compute(request)) as device:
        bench = Bench.opened(request, device)
        tables = _asked_tables(request)
        folder.refuse_others(bench.identity)
        return _Ablating(bench, folder, request, tables).run(verify=verify, show=show)


@dataclass(frozen=True)
class _Ablating:
    """The work on one folder."""

    bench: Bench
    folder: AblatedFolder
    request: AblationRequest
    tables: dict[str, pl.DataFrame]

    def run(self, *, verify: bool, show: bool) -> Outcome:
        bench, folder, request = self.bench, self.folder, self.request
        record = folder.read()
        stored = {entry["weights"]: entry for entry in record.get("checkpoints", ())}
        keys = {file.hash: self._key(file) for file, _ in bench.chosen}
        done = {
            name: stored[name] for name, key in keys.items() if folder.is_done(stored.get(name), key, verify=verify)
        }
        made = not (len(done) == len(keys) and folder.is_done(record, value_hash([*keys.values()]), verify=verify))
        failed: list[VestigeError] = []
        if made:
            with folder.alone():
                if request.checkpoints:  # so that it is known whose the folder is
                    self._write_record([*done.values()], failed)
                argument = request, tuple(done)
                passes = (len(keys) - len(done)) * (1 + request.cumulative)
                with (
                    helped(_workers(request) - 1 if passes else 0, _share, argument, threads=request.threads or 1),
                    counting(passes, None, show=show, what=("ablating", "ablations")) as count,
                ):
                    work = partial(self._ablated, keys=keys, count=count)
                    entries, failed = in_turn(bench, done, work, count, "ablating", self._write_record)
                record = self._finish(entries, failed)
        outcome = Outcome(folder, errors=[*bench.unreadable, *failed], made=made)
        outcome.notes = notes_of(bench, record, "ablated") if made else []
        outcome.lines = [line for entry in record["checkpoints"] for line in self._lines(record, entry)]
        return outcome

    def _key(self, file: WeightFile) -> str:
        """Hash of everything that can change the tables of a set of weights."""
        wanted = {name: value for name, value in self.request.settings().items() if name in _ADDING}
        contents = {name: table.to_dict(as_series=False) for name, table in self.tables.items()}
        versions = {name: provenance()["versions"][name] for name in KEYED}
        schemas = [SCHEMA_VERSIONS[kind] for kind in ("ablation", "cumulative")]
        parts = {"identity": self.bench.identity, "weights": file.hash, "step": file.step}
        return value_hash({**parts, "wanted": wanted | contents, "versions": versions, "schemas": schemas})

    def _ablated(self, file: WeightFile, label: str | None, *, keys: dict[str, str], count: Counting) -> Entry:
        """Ablate with a set of weights, and write its tables."""
        bench, began, key = self.bench, time.perf_counter(), keys[file.hash]
        result, cumulative = _ablate(bench, file, self.folder.of(label), self.request, self.tables, count)
        frames = _frames(bench, file, result, cumulative)
        paths = {name: self.folder.of(label) / f"{name}.parquet" for name in frames}
        for name, frame in frames.items():
            write_table(paths[name], frame, {"vestige": "ablate", "key": key, "weights": file.hash})
        self.folder.write_skipped(result.skipped)
        seconds = time.perf_counter() - began
        found = ablation_of(bench, file, result, cumulative, seconds)
        tables = {name: path.relative_to(self.folder.path).as_posix() for name, path in paths.items()}
        artifacts = self.folder.artifacts(paths.values(), key)
        return entry_of(bench, file, key, [found], seconds, tables=tables, artifacts=artifacts)

    def _write_record(self, entries: Sequence[Entry], failed: Sequence[VestigeError], **more: Any) -> dict[str, Any]:
        record = {"key": "", "artifacts": {}, **record_of(self.bench, entries, failed), **more}
        self.folder.write_record(record)
        return record

    def _finish(self, entries: Sequence[Entry], failed: Sequence[VestigeError]) -> dict[str, Any]:
        """Write the tables of all sets of weights, where there may be several, the record and the page."""
        from vestige.report.ablated import write_ablated
        from vestige.report.foreign_page import shown_checkpoint

        key, paths = value_hash([entry["key"] for entry in entries]), []
        if self.request.checkpoints:
            for name in dict.fromkeys(name for entry in entries for name in entry["tables"]):
                parts = [pl.read_parquet(self.folder.path / entry["tables"][name]) for entry in entries]
                paths.append(self.folder.path / f"{name}.parquet")
                write_table(paths[-1], pl.concat(parts), {"vestige": "ablate", "key": key})
        record = self._write_record(entries, failed, key=key, artifacts=self.folder.artifacts(paths, key))
        shown = entries[shown_checkpoint(record)]["tables"]
        read = {name: pl.read_parquet(self.folder.path / path) for name, path in shown.items()}
        through = pl.read_parquet(self.folder.path / "ablation.parquet") if paths else None
        write_ablated(self.folder.report, record, read, through)
        return record

    def _lines(self, record: dict[str, Any], entry: Entry) -> list[str]:
        """One line a value: what it does on average, and which neuron matters most."""
        table = pl.read_parquet(self.folder.path / entry["tables"]["ablation"])
        (found,) = entry["results"]
        head = f"top-1 {found['top1']:.2%}, loss {found['loss']:.3f} on {found['n']} images"
        name = entry["file"] if self.request.checkpoints else record["model"]["name"]
        step = "" if entry["step"] is None else f"step {entry['step']}, "
        lines = []
        for value in found["values"]:
            part = table.filter(value=value).sort("loss_delta", descending=True, nulls_last=True)
            if part.is_empty():
                continue
            top = part.row(0, named=True)
            lines.append(
                f"{name} ({step}{value}): {head}; {part.height} neurons, mean change of loss "
                f"{part['loss_delta'].mean():.2g}, most from {top['layer']} {top['neuron']} ({top['loss_delta']:.3g})"
            )
        return lines or [head]


def _share(argument: tuple[AblationRequest, Sequence[str]]) -> None:
    """What a further process does: the same, but for the tables."""
    request, done = argument  # `done`: hashes of weights
    with session(_compute(request)) as device:
        bench, tables = Bench.opened(request, device), _asked_tables(request)
        for file, label in bench.chosen:
            if file.hash not in done:
                with suppress(VestigeError):  # the first process meets it too
                    _ablate(bench, file, AblatedFolder(request.folder).of(label), request, tables, None)


def _settled(request: AblationRequest) -> AblationRequest:
    """The request that all processes work by: what depends on the machine is decided once."""
    limit = memory_bytes(request.memory) / _workers(request)
    return replace(request, threads=request.threads or 1, workers=_workers(request), memory=f"{int(limit)}")


def _compute(request: AblationRequest) -> ComputeConfig:
    return ComputeConfig(device=request.device, threads=request.threads or 1)


def _workers(request: AblationRequest) -> int:
    if request.workers is not None:
        return request.workers
    if choose_device(request.device).type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (request.threads or 1))


def _asked_tables(request: AblationRequest) -> dict[str, pl.DataFrame]:
    """The user's tables of neurons and of groups."""
    given = {"neurons": request.neurons, "groups": request.groups}
    return {name: _read(path, f"--{name}") for name, path in given.items() if path is not None}


def _read(path: Path, option: str) -> pl.DataFrame:
    try:
        return pl.read_csv(path) if path.suffix.lower() == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        found = "there is no such file" if not path.exists() else " ".join(str(error).split())
        raise ConfigError(f"reading {option} {path}", found=found, remedy="Give a Parquet or CSV table") from error


def _ablate(
    bench: Bench,
    file: WeightFile,
    folder: Path,
    request: AblationRequest,
    tables: dict[str, pl.DataFrame],
    count: Counting | None,
) -> tuple[AblationResult, CumulativeResult | None]:
    """Ablate with a set of weights, pieces and single inputs being kept in `folder`."""
    if request.checkpoints:
        bench.subject.load(file.path)
    shared: dict[str, Any] = {
        "ranking_data": bench.ranking.data if bench.ranking else None,
        "batch_norm": request.batch_norm,
        "training_data": bench.training.data if bench.training else None,
        "dtype": request.dtype,
        "device": bench.device,
        "batch_size": request.batch_size,
        "memory": request.memory,
        "class_map": bench.class_map,
        "progress": count.at if count else None,
    }
    model, data, layers = bench.subject.model, bench.inputs.data, request.layers or None
    values: Any = request.value or None  # checked before
    mode: Any = request.mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if count:
            count.begin(file.name)
        result = ablate(
            model,
            data,
            layers,
            neurons=tables.get("neurons"),
            groups=tables.get("groups"),
            value=values,
            mode=mode,
            precision=request.precision,
            held_out=request.held_out,
            per_input=request.per_input,
            folder=folder,
            **shared,
        )
        if not request.cumulative:
            return result, None
        if count:
            count.begin(file.name)
        held_out, pieces = request.ranking_data is None, folder / "pieces" / "cumulative"
        return result, ablate_cumulatively(
            model, data, layers, values=values, held_out=held_out, folder=pieces, **shared
        )


def _frames(
    bench: Bench, file: WeightFile, result: AblationResult, cumulative: CumulativeResult | None
) -> dict[str, pl.DataFrame]:
    """The tables of a set of weights."""
    rows = {**bench.rows_of(file), "protocol": "corrected", "n": int(result.intact["n"])}
    frames = {
        "ablation": conform(result.table, "ablation", **rows),
        "ablation_by_class": conform(result.by_class, "ablation-by-class", **rows),
    }
    plain = {"ranking": result.ranking}
    if result.groups is not None:
        plain["groups"] = result.groups
    if cumulative is not None:
        of_curves = {**rows, "n": int(cumulative.intact["n"])}
        frames["cumulative"] = conform(cumulative.table, "cumulative", **of_curves)
        plain["cumulative_areas"] = cumulative.areas
    if bench.request.checkpoints:  # one table will hold all
        named = [pl.lit(rows[name], SCHEMAS["ablation"][name]).alias(name) for name in ("condition", "step")]
        plain = {name: frame.select(*named, pl.all()) for name, frame in plain.items()}
    return frames | plain
