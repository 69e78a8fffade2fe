"""`vestige ablate` on somebody's model: pieces of work shared by processes, killed at any moment and run again."""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from vestige.config import ComputeConfig
from vestige.errors import ConfigError
from vestige.foreign.bench import KEYED, Bench
from vestige.foreign.counting import counting
from vestige.foreign.folder import AblatedFolder
from vestige.foreign.notes import at_chance, batch_norm_words
from vestige.foreign.record import is_random, subject_of
from vestige.foreign.request import AblationRequest, checked
from vestige.foreign.workers import helped
from vestige.measurement.ablation.ablating import AblationResult, ablate
from vestige.measurement.ablation.budget import memory_bytes
from vestige.measurement.ablation.cumulating import CumulativeResult, ablate_cumulatively
from vestige.runs.manifest import Artifact, provenance
from vestige.runs.store import value_hash, write_table
from vestige.runs.tables import SCHEMA_VERSIONS, conform
from vestige.training.runtime import choose_device, session

_ADDING = ("layers", "value", "mode", "precision", "neurons", "groups", "cumulative", "per_input")
"""Options that say what is wanted, and change nothing that is there."""


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
      folder: where everything is.
      lines: what was found.
      notes: what must be said aloud.
      made: whether anything had to be done.
    """

    folder: AblatedFolder
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    made: bool = True


def ablate_foreign(request: AblationRequest, *, verify: bool = False, show: bool = True) -> Outcome:
    """Ablate the neurons of a model; what is done already is left as it is.

    Args:
      request: what to do.
      verify: hash files that are there again, rather than trust their size.
      show: how it goes on, on standard error.

    Raises:
      VestigeError: it cannot be done; what was there stays.
    """
    request = _settled(checked(request))
    folder = AblatedFolder(request.folder)
    with session(_compute(request)) as device:
        bench = Bench.opened(request, device)
        tables = _asked_tables(request)
        folder.refuse_others(bench.identity)
        key = _key(bench, tables)
        stored = folder.read()
        if folder.is_done(stored or None, key, verify=verify):
            return Outcome(folder, _lines(stored, folder), [], made=False)
        with folder.alone(), helped(_workers(request) - 1, _share, request, threads=request.threads or 1):
            began = time.perf_counter()
            with counting(1, None, show=show, what=("ablating", "ablations")) as count:
                result, cumulative = _ablated(bench, request, tables, lambda done, of: count.at(done, of))
            record = _record(bench, result, cumulative, key, time.perf_counter() - began)
            record["artifacts"] = _write(folder, bench, result, cumulative, key)
            folder.write_skipped(result.skipped)
            folder.write_record(record)
            _write_page(folder, record)
    return Outcome(folder, _lines(record, folder), record["notes"])


def _share(request: AblationRequest) -> None:
    """What a further process does: the same, but for the tables."""
    with session(_compute(request)) as device:
        bench = Bench.opened(request, device)
        _ablated(bench, request, _asked_tables(request), None)


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


def _key(bench: Bench, tables: dict[str, pl.DataFrame]) -> str:
    """Hash of everything that can change the tables."""
    wanted = {name: value for name, value in bench.request.settings().items() if name in _ADDING}
    versions = {name: provenance()["versions"][name] for name in KEYED}
    schemas = [SCHEMA_VERSIONS[kind] for kind in ("ablation", "cumulative")]
    contents = {name: table.to_dict(as_series=False) for name, table in tables.items()}
    parts = {"identity": bench.identity, "wanted": wanted | contents, "versions": versions, "schemas": schemas}
    return value_hash(parts)


def _ablated(
    bench: Bench,
    request: AblationRequest,
    tables: dict[str, pl.DataFrame],
    progress: Callable[[int, int | None], None] | None,
) -> tuple[AblationResult, CumulativeResult | None]:
    shared: dict[str, Any] = {
        "ranking_data": bench.ranking.data if bench.ranking else None,
        "batch_norm": request.batch_norm,
        "training_data": bench.training.data if bench.training else None,
        "dtype": request.dtype,
        "device": bench.device,
        "batch_size": request.batch_size,
        "memory": request.memory,
        "class_map": bench.class_map,
        "progress": progress,
    }
    model, data, layers = bench.subject.model, bench.inputs.data, request.layers or None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = ablate(
            model,
            data,
            layers,
            neurons=tables.get("neurons"),
            groups=tables.get("groups"),
            value=request.value or None,  # pyright: ignore[reportArgumentType] (checked before)
            mode=request.mode,  # pyright: ignore[reportArgumentType]
            precision=request.precision,
            held_out=request.held_out,
            per_input=request.per_input,
            folder=request.folder,
            **shared,
        )
        if not request.cumulative:
            return result, None
        folder = request.folder / "pieces" / "cumulative"
        cumulative = ablate_cumulatively(
            model,
            data,
            layers,
            values=request.value or None,  # pyright: ignore[reportArgumentType]
            held_out=request.ranking_data is None,
            folder=folder,
            **shared,
        )
    return result, cumulative


def _write(
    folder: AblatedFolder, bench: Bench, result: AblationResult, cumulative: CumulativeResult | None, key: str
) -> dict[str, dict[str, Any]]:
    """Write the tables; return what the record holds of them."""
    identity: dict[str, Any] = {
        "condition": bench.request.model,
        "seed": None,
        "step": None,
        "epoch": None,
        "protocol": "corrected",
        "dataset": bench.inputs.name,
        "split": "",
    }
    n = int(result.intact["n"])
    frames = {
        "ablation": conform(result.table, "ablation", **identity, n=n),
        "ablation_by_class": conform(result.by_class, "ablation-by-class", **identity, n=n),
        "ranking": result.ranking,
    }
    if result.groups is not None:
        frames["groups"] = result.groups
    if cumulative is not None:
        frames["cumulative"] = conform(cumulative.table, "cumulative", **identity, n=int(cumulative.intact["n"]))
        frames["cumulative_areas"] = cumulative.areas
    metadata = {"vestige": "ablate", "key": key, "weights": bench.subject.hash()}
    artifacts = {}
    for name, frame in frames.items():
        path = folder.path / f"{name}.parquet"
        write_table(path, frame, metadata)
        artifacts[path.name] = asdict(Artifact.of(path, key, 0.0))
    return artifacts


def _record(
    bench: Bench, result: AblationResult, cumulative: CumulativeResult | None, key: str, seconds: float
) -> dict[str, Any]:
    about = subject_of(bench, len(result.skipped))
    notes = dict.fromkeys([*about["notes"], *result.notes, *(cumulative.notes if cumulative else ())])
    classes = result.by_class["class"].n_unique()
    if classes and not is_random(bench.request):
        warning = at_chance(result.intact["top1"], int(result.intact["n"]), classes)
        notes |= {warning: None} if warning else {}
    return {
        **about,
        "notes": list(notes),
        "key": key,
        "seconds": round(seconds, 3),
        "intact": dict(result.intact),
        "batch_norm": batch_norm_words(bench.subject, bench.training, result.settings["batch_norm"]),
        "values": result.settings["values"],
        "mode": result.settings["mode"],
        "layers": [[layer.name, layer.stage, layer.units, layer.why] for layer in result.layers],
    }


def _write_page(folder: AblatedFolder, record: dict[str, Any]) -> None:
    from vestige.report.ablated import write_ablated

    read = {
        name: pl.read_parquet(folder.path / f"{name}.parquet")
        for name in ("ablation", "ranking", "groups", "cumulative_areas")
        if f"{name}.parquet" in record["artifacts"]
    }
    write_ablated(folder.report, record, read)


def _lines(record: dict[str, Any], folder: AblatedFolder) -> list[str]:
    """One line a value: what it does on average, and which neuron matters most."""
    intact, table = record["intact"], pl.read_parquet(folder.path / "ablation.parquet")
    head = f"top-1 {intact['top1']:.2%}, loss {intact['loss']:.3f} on {intact['n']} images"
    lines = []
    for value in record["values"]:
        part = table.filter(value=value).sort("loss_delta", descending=True, nulls_last=True)
        if part.is_empty():
            continue
        top = part.row(0, named=True)
        lines.append(
            f"{record['model']['name']} ({value}): {head}; {part.height} neurons, mean change of loss "
            f"{part['loss_delta'].mean():.2g}, most from {top['layer']} {top['neuron']} ({top['loss_delta']:.3g})"
        )
    return lines or [head]
