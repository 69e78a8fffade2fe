"""The typed, frozen description of a study, as it stands in its YAML file.

Every field has its default here and nowhere else; `study.yaml` in a study's folder is the same description with
every default written out.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from vestige.acting import KINDS, ConditionConfig, Config, GridConfig
from vestige.acting import Eta2PenaltyConfig as Eta2PenaltyConfig
from vestige.acting import InterventionConfig as InterventionConfig
from vestige.acting import SelectivityPenaltyConfig as SelectivityPenaltyConfig
from vestige.acting import Window as Window
from vestige.claiming import ClaimsConfig, check_conditions
from vestige.claiming import Roles as Roles
from vestige.errors import ConfigError, nearest

Split = Literal["train", "test"]
Protocol = Literal["corrected", "faithful"]
AblationValue = Literal["zero", "mean", "resample"]
LARGEST = 2**20
"""Bytes that a study's file may have: reading 10 MB of YAML takes seconds."""
AblationMode = Literal["exact", "controlled", "screen"]
CumulativeProtocol = Literal["corrected", "faithful", "class-sums", "stored-batch-norm", "same-images", "redrawn"]


class AugmentConfig(Config):
    """Random changes of the training images: functions of (seed, epoch, index of the image)."""

    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Zero-pad by so many pixels on each side, then crop at random to the original size."""
    flip: bool = False
    """Mirror left-right with probability 1/2."""
    random_resized_crop: bool = False
    """A crop of 8% to 100% of the area, aspect ratio 3/4 to 4/3, resized to `size` (Szegedy et al. 2015)."""


class DataConfig(Config):
    """Where the images come from and how they become the network's input."""

    train: str = "digits"
    """`digits`, `folder:PATH`, `parquet:FILE`, `torchvision:NAME:PATH`, or `path.py:object`."""
    test: str = "digits"
    limit: PositiveInt | None = None
    """Use only so many training images, the same number of each class; all where None."""
    limit_test: PositiveInt | None = None
    channels: Literal[1, 3] = 3
    size: PositiveInt | None = None
    """Side of the network's input in pixels; None: the images as they are, all of one size."""
    resize: PositiveInt | None = None
    """Shorter side after resizing, before the centre crop to `size`; None: `size`."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are made in resizing: antialiased, as Pillow does it."""
    mean: tuple[float, ...] = (0.5,)
    """Subtracted from pixels in [0, 1]: one number a channel, or one for all."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (0.5,)
    augment: AugmentConfig = AugmentConfig()

    @model_validator(mode="after")
    def _check(self):
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        if self.augment.random_resized_crop and self.size is None:
            raise ValueError("augment.random_resized_crop needs data.size")
        return self


class ModelConfig(Config):
    """Which network is trained, from scratch."""

    name: str = "resnet8"
    """`resnet8|20|32|44|56` (CIFAR style), `torchvision:NAME`, `timm:NAME`, or `path.py:object`."""
    width: PositiveInt = 16
    """Channels of the first stage of the CIFAR-style ResNets."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the constructor of the others."""


class RecipeConfig(Config):
    """How it is trained: SGD with momentum."""

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 128
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["step", "cosine", "constant"] = "step"
    step_epochs: tuple[PositiveInt, ...] = (30, 60)
    """`step`: the learning rate is divided by 10 at the start of each of these epochs."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: forward and loss under autocast; weights and optimiser stay float32."""
    channels_last: bool = True


class ScheduleConfig(Config):
    """The steps at which weights are kept. Step 0 and the last step always are."""

    log_spaced: PositiveInt | None = 8
    """So many log-spaced steps within the first epoch (1, ..., its last)."""
    young_epochs: Annotated[int, Field(ge=0)] = 3
    """While the network is this young ..."""
    per_young_epoch: PositiveInt = 2
    """... so many checkpoints an epoch."""
    every_epochs: PositiveInt = 1
    """Afterwards one checkpoint every so many epochs, and one at the end of each of the last three epochs."""


class BatchNormConfig(Config):
    """Recomputing batch-norm statistics before every measurement of the corrected protocol."""

    images: PositiveInt = 2048
    """Fixed, unaugmented training images (all, where there are fewer)."""


class MeasurementConfig(Config):
    """What every measurement states: on which images, of which conditions."""

    split: Split = "test"
    images: PositiveInt | None = None
    """So many images, the same number of each class, always the same ones; all where None."""
    conditions: tuple[str, ...] | None = None
    """None: all."""


class SelectivityConfig(MeasurementConfig):
    """Class selectivity of every neuron."""

    protocols: tuple[Protocol, ...] = ("corrected",)
    permutations: Annotated[int, Field(ge=2)] = 100


class AblationConfig(MeasurementConfig):
    """Every single neuron replaced, one at a time."""

    values: tuple[AblationValue, ...] = ("zero", "mean")
    mode: AblationMode = "exact"
    """exact: every neuron on every image; controlled: on some, corrected by an estimate; screen: the estimate alone."""
    precision: Annotated[float, Field(gt=1)] = 1.1
    """Of controlled: the standard error of a change of loss is at most so many times that of exact."""
    conditions: tuple[str, ...] | None = ("baseline",)


class CumulativeConfig(MeasurementConfig):
    """Growing sets of neurons replaced, ranked on one half of the images, ablated on the other."""

    values: tuple[AblationValue, ...] = ("zero", "mean")
    orders: tuple[Literal["csi-desc", "csi-asc", "activity-matched", "random"], ...] = (
        "csi-desc",
        "activity-matched",
        "random",
    )
    fractions: Annotated[int, Field(ge=3)] = 17
    """So many equal steps from 0 to 1, both included."""
    scopes: tuple[Literal["stages", "all"], ...] = ("stages", "all")
    """The same fraction of every layer of one stage, or of the whole network."""
    draws: PositiveInt = 5
    """Seeded orders for `random` and `activity-matched`."""
    protocols: tuple[CumulativeProtocol, ...] = ("corrected",)
    """faithful: as the released code does it, which has orders, fractions and value of its own. The others are
    corrected but for one thing: ranked by class sums; stored batch-norm statistics; ranked on the images to ablate on;
    the random sets drawn anew for every layer and batch. Each costs about as much as corrected."""
    conditions: tuple[str, ...] | None = ("baseline",)


class LinearityConfig(MeasurementConfig):
    """How close the network is to linear; every value beside that of the network without its ReLUs."""

    pairs: PositiveInt = 1000
    """Fixed pairs of inputs of the midpoint nonlinearity."""
    cka_images: Annotated[int, Field(ge=4)] = 1000
    """Of CKA and ridge regression: a fixed random set. CKA of more than 4,000 is averaged over batches (Nguyen et al.
    2021), and ridge regression takes the first of them."""
    kalimeris_images: PositiveInt | None = None
    """Of the comparison with a linear model of the pixels, which needs many (5 C^3 for C classes, else classes are put
    into groups) and of each only its logits: so many, the same number of each class; all of the split where None."""
    top_k: tuple[PositiveInt, ...] = (1, 2, 3)
    """Largest activations averaged in the paper's cross-layer correlation."""
    conditions: tuple[str, ...] | None = ("baseline",)


class PortraitsConfig(MeasurementConfig):
    """What drives each neuron, for the report's neuron browser: class means, and the inputs that excite it most."""

    checkpoints: PositiveInt = 6
    """At so many checkpoints: step 0, the last, and between them log-spaced ones. The schedule alone decides which."""
    inputs: PositiveInt = 8
    """So many inputs of highest mean activation."""
    conditions: tuple[str, ...] | None = None
    """None: the baseline; all where there is none."""


class MeasurementsConfig(Config):
    """What is measured at every checkpoint; null leaves a measurement out."""

    batch_norm: BatchNormConfig = BatchNormConfig()
    tile: PositiveInt = 256
    """Inputs a forward: fixed and padded, since a forward's last bits depend on it."""
    selectivity: SelectivityConfig | None = SelectivityConfig()
    ablation: AblationConfig | None = AblationConfig()
    cumulative: CumulativeConfig | None = CumulativeConfig()
    linearity: LinearityConfig | None = LinearityConfig()
    portraits: PortraitsConfig | None = PortraitsConfig()


class ComputeConfig(Config):
    """Where it runs. Only `device`, `threads` and `processes` can change a number's last bits."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto`: a GPU where there is one."""
    threads: PositiveInt = 1
    """CPU threads of a work unit."""
    workers: PositiveInt | None = None
    """Work units side by side; None: cores / threads."""
    processes: PositiveInt = 1
    """Processes that share each training; `torchrun --nproc-per-node N -m vestige run STUDY` sets it."""
    state_minutes: Annotated[float, Field(gt=0)] | None = 5.0
    """The full state of a training is kept so often besides at its checkpoints; None: there alone."""


class StudyConfig(Config):
    """A whole study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    recipe: RecipeConfig = RecipeConfig()
    checkpoints: ScheduleConfig = ScheduleConfig()
    conditions: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], ConditionConfig] = Field(
        default_factory=lambda: {"baseline": ConditionConfig()}
    )
    grid: GridConfig | None = None
    """More conditions: onset x length x dose."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    measurements: MeasurementsConfig = MeasurementsConfig()
    claims: ClaimsConfig | None = None
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, settings: Any):
        if not isinstance(settings, Mapping) or not settings.get("grid"):
            return settings
        try:
            grid = GridConfig.model_validate(settings["grid"])
        except ValidationError:
            return settings  # what is wrong is named when the field is read
        stated = settings.get("conditions") or {"baseline": {}}
        added = grid.conditions()
        for name in added:
            if name in stated and ConditionConfig.model_validate(stated[name]) != added[name]:
                raise ValueError(f"the condition {name!r} stands in conditions, and otherwise in grid")
        return {**settings, "conditions": {**stated, **added}}

    @model_validator(mode="after")
    def _check(self):
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name a seed twice")
        if self.claims and (shared := set(self.claims.pilot_seeds) & set(self.seeds)):
            raise ValueError(f"seeds {sorted(shared)} are pilot seeds of the claims and may not be judged by them")
        if self.claims:
            check_conditions(self.claims, self.conditions)
        for name, measurement in self.measurements:
            for condition in getattr(measurement, "conditions", None) or ():
                if condition not in self.conditions:
                    raise ValueError(
                        f"measurements.{name}.conditions names {condition!r}, which is no condition of the study"
                    )
        return self

    @property
    def baseline(self) -> str | None:
        """The condition without interventions: the first of them."""
        return next((name for name, one in self.conditions.items() if not one.interventions), None)


def parse_study(settings: Mapping[str, Any], *, source: str) -> StudyConfig:
    """Validate the settings of a study.

    Args:
      settings: the nested mapping of a YAML file.
      source: what the settings came from, for the message.

    Raises:
      ConfigError: a field is unknown, missing, or has a value that it cannot have; all such fields are named.
    """
    try:
        return StudyConfig.model_validate(settings)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors(include_url=False)]
        raise ConfigError(
            f"reading {source}",
            found="; ".join(found for found, _ in problems),
            remedy=next((remedy for _, remedy in problems if remedy), "Mend these fields and run again"),
        ) from error


def load_study(path: Path, overrides: Sequence[tuple[str, Any]] = ()) -> StudyConfig:
    """Read a study from a YAML file.

    Args:
      path: the YAML file.
      overrides: pairs of a dotted field and its value, `("recipe.epochs", 10)`, laid over the file in order.

    Raises:
      ConfigError: the file cannot be read, or a field is wrong.
    """
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise OSError(f"{size:,} bytes, and a study has a few thousand")
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"reading the study {path}",
            found=" ".join(str(error).split()),
            remedy="Give a YAML file; `vestige studies` lists those that ship",
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"reading the study {path}",
            found="no fields in it",
            remedy="See `vestige studies` for those that ship",
        )
    for field, value in overrides:
        _lay(settings, field, value)
    return parse_study(settings, source=f"the study {path}")


def dump_study(study: StudyConfig) -> str:
    """The study as YAML, every default written out; the conditions of its grid follow from the grid."""
    settings = study.model_dump(mode="json")
    for name in study.grid.conditions() if study.grid else ():
        settings["conditions"].pop(name, None)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted fields in which two nested mappings differ, with both values (None where a side lacks the field)."""
    for key in dict.fromkeys([*a, *b]):
        x, y = a.get(key), b.get(key)
        if isinstance(x, Mapping) and isinstance(y, Mapping):
            yield from differences(x, y, f"{prefix}{key}.")
        elif x != y:
            yield f"{prefix}{key}", x, y


def parse_setting(field: str, values: Sequence[str]) -> Any:
    """The value of a field from the words of a command line: YAML each; a list where the field holds several.

    Raises:
      ConfigError: there is no value, or one that is no YAML.
    """
    try:
        parsed = [yaml.safe_load(value) for value in values]
    except yaml.YAMLError as error:
        found = " ".join(str(error).split())
        raise ConfigError(f"setting --{field}", found=found, remedy="Give a number, a word or a YAML value") from error
    if not parsed:
        raise ConfigError(f"setting --{field}", found="no value", remedy=f"Write --{field} VALUE")
    if _is_sequence(field.split(".")):
        return parsed[0] if len(parsed) == 1 and (parsed[0] is None or isinstance(parsed[0], list)) else parsed
    if len(parsed) > 1:
        raise ConfigError(f"setting --{field}", found=f"{len(parsed)} values", remedy=f"Write --{field} VALUE")
    return parsed[0]


def _is_sequence(path: Sequence[str]) -> bool:
    kinds: list[type[BaseModel]] = [StudyConfig]
    for part in path[:-1]:
        kinds = [below for kind in kinds for below in _below(kind, part)]
    annotations = [kind.model_fields[path[-1]].annotation for kind in kinds if path[-1] in kind.model_fields]
    return any(tuple in (get_origin(a), *map(get_origin, get_args(a))) for a in annotations)


def _lay(settings: Any, field: str, value: Any) -> None:
    """Set a dotted field in nested mappings and lists, making the mappings that are missing.

    Own claims are found by id and by place, whether they are a mapping or a list.
    """
    *parents, last = field.split(".")
    for depth, parent in enumerate(parents):
        if isinstance(settings, dict):
            key = _claim_at(settings, field) if parents[:depth] == ["claims", "own"] else parent
            if settings.get(key) is None:
                settings[key] = {}
            settings = settings[key]
        else:
            settings = settings[_place(settings, parent, field)]
    if isinstance(settings, dict):
        settings[_claim_at(settings, field) if parents == ["claims", "own"] else last] = value
    else:
        settings[_place(settings, last, field)] = value


def _claim_at(claims: Mapping[str, Any], field: str) -> str:
    """The own claim that a field is of, named by its id or its place; no id begins with a digit."""
    part, *below = field.split(".")[2:]
    if part.isdecimal() and int(part) < len(claims):
        return list(claims)[int(part)]
    if part not in claims and len(below) > 1:
        remedy = nearest(part, claims) if claims else "Write it in the study's YAML file"
        raise ConfigError(f"setting --{field}", found=f"there is no claim {part!r}", remedy=remedy)
    return part


def _place(values: Any, part: str, field: str) -> int:
    listed = values if isinstance(values, list) else []
    names = [_name(one, place) for place, one in enumerate(listed)] if field.startswith("claims.own.") else []
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(listed):
        return int(part)
    shown = f"a list of {len(values)}" if isinstance(values, list) else f"the value {values!r}"
    raise ConfigError(
        f"setting --{field}",
        found=f"{part!r} is to be found in {shown}",
        remedy=nearest(part, [*names, *map(str, range(len(listed)))]) if listed else "See the study's YAML file",
    )


def _name(one: Any, place: int) -> str:
    """The id of an own claim or of a clause; a clause without one is a, b, c ... by its place."""
    given = one.get("id") if isinstance(one, Mapping) else None
    return str(given) if given is not None else ascii_lowercase[place : place + 1]


def _explain(problem: Any) -> tuple[str, str]:
    path = [str(part) for part in problem["loc"]]
    field = ".".join(path)
    match problem["type"]:
        case "extra_forbidden":
            known = _fields_at([str(p) for p in problem["loc"][:-1]])
            return f"unknown field {field!r}", nearest(path[-1], known)
        case "union_tag_invalid":
            return f"{field} is of kind {problem['ctx']['tag']!r}", nearest(problem["ctx"]["tag"], KINDS)
        case "union_tag_not_found":
            return f"{field} has no kind", f"Add one of {', '.join(map(repr, KINDS))}, or my_file.py:MyIntervention"
        case "missing":
            return f"field {field!r} is missing", f"Add {field!r}"
        case "value_error":
            error = problem["ctx"]["error"]
            return f"{field + ': ' if field else ''}{error}", getattr(error, "remedy", "")
        case _:
            shown = repr(problem["input"])
            shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
            return f"{field} is {shown}: {problem['msg'][0].lower()}{problem['msg'][1:]}", ""


def _fields_at(path: Sequence[str]) -> list[str]:
    """Names of the fields that a study has at a dotted place (union members are named in the path by their kind)."""
    kinds: list[Any] = [StudyConfig]
    for part in path:
        kinds = [below for kind in kinds for below in _below(kind, part)]
    return [name for kind in kinds for name in kind.model_fields]


def _below(kind: type[BaseModel], part: str) -> list[type[BaseModel]]:
    if part in kind.model_fields:
        return list(_models_in(kind.model_fields[part].annotation))
    return [kind]  # a key of a dict, a place in a list or the tag of a union: the candidates stay


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _models_in(argument)
