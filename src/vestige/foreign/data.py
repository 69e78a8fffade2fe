"""Somebody's images for somebody's model: opened, prepared as the model wants them, their classes named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vestige.config import DataConfig
from vestige.data.class_map import read_class_map
from vestige.data.datasets import open_images
from vestige.data.fingerprint import dataset_name, fingerprint, split_spec
from vestige.data.imageset import ImageSet, OnBadImage
from vestige.data.labels import class_names
from vestige.data.presets import caveat, parse_preprocess
from vestige.data.transforms import normalise
from vestige.data.userdata import holds_images, load_data
from vestige.errors import ConfigError, DataError
from vestige.foreign.request import SPLITS, AnyRequest
from vestige.measurement.inputs import batches


@dataclass(frozen=True)
class Inputs:
    """What a model is measured on.

    Attributes:
      spec, name: as asked for, and short.
      fingerprint: identity by content.
      data: as `vestige.measure` takes it.
      preparation: fields of `DataConfig`; empty where the data come as the model takes them.
      class_names: of the data, in the order of their labels; empty where not known.
      shape: of one input; empty where it is no single tensor.
      notes: what must be said.
    """

    spec: str
    name: str
    fingerprint: str
    data: Any
    preparation: Mapping[str, Any]
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> int | None:
        """How many there are, where that is known."""
        return batches(self.data, batch_size=1).length

    @property
    def lowest(self) -> int:
        """The lowest label; 0 where that is not known."""
        labels = self.data[0].labels if self._of_images else batches(self.data, batch_size=1).labels
        return 0 if labels is None else int(labels.min())

    @property
    def skipped(self) -> list[str]:
        """What is wrong with each image that was left out so far, in this process."""
        return self.data[0].skipped if self._of_images else []

    def sample(self) -> Any:
        """A batch of one input or a few, as the model takes it."""
        if self._of_images:
            images, config = self.data
            readable = next((views for i in range(len(images)) if len(views := images.readable([i])[0])), None)
            if readable is None:
                raise DataError(f"reading {images.name}", found="no image in it can be read", remedy="Give images")
            return normalise(readable, config.mean, config.std)
        return next(iter(batches(self.data, batch_size=1))).inputs

    def said(self) -> str:
        """The preparation in words."""
        if not self.preparation:
            return "as the data give them"
        fields = {name: value for name, value in self.preparation.items() if value is not None}
        size, resize = fields.get("size"), fields.get("resize")
        parts = [
            f"resized to {resize} ({fields.get('interpolation', 'bilinear')}), cropped to {size} × {size}"
            if size and resize
            else (f"resized to {size} × {size}" if size else "in their own size"),
            f"mean {_numbers(fields['mean'])}, standard deviation {_numbers(fields['std'])}",
        ]
        return ", ".join(parts)

    @property
    def _of_images(self) -> bool:
        return isinstance(self.data, tuple) and isinstance(self.data[0], ImageSet)


def open_inputs(request: AnyRequest, role: str, weights: Path | None) -> Inputs:
    """Open the images that a command names.

    Args:
      request: the command.
      role: `data`, `training_data` or `ranking_data`.
      weights: the file of weights, by whose name torchvision's preparation of images may be known.

    Raises:
      DataError: the images are not there, or cannot be used.
      ConfigError: how they are to be prepared is not said or not known.
    """
    spec, split = getattr(request, role), SPLITS[role]
    known = (spec, dataset_name(spec), fingerprint(spec, split))
    if split_spec(spec).kind == "python":
        data = load_data(spec, split)
        if not holds_images(data):
            return _ready_made(request, known, data)
    fields = parse_preprocess(request.preprocess, request.model, weights)
    config = DataConfig.model_validate({**fields, "limit_test": request.limit})
    bad: OnBadImage = "skip" if request.on_bad_image == "skip" else "error"
    images = open_images(spec, split, config, on_bad_image=bad)
    said = caveat(request.model) if request.preprocess.startswith("auto") else ""
    prepared = {**fields, "channels": config.channels, "mean": config.mean, "std": config.std}
    return Inputs(*known, (images, config), prepared, images.class_names, images.shape, (said,) if said else ())


def class_map_of(request: AnyRequest, inputs: Inputs, classes: int) -> list[int] | None:
    """The model's class of each label, from the file that the command names.

    Args:
      request: the command.
      inputs: to be measured on.
      classes: of the model.

    Raises:
      DataError: there is no such file, or it does not fit the data.
      ConfigError: the classes of the data are not known.
    """
    if request.class_map is None:
        return None
    if not inputs.class_names:
        raise ConfigError(
            f"reading --class-map {request.class_map}",
            found="the classes of the data are not known before they are read",
            remedy="Let the dataset have `classes` or `targets`, or give the model's indices as its labels",
        )
    return read_class_map(request.class_map, inputs.class_names, outputs=classes).tolist()


def names_by_model_class(inputs: Inputs, mapping: Sequence[int] | None, classes: int) -> list[str]:
    """The data's names of the model's classes; empty where the data have no such class."""
    names = [""] * classes
    for label, name in enumerate(inputs.class_names):
        index = label if mapping is None else mapping[label]
        if index < classes:
            names[index] = name
    return names


def _ready_made(request: AnyRequest, known: tuple[str, str, str], data: Any) -> Inputs:
    """Data that are inputs already: nothing is prepared."""
    if request.limit is not None:
        raise ConfigError(
            f"reading the data {known[0]!r}",
            found="--limit is for images; these are inputs already",
            remedy="Let the file give fewer",
        )
    notes = ()
    if request.preprocess != "auto":
        notes = ("The data are inputs already: --preprocess was not applied.",)
    feed = batches(data, batch_size=1)
    first = next(iter(feed)).inputs
    shape: Sequence[int] = first.shape[1:] if isinstance(first, torch.Tensor) else ()
    labelled = 0 if feed.labels is None else int(feed.labels.max()) + 1
    return Inputs(*known, data, {}, tuple(class_names(data, labelled)), tuple(shape), notes)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
