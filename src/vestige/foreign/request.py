"""What `vestige measure`, `ablate` and `linearity --model ...` are asked to do, checked. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from vestige.config import AblationMode, AblationValue, Protocol
from vestige.errors import ConfigError, nearest

CHOICES: dict[str, tuple[str, ...]] = {
    "protocol": get_args(Protocol),
    "batch_norm": ("recalibrate", "stored"),
    "rectify": ("auto", "abs", "none"),
    "on_bad_image": ("error", "skip"),
    "dtype": ("float32", "bfloat16", "float64"),
    "value": get_args(AblationValue),
    "mode": get_args(AblationMode),
}
POSITIVE = ("classes", "limit", "batch_size", "threads", "workers", "images", "pairs")
CKA_IMAGES = 4
"""The unbiased estimator needs so many."""
_Request = TypeVar("_Request", bound="AnyRequest")
SPLITS = {"data": "test", "training_data": "train", "ranking_data": "test"}
"""Options that name images, and the split where one specification holds several."""
MODEL_KINDS = ("torchvision", "timm")
KINDS = ("torchvision:NAME", "timm:NAME", "path.py:object")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, weights and images, as the command line reads them: shared by the commands on foreign models."""

    model: str | None = None
    """torchvision:NAME, timm:NAME or path.py:object. The options below go with it."""
    weights: Path | None = None
    """File of its weights (safetensors, or what torch.save wrote); without, they are random. Never executed."""
    checkpoints: Path | None = None
    """Folder of weight files of one training run, taken in the order of their steps."""
    data: str | None = None
    """Labelled images: folder:PATH, parquet:FILE, torchvision:NAME:PATH, digits or path.py:object."""
    training_data: str | None = None
    """Images, likewise, from which batch-norm statistics are recomputed; without, the stored ones are used. For
    linearity also what the linear model is fitted to that the network is compared with."""
    preprocess: str = "auto"
    """imagenet, cifar10, none, or size=224,resize=256,mean=0.5,std=0.5; auto: as the model's library evaluates it."""
    layers: tuple[str, ...] = ()
    """Names of layers or modules, or patterns ('layer3.*'); by default all that the rule finds: of residual networks
    the outputs of the blocks."""
    batch_norm: str = "recalibrate"
    """recalibrate (from --training-data) or stored."""
    class_map: Path | None = None
    """File that says which of the model's classes each class of the data is."""
    classes: int | None = None
    """Number of the model's classes, where neither its weights nor the data tell."""
    limit: int | None = None
    """Use only so many images, the same number of each class."""
    on_bad_image: str = "error"
    """skip: leave out images that cannot be read, and name them in skipped.txt."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto: a GPU where there is one."""
    dtype: str = "float32"
    """float32, bfloat16 or float64."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(ModelOptions):
    """The options of `vestige measure --model ...`."""

    protocol: tuple[str, ...] = ("corrected",)
    """corrected, faithful (to the paper's released code), or both."""
    permutations: int | None = None
    """Of the labels, for the null; by default 100, or 20 where activations do not fit."""
    rectify: str = "auto"
    """abs: take the absolute value of spatial means; none; auto: where activations can be negative."""
    batch_size: int = 256
    """Images a forward."""
    threads: int | None = None
    """CPU threads; by default as many as torch takes."""


@dataclass(frozen=True, kw_only=True)
class AblateOptions(ModelOptions):
    """The options of `vestige ablate --model ...`."""

    value: tuple[str, ...] = ()
    """What replaces a neuron: zero, mean, resample, or several; by default zero, and mean where it can be negative."""
    mode: str = "exact"
    """exact: every neuron on every image; controlled: on some, corrected by an estimate; screen: the estimate alone."""
    precision: float = 1.1
    """Of controlled: the standard error of a change of loss is at most so many times that of exact."""
    neurons: Path | None = None
    """Parquet or CSV table of the neurons to ablate, with the columns layer and neuron; by default all."""
    groups: Path | None = None
    """Parquet or CSV table with the columns layer, neuron and group: each group is ablated together."""
    cumulative: bool = False
    """Ablate growing sets too, ranked on one half of the images, on the other."""
    ranking_data: str | None = None
    """Images, as --data, from which means and preferred classes are; by default those of --data."""
    held_out: bool = False
    """Take means and preferred classes from one half of the images, and ablate on the other."""
    per_input: bool = False
    """Write each image's change of loss under each ablation."""
    memory: str | None = None
    """What may be held of images and estimates, such as 4GiB; by default half of what is free. Changes no number."""
    workers: int | None = None
    """Processes; by default one a core, one with a GPU. Changes no number."""
    batch_size: int | None = None
    """Images a forward of the whole network; by default from the shapes of its activations."""
    threads: int | None = None
    """CPU threads of each process; by default 1."""


@dataclass(frozen=True, kw_only=True)
class LinearityOptions(ModelOptions):
    """The options of `vestige linearity --model ...`."""

    images: int = 10_000
    """Use at most so many images: the same number of each class, or the first where the data cannot tell."""
    pairs: int = 1000
    """Pairs of images between which midpoint nonlinearity and gate churn are measured."""
    cka_images: int = 1000
    """Images of the similarity of layers (CKA) and of ridge regression, 4 at least."""
    top_k: tuple[int, ...] = (1, 2, 3)
    """Largest activations averaged in the paper's cross-layer correlation, each number in its turn."""
    batch_size: int = 256
    """Images a forward."""
    threads: int | None = None
    """CPU threads; by default as many as torch takes."""


@dataclass(frozen=True, kw_only=True)
class AnyRequest(ModelOptions):
    """What a command on a foreign model is asked to do."""

    in_identity: ClassVar[tuple[str, ...]]
    """Options that can change a number of what is there already."""
    beneath: ClassVar[str]
    """Where folders lie that the user does not name."""
    changing_nothing: ClassVar[tuple[str, ...]] = ()
    """Options that change no number."""

    model: str = ""
    data: str = ""
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """Where to write: where the user says, or a folder named after the model."""
        name = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(self.model).name)
        return self.out or Path(self.beneath) / name

    def settings(self) -> dict[str, Any]:
        """The options as they were given, for the record, but for those that change no number."""
        kept = [field.name for field in fields(self) if field.name not in ("out", *self.changing_nothing)]
        return {name: _plain(getattr(self, name)) for name in kept}


@dataclass(frozen=True, kw_only=True)
class Request(AnyRequest, MeasureOptions):
    """What `vestige measure --model ...` is asked to do."""

    in_identity = (
        "layers", "protocol", "permutations", "batch_norm", "rectify", "limit", "on_bad_image", "dtype", "batch_size",
        "threads",
    )  # fmt: skip
    beneath = "measured"


@dataclass(frozen=True, kw_only=True)
class AblationRequest(AnyRequest, AblateOptions):
    """What `vestige ablate --model ...` is asked to do; options that are not `in_identity` add to what is there."""

    in_identity = ("batch_norm", "limit", "on_bad_image", "dtype", "batch_size", "threads", "held_out")
    beneath = "ablated"
    changing_nothing = ("memory", "workers")


@dataclass(frozen=True, kw_only=True)
class LinearityRequest(AnyRequest, LinearityOptions):
    """What `vestige linearity --model ...` is asked to do."""

    in_identity = (
        "layers", "images", "pairs", "cka_images", "top_k", "batch_norm", "limit", "on_bad_image", "dtype",
        "batch_size", "threads",
    )  # fmt: skip
    beneath = "linearity"


def checked(request: _Request) -> _Request:
    """Make sure that the options make sense, each alone and together.

    Raises:
      ConfigError: one does not; the message names it as it is written.
    """
    for name, choices in CHOICES.items():
        given = getattr(request, name, ())
        for value in given if isinstance(given, tuple) else (given,):
            if value not in choices:
                raise _wrong(name, f"unknown value {value!r}", nearest(value, choices))
    if isinstance(request, Request) and not request.protocol:
        raise _wrong("protocol", "no value", "Give corrected, faithful or both")
    for name in POSITIVE:
        if (value := getattr(request, name, None)) is not None and value < 1:
            raise _wrong(name, f"{value} is less than 1", "Give a whole number from 1")
    if (permutations := getattr(request, "permutations", None)) is not None and permutations < 0:
        raise _wrong("permutations", f"{permutations} is less than 0", "Give 0 for none")
    if isinstance(request, LinearityRequest):
        _check_linearity(request)
    if request.weights and request.checkpoints:
        raise ConfigError(
            "reading the command line",
            found="both --weights and --checkpoints",
            remedy="Give one file as --weights, or a folder of them as --checkpoints",
        )
    if request.weights and request.weights.is_dir():
        remedy = f"Give it as --checkpoints {request.weights}, or one file in it as --weights"
        raise _wrong("weights", f"{request.weights} is a folder", remedy)
    _check_kind(request.model)
    return request


def _check_kind(model: str) -> None:
    file, colon, name = model.rpartition(":")
    if model.endswith(".py") or file.endswith(".py") or file in MODEL_KINDS or not (colon or "/" in model):
        return
    meant = f"; for {name!r} of your own file, {file}.py:{name}" if Path(f"{file}.py").is_file() else ""
    raise _wrong("model", f"unknown kind of model {model!r}", f"Write {', '.join(KINDS)}{meant}")


def _wrong(option: str, found: str, remedy: str) -> ConfigError:
    return ConfigError(f"reading --{option.replace('_', '-')}", found=found, remedy=remedy)


def _check_linearity(request: LinearityRequest) -> None:
    if request.cka_images < CKA_IMAGES:
        raise _wrong("cka_images", f"{request.cka_images} is less than {CKA_IMAGES}", f"Give {CKA_IMAGES} or more")
    if not request.top_k or min(request.top_k) < 1:
        raise _wrong("top_k", f"{request.top_k or 'no value'}", "Give whole numbers from 1, such as 1 2 3")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
