"""A foreign model on the bench: what all its sets of weights share, and the identity of what is measured."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch

from vestige.config import ModelConfig
from vestige.errors import DataError, VestigeError
from vestige.foreign.data import Inputs, class_map_of, open_inputs
from vestige.foreign.folder import labels
from vestige.foreign.request import AnyRequest, Request
from vestige.foreign.subject import Subject, build_subject, check_classes, logit_width
from vestige.foreign.weight_files import WeightFile, list_weight_files, scan
from vestige.measurement.measuring import measure
from vestige.measurement.selectivity import SelectivityResult
from vestige.models.layers import find_layers
from vestige.models.observing import observe
from vestige.runs.manifest import provenance
from vestige.runs.store import value_hash
from vestige.runs.tables import SCHEMA_VERSIONS
from vestige.study.facts import identify_model
from vestige.study.plan import FORMULA_VERSIONS

KEYED = ("vestige", "torch", "torchvision", "timm", "numpy")
"""Versions that can change a number."""


@dataclass(frozen=True)
class Bench:
    """What all sets of weights share.

    Attributes:
      files: in the order in which they are measured; with no weights given, one without a name.
    """

    request: AnyRequest
    device: torch.device
    inputs: Inputs
    training: Inputs | None
    subject: Subject
    class_map: list[int] | None
    files: tuple[WeightFile, ...]

    @classmethod
    def opened(cls, request: AnyRequest, device: torch.device) -> "Bench":
        """Open everything that a command names, and see that it goes together.

        Raises:
          VestigeError: something is not there, or does not.
        """
        paths = [request.weights] if request.weights else []
        if request.checkpoints:
            paths = list_weight_files(request.checkpoints, out=request.folder)
        one = paths[0] if paths else None
        inputs = open_inputs(request, "data", one)
        training = open_inputs(request, "training_data", one) if request.training_data else None
        in_data = len(inputs.class_names) or None
        subject = build_subject(request.model, paths, asked=request.classes, in_data=in_data, shape=inputs.shape)
        # Before they are tried: weights that do not fit say more than a forward that fails.
        files = _weight_files(request, subject)
        width = logit_width(subject.model, inputs.sample())
        told: dict[str, Any] = {"asked": request.classes, "mapped": request.class_map is not None}
        check_classes(width, in_data, **told, lowest=inputs.lowest)
        if training:
            _check_training(training, inputs, width, told)
        subject = Subject(subject.model, subject.name, width)
        if request.layers:  # seen now, so that it is not said again of every file
            sample = inputs.sample()
            find_layers(observe(subject.model, sample), sample, request.layers)
        mapping = class_map_of(request, inputs, width)
        return cls(request, device, inputs, training, subject, mapping, tuple(files))

    @cached_property
    def chosen(self) -> list[tuple[WeightFile, str | None]]:
        """The sets of weights to work on, in order, each with what its files are called; the only one has no name."""
        files = [file for file in self.files if file.measured]
        if not self.request.checkpoints:
            return [(file, None) for file in files]
        return list(zip(files, labels([file.name for file in files], [file.step for file in files]), strict=True))

    @property
    def unreadable(self) -> list[VestigeError]:
        """What is wrong with each file that could not be loaded."""
        return [file.error for file in self.files if file.error]

    def rows_of(self, file: WeightFile) -> dict[str, Any]:
        """What every row of a table says of the weights and the images."""
        return {
            "condition": file.name if self.request.checkpoints and file.step is None else self.request.model,
            "seed": None,
            "step": file.step,
            "epoch": file.epoch,
            "dataset": self.inputs.name,
            "split": "",
        }

    @property
    def protocols(self) -> tuple[str, ...]:
        """Those to measure by."""
        return self.request.protocol if isinstance(self.request, Request) else ()

    @cached_property
    def ranking(self) -> Inputs | None:
        """Other images that neurons are ranked on."""
        if getattr(self.request, "ranking_data", None) is None:
            return None
        return open_inputs(self.request, "ranking_data", self.files[0].path if self.files[0].name else None)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a number, but versions and, of a folder of them, weights; free of paths."""
        request = self.request
        return {
            "model": identify_model(ModelConfig(name=request.model)),
            "weights": "a folder of them" if request.checkpoints else self.files[0].hash,
            "classes": self.subject.classes,
            "data": self.inputs.fingerprint,
            "training_data": self.training.fingerprint if self.training else None,
            **({"ranking_data": self.ranking.fingerprint} if self.ranking else {}),
            "preparation": plain(self.inputs.preparation),
            "class_map": self.class_map,
            **{name: plain(getattr(request, name)) for name in request.in_identity},
            "device": self.device.type,
        }

    def key(self, file: WeightFile, kinds: Iterable[str], **more: Any) -> str:
        """Hash of everything that can change the numbers of the tables of a set of weights.

        Args:
          file: of the weights.
          kinds: of the tables, whose formulas and columns have versions.
          more: what else can: what the command asks for.
        """
        versions: dict[str, Any] = {name: provenance()["versions"][name] for name in KEYED}
        versions |= {kind: [FORMULA_VERSIONS[kind], SCHEMA_VERSIONS[kind]] for kind in kinds}
        parts = {"identity": self.identity, "weights": file.hash, "step": file.step, "versions": versions}
        return value_hash({**parts, **more})

    @property
    def preparation(self) -> dict[str, Any]:
        """What the public functions are told of how the model and its inputs are to be prepared."""
        return {
            "batch_norm": self.request.batch_norm,
            "training_data": self.training.data if self.training else None,
            "dtype": self.request.dtype,
            "device": self.device,
            "batch_size": getattr(self.request, "batch_size", None),
            "class_map": self.class_map,
        }

    def measure(
        self, protocol: str, initial: pl.DataFrame | None, progress: Callable[[int, int | None], None]
    ) -> SelectivityResult:
        """Measure the weights that the model has now; what is to be said is in the result, and not warned of.

        Raises:
          VestigeError: it cannot be measured.
        """
        request = self.request
        assert isinstance(request, Request)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return measure(
                self.subject.model,
                self.inputs.data,
                request.layers or None,
                protocol=protocol,  # pyright: ignore[reportArgumentType] (checked before)
                permutations=request.permutations,
                rectify=request.rectify,  # pyright: ignore[reportArgumentType]
                initial=initial,
                progress=progress,
                **self.preparation,
            )


def _check_training(training: Inputs, inputs: Inputs, width: int, told: dict[str, Any]) -> None:
    """Make sure that what the model was trained on, as the user says, is of the kind that it is measured on.

    Raises:
      ConfigError: it has other classes.
      DataError: its inputs have another shape.
    """
    check_classes(width, len(training.class_names) or None, **told, lowest=training.lowest, training=True)
    if training.shape and inputs.shape and training.shape != inputs.shape:
        raise DataError(
            f"reading --training-data {training.spec!r}",
            found=f"its inputs have shape {training.shape}, those of --data {inputs.shape}",
            remedy="Give the images that the model was trained on, or one size to both: --preprocess size=...",
        )


def _weight_files(request: AnyRequest, subject: Subject) -> list[WeightFile]:
    if request.checkpoints:
        files = scan(request.checkpoints, subject.load, out=request.folder)
        good = next((file for file in files if file.measured), None)
        if good is None:
            assert files[0].error is not None
            raise files[0].error
        subject.load(good.path)
        return files
    if request.weights:
        hashed, _, notes = subject.load(request.weights)
        return [WeightFile(request.weights, request.weights.name, hashed, notes=notes)]
    return [WeightFile(Path(), "", subject.hash())]


def plain(value: Any) -> Any:
    """A value as JSON has it: lists for tuples."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
