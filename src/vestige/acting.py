"""What can act on training, as it is described in a study's YAML file: typed, frozen, every default here."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

LabelMode = Annotated[Literal["true", "permuted", "partition"], BeforeValidator(lambda v: "true" if v is True else v)]
"""`permuted` reshuffles the labels within every batch; `partition` once, over all training images: random classes that
stay (YAML reads a bare `true` as a boolean)."""


class Config(BaseModel):
    """A frozen part of a study; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Window(Config):
    """The optimiser steps [start, stop) in which an intervention acts."""

    start: Annotated[float, Field(ge=0)] = 0
    stop: Annotated[float, Field(gt=0)] | None = None
    """None: the end of training."""
    unit: Literal["steps", "epochs"] = "steps"

    @model_validator(mode="after")
    def _check(self):
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"the window ends at {self.stop:g} {self.unit}, not after its start at {self.start:g}")
        if self.unit == "steps" and any(x != int(x) for x in (self.start, self.stop or 0)):
            raise ValueError("a window in steps takes whole numbers")
        return self

    def in_steps(self, steps_per_epoch: int, total: int) -> tuple[int, int]:
        """The first step and the one after the last, epochs rounded to the nearest step; it may lie beyond `total`."""
        scale = steps_per_epoch if self.unit == "epochs" else 1
        return round(self.start * scale), total if self.stop is None else round(self.stop * scale)


class ActingConfig(Config):
    """Something that acts on training within a window."""

    window: Window = Window()

    def identity(self) -> dict[str, Any]:
        """What can change a number; fields younger than the first runs only where they are not at their default."""
        stored = self.model_dump(mode="json")
        plain = {name: field.get_default(call_default_factory=True) for name, field in type(self).model_fields.items()}
        return {name: value for name, value in stored.items() if name in _FIRST or getattr(self, name) != plain[name]}

    def acting(self, window: tuple[int, int]) -> tuple[int, int]:
        """The steps [start, stop) in which it changes something, of those of its window."""
        return window


_FIRST = {"kind", "alpha", "estimator", "labels", "stages", "window"}
"""Fields that interventions have had from the beginning."""


class PenaltyConfig(ActingConfig):
    """What penalties have in common."""

    alpha: float = -20.0
    """Below 0 against the index, above 0 for it; with `dose: matched` only its sign counts."""
    labels: LabelMode = "true"
    dose: Literal["alpha", "matched"] = "alpha"
    """`matched`: at each step the penalty's gradient is rescaled to `share` of the norm of the cross-entropy's."""
    share: Annotated[float, Field(ge=0)] = 0.5
    stages: tuple[str, ...] | None = None
    """None: all but the last."""


class SelectivityPenaltyConfig(PenaltyConfig):
    """loss = CE - alpha * mean over stages of (mean over neurons of CSI); alpha < 0 suppresses selectivity."""

    kind: Literal["selectivity"] = "selectivity"
    estimator: Literal["mean", "running", "sum"] = "mean"
    """`mean`: class means (Leavitt & Morcos 2020); `running`: their exponential moving averages; `sum`: class sums, as
    the paper's released code does."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """`running`: weight of the class means so far, at a step at which the class is in the batch."""


class Eta2PenaltyConfig(PenaltyConfig):
    """loss = CE - alpha * mean over stages of (mean over neurons of eta squared)."""

    kind: Literal["eta2"] = "eta2"


class NoiseConfig(ActingConfig):
    """A random gradient, of `share` of the norm of the cross-entropy's, is added at each step."""

    kind: Literal["noise"] = "noise"
    share: Annotated[float, Field(ge=0)] = 0.5
    stages: tuple[str, ...] | None = None
    """Whose csi, eta2 and closed are logged; None: all but the last."""


class OffsetShamConfig(ActingConfig):
    """At the window's end batch-norm biases are set so that `closed` and CSI are those of another condition there."""

    kind: Literal["offset-sham"] = "offset-sham"
    target: str = "early"
    """The condition whose tables of that step are matched."""
    stages: tuple[str, ...] | None = None

    def acting(self, window: tuple[int, int]) -> tuple[int, int]:
        """The window's last step."""
        return window[1] - 1, window[1]


class ClampConfig(ActingConfig):
    """Neurons are held at zero: those of a table, or those that the baseline's selectivity table ranks first."""

    kind: Literal["clamp"] = "clamp"
    table: str | None = None
    """A Parquet or CSV file with columns `layer` and `neuron`; None: neurons are chosen by the fields below."""
    by: str = "csi"
    """The column of the baseline's selectivity table (corrected protocol) that ranks the neurons of each layer."""
    order: Literal["desc", "asc", "random"] = "desc"
    fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """So large a part of each layer, the first in this order."""
    step: Annotated[int, Field(ge=0)] | None = None
    """The baseline's checkpoint that the table is of; None: the last one up to the window's start."""
    stages: tuple[str, ...] | None = None


class RewindConfig(ActingConfig):
    """At the window's start some layers get the weights back that they had at an earlier checkpoint."""

    kind: Literal["rewind"] = "rewind"
    to: Annotated[int, Field(ge=0)] = 0
    """The step of the checkpoint."""
    of: Literal["run", "baseline"] = "run"
    """Whose checkpoint: the run's own, or its baseline's of the same seed."""
    modules: Annotated[tuple[str, ...], Field()] = ()
    """Paths of modules, or patterns of them: `layer3`, `layer*.0.conv1`; what lies within goes with them."""
    stages: tuple[str, ...] | None = None
    """Whose csi, eta2 and closed are logged; None: all but the last."""

    def acting(self, window: tuple[int, int]) -> tuple[int, int]:
        """The window's first step."""
        return window[0], window[0] + 1


class LearningRateConfig(ActingConfig):
    """Another learning rate within the window: the schedule's times a factor."""

    kind: Literal["lr"] = "lr"
    factor: Annotated[float, Field(ge=0)] = 0.1
    stages: tuple[str, ...] | None = None
    """Whose csi, eta2 and closed are logged; None: all but the last."""


class OwnInterventionConfig(ActingConfig):
    """A class from the user's own file: `my_file.py:MyIntervention`."""

    kind: Annotated[str, Field(pattern=r"\.py:.")]
    settings: dict[str, Any] = {}
    """Passed to the class by name."""


def _intervention_kind(value: Any) -> Any:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "own" if isinstance(kind, str) and ".py:" in kind else kind


InterventionConfig = Annotated[
    Annotated[SelectivityPenaltyConfig, Tag("selectivity")]
    | Annotated[Eta2PenaltyConfig, Tag("eta2")]
    | Annotated[NoiseConfig, Tag("noise")]
    | Annotated[OffsetShamConfig, Tag("offset-sham")]
    | Annotated[ClampConfig, Tag("clamp")]
    | Annotated[RewindConfig, Tag("rewind")]
    | Annotated[LearningRateConfig, Tag("lr")]
    | Annotated[OwnInterventionConfig, Tag("own")],
    Discriminator(_intervention_kind),
]
KINDS = ("selectivity", "eta2", "noise", "offset-sham", "clamp", "rewind", "lr")


def name_interventions(configs: Sequence[InterventionConfig]) -> list[str]:
    """A name for each, unique in its run: `eta2`, `eta2-permuted`; the second of a name is `eta2-2`."""
    seen: Counter[str] = Counter()
    names = []
    for config in configs:
        name = config.kind
        if isinstance(config, OwnInterventionConfig):
            name = name.rpartition(":")[2].replace(".", "-")
        if isinstance(config, PenaltyConfig) and config.labels != "true":
            name = f"{name}-{config.labels}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


class ConditionConfig(Config):
    """A schedule of interventions; none is the baseline."""

    description: str = ""
    interventions: tuple[InterventionConfig, ...] = ()


def plain(number: float) -> str:
    """A number as it stands in names, large ones with all their digits: `1e+06` is no part of a name."""
    short = f"{number:g}"
    return short if "e+" not in short else f"{Decimal(repr(number)):f}".removesuffix(".0")


class GridConfig(Config):
    """Conditions of one intervention at every onset, of every length, in every dose: `csi-on40-for20-alpha-20`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "grid"
    """The names of its conditions begin with it."""
    intervention: InterventionConfig
    """What is done; its window and dose are replaced."""
    onset: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    length: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    dose: tuple[float, ...] | None = None
    """Of `alpha`; of `share` where the dose is matched and for noise, of `factor` for lr, of `fraction` for clamp."""
    unit: Literal["steps", "epochs"] = "steps"

    @model_validator(mode="after")
    def _check(self):
        for name in ("onset", "length", "dose"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice")
        if self.dose is not None and self.doses is None:
            raise ValueError(f"an intervention of kind {self.intervention.kind!r} has no dose to vary")
        self.conditions()
        return self

    @property
    def doses(self) -> str | None:
        """The field that `dose` varies."""
        if isinstance(self.intervention, PenaltyConfig):
            return "share" if self.intervention.dose == "matched" else "alpha"
        return {"noise": "share", "lr": "factor", "clamp": "fraction"}.get(self.intervention.kind)

    def cells(self) -> Iterator[tuple[str, float, float, float | None]]:
        """Name of the condition, onset, length and dose."""
        for onset, length, dose in product(self.onset, self.length, self.dose or (None,)):
            ending = "" if dose is None else f"-{self.doses}{plain(dose)}"
            mark = "e" if self.unit == "epochs" else ""
            yield f"{self.name}-on{plain(onset)}{mark}-for{plain(length)}{mark}{ending}", onset, length, dose

    def conditions(self) -> dict[str, ConditionConfig]:
        """All of them."""
        found = {}
        for name, onset, length, dose in self.cells():
            window = {"start": onset, "stop": onset + length, "unit": self.unit}
            chosen = {} if dose is None else {self.doses: dose}
            one = {**self.intervention.model_dump(), "window": window, **chosen}
            told = f"{self.intervention.kind} from {plain(onset)} for {plain(length)} {self.unit}"
            told += "" if dose is None else f", {self.doses} {plain(dose)}"
            found[name] = ConditionConfig.model_validate({"description": told, "interventions": [one]})
        return found
