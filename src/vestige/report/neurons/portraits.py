"""What drives neurons: class means, the inputs that excite them most, and the classes that ablation harms.

They are kept at few checkpoints (`runs.retention`), of which a neuron shows three: an early one, that of its highest
CSI, and the last. Where there are many classes, it shows those that lie highest, and all of them as a curve by rank.

Shapes: S steps of a run, K of them kept, M moments shown, U neurons (units), R of them, C classes, D numbers a neuron.
"""

import base64
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vestige.report.neurons.chunks import Chunks
from vestige.report.neurons.encoding import Codes, classes, decimals, places
from vestige.report.neurons.reading import read_damage, read_inputs, read_means
from vestige.report.neurons.runs import Layer, Run
from vestige.runs.retention import kept_steps

MANY = 64
"""More classes than these are not all shown."""
HIGHEST = 12
RANKS = 33
STEPS_WITHOUT_MEANS = 6

Files = Mapping[tuple[str, int], Mapping[int, Sequence[Path]]]
"""By condition and seed: the files of each step."""


@dataclass(frozen=True)
class Sheets:
    """Thumbnails: image i is at place i % per of sheet i // per, whose places go row by row, `side` in a row.

    Attributes:
      per, side: see above.
      cell: pixels of a thumbnail's side.
      files: by number; png or jpg.
    """

    per: int
    side: int
    cell: int
    files: Mapping[int, Path]


@dataclass(frozen=True)
class Portraits:
    """Where the tables of a study lie that are too large to be read at once.

    Attributes:
      class_names: in the order of their indices; empty where they are not known.
      means, inputs, damage: tables of class-means, top-inputs, ablation-by-class.
      sheets: thumbnails of the top inputs; None: there are none.
    """

    class_names: tuple[str, ...] = ()
    means: Files = field(default_factory=dict)
    inputs: Files = field(default_factory=dict)
    damage: Files = field(default_factory=dict)
    sheets: Sheets | None = None

    def characters(self, units: int, values: int, n_classes: int) -> int:
        """About how many characters they will take in the page, given the neurons and what they were replaced by."""
        shown = n_classes if n_classes <= MANY else 2 * HIGHEST + RANKS
        runs = {*self.means, *self.inputs, *self.damage}
        pictures = sum(path.stat().st_size for path in self.sheets.files.values()) if self.sheets else 0
        return (len(runs) * 3 * units * (2 * shown * (1 + values) + 8 * 8) + pictures) * 4 // 3

    def steps(self, run: Run) -> tuple[int, ...]:
        """The kept steps of a run; where no means were kept, as many of those that ablation has."""
        key = run.condition, run.seed
        kept = {*self.means.get(key, ()), *self.inputs.get(key, ())}
        return tuple(sorted(kept)) or kept_steps(list(self.damage.get(key, ())), STEPS_WITHOUT_MEANS)


def put_portraits(
    portraits: Portraits,
    run: Run,
    name: str,
    layers: list[Layer],
    csi_SU: np.ndarray,
    early: int | None,
    chunks: Chunks,
) -> dict[str, Any] | None:
    """Keep the portraits of a run's neurons.

    Args:
      portraits: where the tables are.
      run: whose.
      name: of the run's chunks.
      layers: of the network.
      csi_SU: at the run's steps; NaN where it is not known.
      early: steps of the early window, where they are known.
      chunks: where to keep them.

    Returns:
      what the index says of them; None where there are none.
    """
    kept, key = portraits.steps(run), (run.condition, run.seed)
    if not kept:
        return None
    moments_MU = moments(kept, run, csi_SU, early)
    found: dict[str, np.ndarray] = {}
    for place, step in enumerate(kept):
        wanted_MU = moments_MU == place
        rows_R = np.flatnonzero(wanted_MU.any(0))
        for path in portraits.means.get(key, {}).get(step, ()):
            _lay(found, wanted_MU, rows_R, _by_class("mean", read_means(path, layers)[rows_R]))
        for path in portraits.inputs.get(key, {}).get(step, ()):
            parts = {part: values_UD[rows_R] for part, values_UD in read_inputs(path, layers).items()}
            _lay(found, wanted_MU, rows_R, parts)
        for path in portraits.damage.get(key, {}).get(step, ()):
            value, harm_UC = read_damage(path, layers)
            _lay(found, wanted_MU, rows_R, _by_class(f"damage:{value}", harm_UC[rows_R]))
    found["step"] = np.asarray(kept)[moments_MU]
    columns = {name: codes for name, values in found.items() if (codes := _encoder(name)(values))}
    blocks = chunks.put_blocks(f"{name}-classes", columns, 3, moments_MU.shape[1])
    return {"kept": list(kept), "has": sorted(columns), "blocks": blocks}


def moments(kept: Sequence[int], run: Run, csi_SU: np.ndarray, early: int | None) -> np.ndarray:
    """Which of the kept steps each neuron shows: early, peak and last, as places among them, (3, U).

    The early one is the middle of those within the early window (the first where there is none).
    """
    young = [i for i, step in enumerate(kept) if step > 0 and (early is None or step < early)]
    known = {step: place for place, step in enumerate(run.steps)}
    units = csi_SU.shape[1]
    csi_KU = np.stack([csi_SU[known[step]] if step in known else np.full(units, np.nan) for step in kept])
    peak_U = np.where(np.isnan(csi_KU), -np.inf, csi_KU).argmax(0)
    first = young[(len(young) - 1) // 2] if young else 0
    return np.stack([np.full(units, first), peak_U, np.full(units, len(kept) - 1)])


def put_sheets(sheets: Sheets | None, chunks: Chunks) -> dict[str, Any] | None:
    """Put the thumbnails within the page, or copy them beside it; what the index says of them."""
    if sheets is None:
        return None
    found: dict[int, str] = {}
    for number, path in sorted(sheets.files.items()):
        name = f"images-{number:05d}{path.suffix}"
        if chunks.folder is None:
            kind = "png" if path.suffix == ".png" else "jpeg"
            found[number] = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        else:
            chunks.folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, chunks.folder / name)
            chunks.written.append(name)
            found[number] = f"{chunks.folder.name}/{name}"
    return {"per": sheets.per, "side": sheets.side, "pixelated": sheets.cell < 40, "sheets": found}


def _by_class(name: str, values_RC: np.ndarray) -> dict[str, np.ndarray]:
    """What is shown of a number for each class: all, or the highest and a curve by rank."""
    finite_RC = np.isfinite(values_RC)
    there = np.flatnonzero(finite_RC.any(0))
    if values_RC.shape[1] <= MANY or not len(there):
        return {name: values_RC}
    known_RC = values_RC if finite_RC.all() else np.where(finite_RC, values_RC, -np.inf)[:, there]
    most = min(HIGHEST, len(there))
    top = np.argpartition(known_RC, len(there) - most, axis=1)[:, len(there) - most :]
    order = np.argsort(-np.take_along_axis(known_RC, top, 1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, 1)
    ranks = np.linspace(len(there) - 1, 0, RANKS).round().astype(int)
    return {
        name: np.take_along_axis(known_RC, top, 1),
        f"{name}_class": there[top],
        f"{name}_ranks": np.sort(known_RC, axis=1)[:, ranks],
    }


def _lay(
    found: dict[str, np.ndarray], wanted_MU: np.ndarray, rows_R: np.ndarray, part: Mapping[str, np.ndarray]
) -> None:
    """Put the numbers of one step where a neuron shows it."""
    for name, values_RD in part.items():
        missing = -1 if values_RD.dtype.kind == "i" else np.nan
        laid = found.setdefault(name, np.full((*wanted_MU.shape, values_RD.shape[1]), missing, values_RD.dtype))
        for moment, wanted_U in enumerate(wanted_MU):
            laid[moment, wanted_U] = values_RD[wanted_U[rows_R]]


def _encoder(name: str) -> Callable[[np.ndarray], Codes | None]:
    if name in ("input", "step"):
        return places
    return classes if name == "label" or name.endswith("_class") else decimals
