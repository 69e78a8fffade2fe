"""`vestige ablate` on somebody's model: pieces of work shared by processes, killed at any moment and run again."""

import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from vestige.config import ComputeConfig
from vestige.errors import ConfigError, VestigeError
from vestige.foreign.bench import Bench
from vestige.foreign.counting import Counting, counting
from vestige.foreign.folder import AblatedFolder
from vestige.foreign.record import ablation_of
from vestige.foreign.request import AblationRequest, checked
from vestige.foreign.tabling import Made, Tabling
from vestige.foreign.turns import Entry, Outcome
from vestige.foreign.weight_files import WeightFile
from vestige.foreign.workers import helped
from vestige.measurement.ablation.ablating import AblationResult, ablate
from vestige.measurement.ablation.budget import memory_bytes
from vestige.measurement.ablation.cumulating import CumulativeResult, ablate_cumulatively
from vestige.runs.tables import SCHEMAS, conform
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
class _Ablating(Tabling):
    """The work on one folder."""

    doing, done, through = "ablating", "ablated", "ablation"

    request: AblationRequest
    tables: dict[str, pl.DataFrame]

    def key(self, file: WeightFile) -> str:
        """Hash of everything that can change the tables of a set of weights."""
        wanted = {name: value for name, value in self.request.settings().items() if name in _ADDING}
        contents = {name: table.to_dict(as_series=False) for name, table in self.tables.items()}
        return self.bench.key(file, ("ablation", "cumulative"), wanted=wanted | contents)

    @contextmanager
    def counted(self, files: int, done: Collection[str], *, show: bool) -> Iterator[Counting]:
        """Other processes help meanwhile."""
        more, argument = _workers(self.request) - 1 if files else 0, (self.request, done)
        passes = files * (1 + self.request.cumulative)
        with (
            helped(more, _share, argument, threads=self.request.threads or 1),
            counting(passes, None, show=show, what=("ablating", "ablations")) as count,
        ):
            yield count

    def make(self, file: WeightFile, label: str | None, count: Counting) -> Made:
        """Ablate with the weights that the model has."""
        bench = self.bench
        result, cumulative = _ablate(bench, file, self.folder.of(label), self.request, self.tables, count)
        found = partial(ablation_of, bench, file, result, cumulative)
        return Made(_frames(bench, file, result, cumulative), found, result.skipped)

    def write_page(
        self, record: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], through: pl.DataFrame | None
    ) -> None:
        """Write `ablation.html`."""
        from vestige.report.ablated import write_ablated

        write_ablated(self.folder.report, record, tables, through)

    def lines(self, record: Mapping[str, Any], entry: Entry) -> list[str]:
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


def _share(argument: tuple[AblationRequest, Collection[str]]) -> None:
    """What a further process does: the same, but for the tables."""
    request, done = argument  # `done`: hashes of weights
    with session(_compute(request)) as device:
        bench, tables = Bench.opened(request, device), _asked_tables(request)
        for file, label in bench.chosen:
            if file.hash not in done:
                with suppress(VestigeError):  # the first process meets it too
                    if request.checkpoints:
                        bench.subject.load(file.path)
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
    """Ablate with the weights that the model has, pieces and single inputs being kept in `folder`."""
    shared: dict[str, Any] = {
        **bench.preparation,
        "ranking_data": bench.ranking.data if bench.ranking else None,
        "memory": request.memory,
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
