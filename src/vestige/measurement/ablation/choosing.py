"""Which neurons a user means: by layer, in a table, or in groups, checked against the network."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vestige.errors import ConfigError, nearest
from vestige.models.layers import Layer

_DOING = {"neurons": "choosing neurons to ablate", "groups": "reading the groups of neurons"}


@dataclass(frozen=True)
class NeuronGroup:
    """Neurons that are ablated together.

    Attributes:
      name: as the user's table has it, as text.
      units: by layer name, ascending.
    """

    name: str
    units: Mapping[str, Tensor]

    @property
    def size(self) -> int:
        """How many neurons it has."""
        return sum(map(len, self.units.values()))


def named_layers(neurons: Any, groups: Any) -> list[str] | None:
    """Names of the layers that the neurons or groups are in; None where neither is given.

    Raises:
      ConfigError: they cannot be read.
    """
    if neurons is None and groups is None:
        return None
    names: list[str] = []
    if neurons is not None:
        names += [layer for layer, _ in _pairs(neurons)]
    if groups is not None:
        layers, _, labels = _columns(groups, ("layer", "neuron", "group"), "groups")
        _group_names(labels)
        names += list(map(str, layers))
    if not names and groups is None:
        raise ConfigError(_DOING["neurons"], found="none is named", remedy="Name one at least, or leave it out for all")
    return list(dict.fromkeys(names))


def chosen_units(neurons: Any, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The neurons to ablate by layer name, ascending, each once.

    Args:
      neurons: a mapping of layer names to indices, or a table with the columns layer and neuron.
      layers: of the network.

    Raises:
      ConfigError: they cannot be read, or there is no such layer or neuron.
    """
    found: dict[str, set[int]] = {}
    for name, neuron in _pairs(neurons):
        found.setdefault(name, set()).add(_checked(name, neuron, layers, "neurons"))
    return {layer.name: torch.tensor(sorted(found[layer.name])) for layer in layers if layer.name in found}


def neuron_groups(groups: Any, layers: Sequence[Layer]) -> list[NeuronGroup]:
    """The groups of a table, in the order in which they come first.

    Args:
      groups: a table with the columns layer, neuron and group.
      layers: of the network.

    Raises:
      ConfigError: it is no such table, there is no such layer or neuron, or a group has no name.
    """
    names, neurons, labels = _columns(groups, ("layer", "neuron", "group"), "groups")
    found: dict[str, dict[str, set[int]]] = {}
    for name, neuron, label in zip(names, neurons, _group_names(labels), strict=True):
        unit = _checked(str(name), neuron, layers, "groups")
        found.setdefault(label, {}).setdefault(str(name), set()).add(unit)
    order = {layer.name: place for place, layer in enumerate(layers)}
    return [
        NeuronGroup(label, {name: torch.tensor(sorted(units[name])) for name in sorted(units, key=order.__getitem__)})
        for label, units in found.items()
    ]


def as_table(neurons: Mapping[str, Tensor], groups: Sequence[NeuronGroup]) -> dict[str, Tensor]:
    """Neurons and those of groups, together, by layer name."""
    together: dict[str, set[int]] = {}
    for units in (neurons, *(group.units for group in groups)):
        for name, indices in units.items():
            together.setdefault(name, set()).update(indices.tolist())
    return {name: torch.tensor(sorted(indices)) for name, indices in together.items()}


def _group_names(labels: Sequence[Any]) -> list[str]:
    """The name of each row's group, as text."""
    remedy = "Name every group by text or a number"
    texts: dict[Any, str] = {}
    for label in labels:
        text = str(label)
        if label is None or (not isinstance(label, str) and text in ("nan", "NaT", "<NA>")):
            raise ConfigError(_DOING["groups"], found=f"a group is named {text}", remedy=remedy)
        try:
            texts.setdefault(label, text)
        except TypeError as error:
            found = f"a group is named {text}, a {type(label).__name__}"
            raise ConfigError(_DOING["groups"], found=found, remedy=remedy) from error
    for text, count in Counter(texts.values()).items():
        if count > 1:
            found = f"{count} groups are named {text}, as text and otherwise"
            raise ConfigError(_DOING["groups"], found=found, remedy="Give each a name of its own, of one type")
    return [texts[label] for label in labels]


def _pairs(neurons: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(neurons, Mapping) and set(neurons) != {"layer", "neuron"}:
        for name, indices in neurons.items():
            listed = [indices] if isinstance(indices, int | np.integer) else indices
            yield from ((str(name), index) for index in _listed(listed, f"neurons[{name!r}]"))
        return
    names, indices = _columns(neurons, ("layer", "neuron"), "neurons")
    yield from ((str(name), index) for name, index in zip(names, indices, strict=True))


def _columns(table: Any, wanted: Sequence[str], what: str) -> list[list[Any]]:
    """Columns of a table of polars, pandas or pyarrow, or of a mapping of columns."""
    there = (
        list(table)
        if isinstance(table, Mapping)
        else list(getattr(table, "column_names", getattr(table, "columns", [])))
    )
    if not there:
        raise ConfigError(
            _DOING[what],
            found=f"{what} is a {type(table).__name__}",
            remedy=f"Give a table with the columns {_and(wanted)}",
        )
    for column in wanted:
        if column not in there:
            raise ConfigError(
                _DOING[what],
                found=f"the table has no column {column!r}, but {_and(map(str, there))}",
                remedy=f"Give a table with the columns {_and(wanted)}",
            )
    columns = [_listed(table[column], f"the column {column!r}") for column in wanted]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ConfigError(
            _DOING[what],
            found=f"the columns {_and(wanted)} have {_and(map(str, lengths))} rows",
            remedy="Give columns of equal length",
        )
    if what == "groups" and not columns[0]:
        raise ConfigError(_DOING[what], found="the table has no row", remedy="Give a row for each neuron of a group")
    return columns


def _listed(values: Any, what: str) -> list[Any]:
    for method in ("to_list", "tolist", "to_pylist"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    try:
        return list(values)
    except TypeError as error:
        raise ConfigError(
            _DOING["neurons"], found=f"{what} is a {type(values).__name__}", remedy="Give a list of indices from 0"
        ) from error


def _checked(name: str, neuron: Any, layers: Sequence[Layer], what: str) -> int:
    units = {layer.name: layer.units for layer in layers}
    if name not in units:
        raise ConfigError(_DOING[what], found=f"there is no layer {name!r}", remedy=nearest(name, units))
    whole = isinstance(neuron, int | np.integer) or (isinstance(neuron, float) and neuron.is_integer())
    if not whole or isinstance(neuron, bool) or not 0 <= int(neuron) < units[name]:
        raise ConfigError(
            _DOING[what],
            found=f"layer {name!r} has no neuron {neuron!r}",
            remedy=f"Its neurons are 0 to {units[name] - 1}",
        )
    return int(neuron)


def _and(names: Any) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
