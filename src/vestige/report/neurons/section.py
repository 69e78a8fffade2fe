"""The section "Neurons" of the report: what its scripts draw from, and what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vestige.config import MeasurementConfig
from vestige.report.figures.source import Source
from vestige.report.neurons.chunks import Chunks
from vestige.report.neurons.columns import SELECTIVITY, Column, ablation_columns
from vestige.report.neurons.portraits import Portraits, put_portraits, put_sheets
from vestige.report.neurons.runs import Layer, Run, csi_of, find_layers, find_runs, run_columns
from vestige.report.style import names

WITHIN = 6_000_000
"""Characters of numbers that the page itself holds; more lie in files beside it."""
FOLDER = "data"


@dataclass(frozen=True)
class Section:
    """What the template needs.

    Attributes:
      index: what there is and where, for the scripts; empty where no neuron was measured.
      held: the chunks that the page holds, by name.
      missing: sentences.
      written: the files beside the page.
    """

    index: dict[str, Any]
    held: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    written: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Desk:
    """What gathering needs at every run."""

    source: Source
    portraits: Portraits
    tables: Mapping[str, pl.DataFrame]
    layers: list[Layer]
    runs: list[Run]
    chunks: Chunks

    @property
    def units(self) -> int:
        return self.layers[-1].first + self.layers[-1].units


def neurons(source: Source, portraits: Portraits, report: Path) -> Section:
    """Gather every neuron of every run.

    Args:
      source: the study's tables.
      portraits: class means, top inputs and damage by class, where they are.
      report: folder of the report: numbers that are too many for the page are written to `data` in it.
    """
    tables = {kind: table for kind in ("selectivity", "ablation") if not (table := _table(source, kind)).is_empty()}
    layers = find_layers(tables)
    if not layers:
        return Section({}, missing=("No neuron has been measured yet: there is no table of selectivity.",))
    order = {name: place for place, name in enumerate(source.study.conditions)}
    runs, values, named = find_runs(tables, order), _values(tables), _class_names(portraits, tables)
    units = layers[-1].first + layers[-1].units
    within = _characters(tables) + portraits.characters(units, len(values), len(named)) <= WITHIN
    desk = _Desk(source, portraits, tables, layers, runs, Chunks(None if within else report / FOLDER))
    index = {
        "layers": [[layer.name, layer.stage, layer.units] for layer in layers],
        "classes": named,
        "columns": [vars(column) for column in _columns(tables)],
        "values": values,
        "scale": [source.scale.first, source.scale.last, source.scale.gap],
        "folder": "" if within else f"{FOLDER}/",
        "runs": [_put_run(desk, place) for place in range(len(runs))],
        "sheets": put_sheets(portraits.sheets, desk.chunks),
    }
    return Section(index, desk.chunks.held, tuple(_missing(source, runs)), tuple(desk.chunks.written))


def _put_run(desk: _Desk, place: int) -> dict[str, Any]:
    source, run, name = desk.source, desk.runs[place], f"run-{place:03d}"
    columns = dict(run_columns(desk.tables, run, desk.layers))
    csi_SU = csi_of(desk.tables, run, desk.layers)
    portrait = put_portraits(desk.portraits, run, name, desk.layers, csi_SU, source.early_window, desk.chunks)
    has = [column.partition(":")[0] for column in (portrait or {}).get("has", ())]
    unkept, unablated, by_class = (
        lacking(source, kind, run.condition) for kind in ("portraits", "ablation", "ablation-by-class")
    )
    return {
        "condition": run.condition,
        "seed": run.seed,
        "protocol": run.protocol,
        "steps": list(run.steps),
        "epochs": list(run.epochs),
        "parent": _parent(source, run, desk.runs),
        "notes": _notes(source, run, columns),
        "ablation": "" if any(":" in name for name in columns) else unablated,
        "lacking": {
            "classes": "" if "mean" in has else unkept,
            "inputs": "" if "input" in has else unkept,
            "damage": "" if "damage" in has else by_class,
        },
        "chunks": desk.chunks.put_run(name, columns, list(run.steps), desk.units),
        "portraits": portrait,
    }


def _parent(source: Source, run: Run, runs: list[Run]) -> tuple[int, int] | None:
    """Which run it branches from, and at which step."""
    manifest = source.manifests.get((run.condition, run.seed))
    if manifest is None or not (parent := manifest.parent):
        return None
    for place, other in enumerate(runs):
        if (other.condition, other.seed, other.protocol) == (parent["condition"], parent["seed"], run.protocol):
            return place, parent["step"]
    return None


def _notes(source: Source, run: Run, columns: Mapping[str, Any]) -> list[str]:
    manifest, said = source.manifests.get((run.condition, run.seed)), []
    if manifest and manifest.failed:
        said.append(f"Training of this run stopped: {manifest.failed}.")
    elif manifest and not manifest.complete:
        said.append("Training of this run has not ended.")
    if "csi_null_mean" not in columns:
        said.append("There is no null: no permutations were made.")
    return said


def lacking(source: Source, kind: str, condition: str) -> str:
    """Why a run has nothing of a kind of measurement."""
    words = {
        "ablation": "single-neuron ablation",
        "ablation-by-class": "ablation by class",
        "portraits": "class means and top inputs",
    }[kind]
    kind = kind.removesuffix("-by-class")
    settings: MeasurementConfig | None = getattr(source.study.measurements, kind)
    if settings is None:
        return f"No {words}: the study leaves this out (measurements.{kind})."
    wanted = settings.conditions
    if wanted is None and kind == "portraits" and source.study.baseline:
        wanted = (source.study.baseline,)
    if wanted is not None and condition not in wanted:
        return f"No {words} of this condition: the study asks for this of {names(list(wanted))} alone."
    return f"No {words} yet: run “vestige run”."


def _table(source: Source, kind: str) -> pl.DataFrame:
    frame = source.tables.get(kind)
    return pl.DataFrame() if frame is None else frame


def _values(tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """What neurons were replaced by, zero first."""
    found = tables["ablation"]["value"].unique().to_list() if "ablation" in tables else []
    return sorted(found, key=lambda value: (value != "zero", value))


def _class_names(portraits: Portraits, tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """Names of the classes; their numbers where they are not known."""
    most = [table["preferred_class"].cast(pl.Int64).to_numpy(allow_copy=True) for table in tables.values()]
    count = max(int(np.nan_to_num(places, nan=-1).max(initial=-1)) + 1 for places in most)
    return [*portraits.class_names, *map(str, range(len(portraits.class_names), count))]


def _columns(tables: Mapping[str, pl.DataFrame]) -> list[Column]:
    values = _values(tables)
    ablated = [column for i, value in enumerate(values) for column in ablation_columns(value, first=i == 0)]
    return [*(SELECTIVITY if "selectivity" in tables else ()), *ablated]


def _characters(tables: Mapping[str, pl.DataFrame]) -> int:
    """About how many characters the numbers will take."""
    sizes = {"selectivity": 2 * len(SELECTIVITY), "ablation": 14}
    return sum(table.height * sizes[kind] * 4 // 3 for kind, table in tables.items())


def _missing(source: Source, runs: list[Run]) -> list[str]:
    """What a reader of the section must know before choosing a run."""
    found = {(run.condition, run.seed) for run in runs}
    absent: dict[str, list[str]] = {}
    for condition in source.study.conditions:
        for seed in source.study.seeds:
            if (condition, seed) not in found:
                absent.setdefault(condition, []).append(str(seed))
    said = [
        f"Condition “{condition}” has no neurons to show of "
        + ("any seed." if len(seeds) == len(source.study.seeds) else f"seed {names(seeds)}.")
        for condition, seeds in absent.items()
    ]
    failed = [
        f"“{condition}”, seed {seed}, stopped: {manifest.failed}."
        for (condition, seed), manifest in source.manifests.items()
        if manifest.failed
    ]
    if len({run.seed for run in runs}) == 1:
        said.append(f"Only one seed ({runs[0].seed}): what a neuron does may be this seed’s alone.")
    if _table(source, "ablation").is_empty():
        said.append("There is no single-neuron ablation: it was left out of the study, or has not been made yet.")
    return said + failed
