"""Somebody's model with somebody's weights: built for the right number of classes, and tried on an input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vestige.config import ModelConfig
from vestige.errors import ConfigError, ModelError
from vestige.models.observing import logits_of
from vestige.models.operations import call, own
from vestige.models.weights import classes_of_weights, load_weights, read_weights, weights_hash
from vestige.models.zoo import build

UNKNOWN_CLASSES = 1000
"""What a model is built for where only its weights will tell."""


@dataclass(frozen=True)
class Subject:
    """A model to be measured.

    Attributes:
      model: its weights change from one file to the next.
      name: as it was asked for.
      classes: width of its logits.
    """

    model: nn.Module
    name: str
    classes: int

    @property
    def kind(self) -> str:
        """Name of its class."""
        return type(self.model).__name__

    @property
    def parameters(self) -> int:
        """How many numbers it has learnt."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def normalised(self) -> bool:
        """Whether it has batch-norm statistics."""
        return any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in self.model.modules())

    def load(self, path: Path) -> tuple[str, Mapping[str, Any], tuple[str, ...]]:
        """Take the weights of a file.

        Returns:
          The hash of the weights, what the file holds, and what must be said.

        Raises:
          ModelError: it cannot be read, or does not fit; the model is as it was.
        """
        content = read_weights(path)
        notes = load_weights(self.model, content, str(path))
        return self.hash(), content, notes

    def hash(self) -> str:
        """Of the weights that it has now."""
        return weights_hash(self.model.state_dict())


def build_subject(
    name: str, files: Sequence[Path], *, asked: int | None, in_data: int | None, shape: Sequence[int]
) -> Subject:
    """Build a model for as many classes as its weights are for, or else the user says, or else the data have.

    Args:
      name: `torchvision:NAME`, `timm:NAME`, `path.py:object`, or one of the project's own.
      files: of weights, of which the first that can be read tells the number of classes; none: fresh weights.
      asked: the number of classes that the user gives.
      in_data: the number of classes of the data, where known.
      shape: of one input.

    Raises:
      ModelError: there is no such model, or it cannot be built so.
      ConfigError: `asked` is not what the weights are for.
    """
    channels, size = (shape[0], shape[-1]) if len(shape) == 3 else (3, 224)

    def made(classes: int) -> nn.Module:
        config = ModelConfig(name=name)
        return build(config, classes=classes, channels=channels, size=size, seed=0).eval()

    guess = asked or in_data or UNKNOWN_CLASSES
    model = made(guess)
    seen = _classes_in(model, files, guess)
    if seen is None or seen == guess:
        return Subject(model, name, guess)
    if asked:
        raise ConfigError(
            f"building the model {name!r}",
            found=f"--classes is {asked}, and the weights are for {seen} classes",
            remedy="Leave --classes out",
        )
    return Subject(made(seen), name, seen)


def logit_width(model: nn.Module, inputs: Any) -> int:
    """How many logits a model gives for an input.

    Args:
      model: in eval mode; left as it is.
      inputs: one batch, as the model takes it.

    Raises:
      ModelError: its forward fails, or does not give a row of logits an input.
    """
    doing = f"trying the {type(model).__name__} on {_described(inputs)}"
    try:
        with torch.no_grad():
            output = call(model, own(inputs))
    except Exception as error:
        raise ModelError(
            doing,
            found=f"its forward raises {type(error).__name__}: {' '.join(str(error).split())}",
            remedy="Check --preprocess (size, channels) against what the model was made for",
        ) from error
    logits = logits_of(output)
    if logits.ndim != 2:
        raise ModelError(
            doing,
            found=f"it gives shape {tuple(logits.shape)}, not a row of logits for each input",
            remedy="Give a classifier",
        )
    return logits.shape[1]


def check_classes(
    width: int, in_data: int | None, *, asked: int | None, mapped: bool, lowest: int = 0, training: bool = False
) -> None:
    """Make sure that the labels of the data can be those of the model.

    Args:
      width: of the logits.
      in_data: classes of the data, where known.
      asked: the number of classes that the user gives.
      mapped: whether there is a class map.
      lowest: the data's lowest label, 0 where that is not known.
      training: whether they are the training data.

    Raises:
      ConfigError: the numbers differ and nothing says which class is which, or the user's number is not the model's.
    """
    what = "the training data" if training else "the data"
    doing = f"comparing the classes of the model and {what}"
    if asked and asked != width:
        raise ConfigError(
            doing, found=f"--classes is {asked}, and the model gives {width} logits", remedy="Leave it out"
        )
    if mapped or in_data is None or in_data == width or (asked == width and in_data <= width):
        return
    if lowest == 1 and in_data == width + 1:
        raise ConfigError(
            doing,
            found=f"the model has {width} classes, {what} have {in_data} (labels 1 to {width})",
            remedy="If the labels count from 1, subtract 1: the model's classes count from 0",
        )
    raise ConfigError(
        doing,
        found=f"the model has {width} classes, {what} have {in_data}",
        remedy=(_TRAINED_ON if training else _WHICH)
        + (f"; or --classes {width} where the labels are the model's indices already" if in_data < width else ""),
    )


_WHICH = "Say which is which: --class-map FILE, with the model's class index for each class of the data"
_TRAINED_ON = "Give the images that the model was trained on"


def _classes_in(model: nn.Module, files: Sequence[Path], guess: int) -> int | None:
    """What the first readable file says; a file that is not is reported when its turn comes."""
    for path in files:
        try:
            content = read_weights(path)
            seen = classes_of_weights(model, content, guess, str(path))
        except ModelError:
            continue
        if seen is not None:
            return seen
    return None


def _described(inputs: Any) -> str:
    return f"inputs of shape {tuple(inputs.shape)}" if isinstance(inputs, torch.Tensor) else "its inputs"
