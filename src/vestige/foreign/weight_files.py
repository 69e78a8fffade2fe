"""A folder of weight files that somebody's training left: their steps, their order, and which are the same weights."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vestige.errors import ConfigError, VestigeError

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".pkl", ".th")
"""Other files in the folder are passed over."""
STEP_KEYS = ("global_step", "step", "iteration", "epoch")
"""What training scripts call the number of a checkpoint, beside its tensors; the finest first."""
FILE_NAME = "file name"


@dataclass(frozen=True)
class WeightFile:
    """One file of weights.

    Attributes:
      path: of the file.
      name: relative to the folder.
      hash: of the weights as the model has them; empty where they could not be loaded.
      numbers: what the file says of its step, by key of `STEP_KEYS`.
      step, epoch: None where not known.
      notes: what must be said of how it was loaded.
      duplicate_of: name of the file, earlier in the order, that holds the same weights.
      error: why it cannot be measured.
    """

    path: Path
    name: str
    hash: str = ""
    numbers: Mapping[str, int] = field(default_factory=dict)
    step: int | None = None
    epoch: float | None = None
    notes: tuple[str, ...] = ()
    duplicate_of: str | None = None
    error: VestigeError | None = None

    @property
    def measured(self) -> bool:
        """Whether it is to be measured: readable, and the first with its weights."""
        return self.error is None and self.duplicate_of is None


def list_weight_files(folder: Path, *, out: Path | None = None) -> list[Path]:
    """The files in a folder, and in those below it, whose endings are those of weights; in natural order.

    Args:
      folder: of a training run.
      out: where this command writes: what lies there is no weights.

    Raises:
      ConfigError: there is no such folder, or no such file in it.
    """
    doing = f"looking for weight files in {folder}"
    if not folder.is_dir():
        remedy = "Give one file as --weights" if folder.is_file() else "Check the path"
        raise ConfigError(
            doing, found="it is no folder" if folder.exists() else "there is no such folder", remedy=remedy
        )
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
        if out is None or out.resolve() not in path.resolve().parents
    ]
    if not found:
        raise ConfigError(
            doing, found="there is none", remedy=f"Give a folder that holds files ending with {', '.join(ENDINGS)}"
        )
    return sorted(found, key=lambda path: natural(path.relative_to(folder).as_posix()))


def scan(
    folder: Path,
    load: Callable[[Path], tuple[str, Mapping[str, Any], tuple[str, ...]]],
    *,
    out: Path | None = None,
) -> list[WeightFile]:
    """Look into every weight file of a folder.

    Args:
      folder, out: see `list_weight_files`.
      load: of a file, the hash of its weights, its content, and what must be said; raises a VestigeError where it
        cannot be read or does not fit. Called once a file, in natural order.

    Returns:
      In order of steps; those without a step behind them, in natural order.
    """
    files = []
    for path in list_weight_files(folder, out=out):
        name = path.relative_to(folder).as_posix()
        try:
            hashed, content, notes = load(path)
        except VestigeError as error:
            files.append(WeightFile(path, name, error=error))
        else:
            files.append(WeightFile(path, name, hashed, step_numbers(content), notes=notes))
    return _without_duplicates(_with_steps(files)[0])


def step_source(files: Sequence[WeightFile]) -> str:
    """Where the steps are from: a key of `STEP_KEYS`, `file name`, or empty where they are not known."""
    return _with_steps([replace(file, step=None, epoch=None) for file in files])[1]


def step_numbers(content: Mapping[str, Any]) -> dict[str, int]:
    """What the content of a file says of its step: whole numbers, however they are stored."""
    found = {}
    for key in STEP_KEYS:
        value = content.get(key)
        try:
            number = float(value)  # pyright: ignore[reportArgumentType] (None and tensors of many raise)
        except (TypeError, ValueError, RuntimeError):
            continue
        if not isinstance(value, str | bool) and number >= 0 and number.is_integer():
            found[key] = int(number)
    return found


def number_in(name: str) -> int | None:
    """The last whole number in a file's name; where that has none, in the folder's it lies in.

    Numbers with a point in them (an accuracy) do not count.
    """
    for part in reversed(name.split("/")):
        stem = part
        while stem.lower().endswith(ENDINGS):
            stem = stem[: stem.rindex(".")]
        whole = [text for text in re.findall(r"\d+(?:\.\d+)*", stem) if "." not in text]
        if whole:
            return int(whole[-1])
    return None


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts `step-9` before `step-10`."""
    return [(text.isdigit(), int(text) if text.isdigit() else 0, text) for text in re.split(r"(\d+)", name)]


def _with_steps(files: Sequence[WeightFile]) -> tuple[list[WeightFile], str]:
    """Steps from the first source that tells different weights apart: mixing units would put them out of order."""
    good = [file for file in files if file.error is None]
    for key in STEP_KEYS:
        # A copy without numbers is no reason to doubt those of its original.
        unknown = {file.hash for file in good} - {file.hash for file in good if key in file.numbers}
        if good and not unknown and _tell_apart(good, lambda f, key=key: f.numbers.get(key)):
            return [_at(file, file.numbers.get(key)) for file in files], key
    if any(number_in(file.name) is not None for file in good) and _tell_apart(good, lambda f: number_in(f.name)):
        return [_at(file, number_in(file.name) if file.error is None else None) for file in files], FILE_NAME
    return list(files), ""


def _at(file: WeightFile, step: int | None) -> WeightFile:
    epoch = file.numbers.get("epoch")
    return replace(file, step=step, epoch=None if epoch is None else float(epoch))


def _tell_apart(files: Iterable[WeightFile], number: Callable[[WeightFile], int | None]) -> bool:
    """Whether no number stands for different weights."""
    weights: dict[int, str] = {}
    return all(n is None or weights.setdefault(n, file.hash) == file.hash for file in files for n in [number(file)])


def _without_duplicates(files: Sequence[WeightFile]) -> list[WeightFile]:
    ordered = sorted(files, key=lambda f: (f.step is None, f.step or 0, natural(f.name)))
    first: dict[str, str] = {}
    marked = []
    for file in ordered:
        if file.error is None and first.setdefault(file.hash, file.name) != file.name:
            file = replace(file, duplicate_of=first[file.hash])
        marked.append(file)
    return marked
