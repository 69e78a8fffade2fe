"""Somebody's model made ready to be measured: copied, moved, its batch norm recomputed, its layers found."""

import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from vestige.config import Protocol
from vestige.data.loader import Tile
from vestige.errors import ConfigError, DataError, ModelError, check_known
from vestige.measurement.network import Dtype, Network, moved, pattern
from vestige.measurement.recalibrating import RECALIBRATION_IMAGES, BatchNorm, recalibration_inputs
from vestige.models.batchnorm import recalibrate
from vestige.models.copies import measurement_copy
from vestige.models.layers import Layer
from vestige.models.operations import first_line
from vestige.models.weights import weights_hash

FORWARD_IMAGES = 256
"""A forward takes so many in recomputing statistics, where the user does not say."""


@dataclass(frozen=True)
class Preparation:
    """What the user says of a model and how it is to be prepared: the arguments that the public functions share.

    Attributes:
      model: a classifier; it is left as it was.
      layers: see `find_layers`; None: by rule.
      batch_norm, training_data, dtype, device, batch_size, workers, class_map: see `vestige.measure`.
      doing: what an error says was being done.

    Raises:
      ConfigError: one of them does not make sense.
    """

    model: nn.Module
    layers: Sequence[str | Layer] | None
    batch_norm: BatchNorm
    training_data: Any
    dtype: Dtype
    device: torch.device | str | None
    batch_size: int | None
    workers: int
    class_map: Sequence[int] | Mapping[int, int] | None
    doing: str

    def __post_init__(self):
        check_known(self.doing, "dtype", self.dtype, get_args(Dtype))
        check_known(self.doing, "batch_norm", self.batch_norm, get_args(BatchNorm))
        if self.batch_size is not None:
            check_at_least(self.doing, "batch_size", self.batch_size, 1)
        if self.device is not None:
            _check_device(self.doing, self.device)

    def under(self, protocol: Protocol) -> "Preparation":
        """The same, but that a protocol may ask for other statistics.

        Raises:
          ConfigError: there is no such protocol.
        """
        check_known(self.doing, "protocol", protocol, get_args(Protocol))
        return replace(self, batch_norm="stored") if protocol == "faithful" else self


@dataclass(frozen=True)
class Prepared:
    """A model ready to be measured.

    Attributes:
      network: a copy, its layers found.
      class_table: the model's class by label, -1 where a label has none, int64; None where labels are its classes.
      notes: what must be said aloud, a sentence each.
      settings: what it is and how it was prepared, ready for JSON.
    """

    network: Network
    class_table: Tensor | None
    notes: tuple[str, ...]
    settings: Mapping[str, Any]

    def mapped(self, labels_N: np.ndarray) -> np.ndarray:
        """The model's classes of some labels, int64.

        Raises:
          DataError: a label has none.
        """
        return labels_N if self.class_table is None else _mapped(labels_N, self.class_table)

    def relabelled(self, tile: Tile) -> Tile:
        """A tile with the model's classes for labels.

        Raises:
          DataError: a label has none.
        """
        if self.class_table is None:
            return tile
        return tile._replace(labels=torch.from_numpy(_mapped(tile.labels.cpu().numpy(), self.class_table)))


def prepare(how: Preparation, first: Any) -> Prepared:
    """Copy a model to measure it.

    Args:
      how: the model, and what is to be done with it.
      first: inputs of one batch.

    Raises:
      ConfigError: the class map is wrong.
      DataError: the training data cannot be read.
      ModelError: it is no classifier, cannot take the inputs, or has no such layer.
    """
    own = _copied(how.model, how.device, how.dtype, how.doing)
    notes = _set_batch_norm(own, how.batch_norm, how.training_data, how.batch_size or FORWARD_IMAGES)
    network = Network.prepare(own, tree_map(lambda value: value[:2], first), how.layers, dtype=how.dtype)
    notes += [note for note in (network.graph.note, getattr(network.layers, "note", "")) if note]
    notes += _deviation(network, first)
    table = None if how.class_map is None else _class_table(how.class_map, network.classes)
    settings = {
        "model": type(how.model).__name__,
        "weights": weights_hash(how.model.state_dict()),
        "batch_norm": "stored" if how.training_data is None else how.batch_norm,
        "dtype": how.dtype,
        "layers": [layer.name for layer in network.layers],
        "versions": versions(),
    }
    return Prepared(network, table, tuple(notes), settings)


def check_at_least(doing: str, name: str, number: float, least: int) -> None:
    """Make sure that an argument is not too small.

    Raises:
      ConfigError: it is.
    """
    if number < least:
        raise ConfigError(doing, found=f"{name} is {number}", remedy=f"Give {least} or more")


def warn_of(notes: Iterable[str]) -> None:
    """Say notes aloud, as warnings of whoever called the public function that calls this."""
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=3)


def versions() -> dict[str, str]:
    """What made the numbers, for the record."""
    packages = ("vestige", "torch", "numpy", "scipy")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}


def _check_device(doing: str, device: torch.device | str) -> None:
    """Make sure that tensors can be put there.

    Raises:
      ConfigError: they cannot; the message has the first sentence of torch's reason.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:  # torch: by kind of device
        reason = first_line(error).split(". ")[0]
        raise ConfigError(
            doing, found=f"device {str(device)!r} cannot be used: {reason}", remedy="Give 'cpu', or a GPU that is here"
        ) from error


def _copied(model: nn.Module, device: torch.device | str | None, dtype: Dtype, doing: str) -> nn.Module:
    """A copy to measure: eval mode, on the device, in the dtype."""
    if not isinstance(model, nn.Module):
        raise ModelError(doing, found=f"a {type(model).__name__}", remedy="Give a torch.nn.Module")
    own = measurement_copy(model)
    wide = dtype == "float64"
    kinds = {False: torch.float64 if wide else torch.float32, True: torch.complex128 if wide else torch.complex64}

    def move(tensor: Tensor) -> Tensor:
        exact = tensor.is_floating_point() or tensor.is_complex()
        return tensor.to(device, kinds[tensor.is_complex()] if exact else tensor.dtype)

    return own._apply(move).eval()


def _set_batch_norm(own: nn.Module, batch_norm: BatchNorm, training_data: Any, batch_size: int) -> list[str]:
    """Recompute batch-norm statistics where that is wished and can be done; what must be said of it."""
    norms = [module for module in own.modules() if isinstance(module, _BatchNorm)]
    notes = []
    if any(norm.running_mean is None for norm in norms):
        notes.append(
            "Some batch norms keep no statistics and use those of each batch: the numbers depend on how the images "
            "fall into batches."
        )
    if batch_norm == "stored" or all(norm.running_mean is None for norm in norms):
        return notes
    if training_data is None:
        return [
            *notes,
            "Batch-norm statistics are the stored ones: without training_data they cannot be recomputed. Early in "
            "training stored ones lag behind the weights (batch_norm='stored' takes them without this warning).",
        ]
    like = pattern(own)
    inputs = recalibration_inputs(training_data, RECALIBRATION_IMAGES, batch_size)
    recalibrate(own, (moved(_finite(x), like) for x in inputs))
    return notes


def _finite(inputs: Any) -> Any:
    """Training inputs, which must be numbers: it would not be the network that has diverged.

    Raises:
      DataError: some are NaN or infinite.
    """
    if not all(leaf.isfinite().all() for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)):
        raise DataError(
            "recomputing batch-norm statistics",
            found="some training inputs are NaN or infinite",
            remedy="Look at how they are read and normalised, or leave them out",
        )
    return inputs


def _deviation(network: Network, inputs: Any) -> Iterator[str]:
    """How far bfloat16 is from float32 on the first batch."""
    if network.dtype != "bfloat16":
        return
    (low_NC, low), (logits_NC, exact) = (each.forward(inputs) for each in (network, replace(network, dtype="float32")))
    worst = max(
        float((low[name].float().flatten(1) - full.flatten(1)).norm() / full.norm().clamp(min=1e-30))
        for name, full in exact.items()
    )
    differ = (low_NC.argmax(1) != logits_NC.argmax(1)).float().mean()
    yield (
        f"bfloat16: on the first {len(logits_NC)} images activations deviate from float32 by up to {worst:.2g} of "
        f"their norm, and {differ:.2%} of the predictions differ."
    )


def _class_table(class_map: Sequence[int] | Mapping[int, int], classes: int) -> Tensor:
    """Model class by label; -1 where a label has none."""
    pairs = dict(class_map.items()) if isinstance(class_map, Mapping) else dict(enumerate(class_map))
    wrong = [(label, index) for label, index in pairs.items() if label < 0 or not 0 <= index < classes]
    if not pairs or wrong:
        found = f"label {wrong[0][0]} is mapped to {wrong[0][1]}" if wrong else "it is empty"
        raise ConfigError(
            "reading class_map",
            found=f"{found}, and the model's classes are 0 to {classes - 1}",
            remedy="Give the model's class index of every label of the data",
        )
    table = torch.full((max(pairs) + 1,), -1, dtype=torch.int64)
    for label, index in pairs.items():
        table[label] = int(index)
    return table


def _mapped(labels: np.ndarray, table: Tensor) -> np.ndarray:
    known = (labels >= 0) & (labels < len(table))
    mapped = np.where(known, table.numpy()[np.where(known, labels, 0)], -1)
    if (mapped < 0).any():
        raise DataError(
            "mapping the labels to the model's classes",
            found=f"label {labels[mapped < 0][0]} is not in class_map",
            remedy="Give the model's class index of every label of the data",
        )
    return mapped
