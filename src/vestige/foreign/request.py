"""What `vestige measure --model ...` is asked to do, checked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from vestige.config import Protocol
from vestige.errors import ConfigError, nearest

CHOICES: dict[str, tuple[str, ...]] = {
    "protocol": get_args(Protocol),
    "batch_norm": ("recalibrate", "stored"),
    "rectify": ("auto", "abs", "none"),
    "on_bad_image": ("error", "skip"),
    "dtype": ("float32", "bfloat16", "float64"),
}
POSITIVE = ("classes", "limit", "batch_size", "threads")
KINDS = ("torchvision:NAME", "timm:NAME", "path.py:object")


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of the command, by the names they have there."""

    model: str
    data: str
    weights: Path | None = None
    checkpoints: Path | None = None
    training_data: str | None = None
    preprocess: str = "auto"
    layers: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ("corrected",)
    permutations: int | None = None
    batch_norm: str = "recalibrate"
    rectify: str = "auto"
    class_map: Path | None = None
    classes: int | None = None
    limit: int | None = None
    on_bad_image: str = "error"
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 256
    threads: int | None = None
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """Where to write: `--out`, or a folder named after the model."""
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(self.model).name)
        return self.out or Path("measured") / name

    def settings(self) -> dict[str, Any]:
        """The options as they were given, for the record."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.name != "out"}


def checked(request: Request) -> Request:
    """Make sure that the options make sense, each alone and together.

    Raises:
      ConfigError: one does not; the message names it as it is written.
    """
    for name, choices in CHOICES.items():
        given = getattr(request, name)
        for value in given if isinstance(given, tuple) else (given,):
            if value not in choices:
                raise _wrong(name, f"unknown value {value!r}", nearest(value, choices))
    if not request.protocol:
        raise _wrong("protocol", "no value", "Give corrected, faithful or both")
    for name in POSITIVE:
        if (value := getattr(request, name)) is not None and value < 1:
            raise _wrong(name, f"{value} is less than 1", "Give a whole number from 1")
    if request.permutations is not None and request.permutations < 0:
        raise _wrong("permutations", f"{request.permutations} is less than 0", "Give 0 for none")
    if request.weights and request.checkpoints:
        raise ConfigError(
            "reading the command line",
            found="both --weights and --checkpoints",
            remedy="Give one file as --weights, or a folder of them as --checkpoints",
        )
    if not request.model.endswith(".py") and ":" not in request.model and "/" in request.model:
        raise _wrong("model", f"unknown kind of model {request.model!r}", f"Write {', '.join(KINDS)}")
    return request


def _wrong(option: str, found: str, remedy: str) -> ConfigError:
    return ConfigError(f"reading --{option.replace('_', '-')}", found=found, remedy=remedy)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
