"""What would be measured in a model, and why: `vestige.layers`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from vestige.errors import ModelError
from vestige.models.copies import unwrapped
from vestige.models.layers import Layers, find_layers
from vestige.models.observing import observe

_SIZES = (224, 32, 64, 28, 256, 299, 384, 128, 96, 16, 8)
_LENGTHS = (1024, 128, 16_000)


def layers(model: nn.Module, inputs: Any = None) -> Layers:
    """The layers of a model that would be measured, each with the rule that found it.

    The model is left exactly as it was.

    Args:
      model: any classifier.
      inputs: a few: a tensor (N, ...), a tuple or list (several arguments) or a dict (named ones). Without them,
        images are guessed from what the model says of itself, or from its first weights.

    Returns:
      the layers from input to output: a tuple that prints as a table. Its `.note` says what must be said aloud.

    Raises:
      ModelError: nothing was found to measure, or the model cannot be run on these, or on any guessed, inputs.
    """
    if inputs is None:
        inputs = _guessed(model)
    network = observe(model, inputs)
    found = find_layers(network, inputs)
    return Layers(found, " ".join(note for note in (network.note, found.note) if note))


def _guessed(model: nn.Module) -> Tensor:
    """Zeros of the first shape that the model takes, N = 2."""
    model = unwrapped(model)
    for shape in _shapes(model):
        inputs = _zeros(model, shape)
        try:
            observe(model, inputs)
        except (ModelError, MemoryError):
            continue
        return inputs
    raise ModelError(
        f"guessing what a {type(model).__name__} takes",
        found="it takes none of the usual sizes of images",
        remedy="Give some of its inputs: layers(model, inputs=...)",
    )


def _zeros(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    like = next(model.parameters(), torch.empty(0))
    dtype = like.dtype if like.is_floating_point() else torch.float32
    return torch.zeros(2, *shape, device=like.device, dtype=dtype)


def _shapes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    said = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(said, dict) and said.get("input_size"):
        yield tuple(said["input_size"])
    first = next((m for m in model.modules() if isinstance(m, _ConvNd | nn.Linear)), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
        return
    channels = 3 if first is None else first.in_channels
    dimensions = 2 if first is None else len(first.kernel_size)
    for size in _SIZES if dimensions > 1 else _LENGTHS:
        yield (channels, *[size] * dimensions)
