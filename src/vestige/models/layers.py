"""Where a network's neurons are, found by rule: residual block outputs after their ReLU, else activation functions."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vestige.errors import ConfigError, ModelError, nearest
from vestige.models.eager import Eager
from vestige.models.graph import Graph
from vestige.models.operations import Operation, Record
from vestige.models.seen import Seen
from vestige.models.stages import block_names, block_stages, function_stages, stage_of

RESIDUAL = " after a residual addition"
"""How `Layer.why` ends where only the outputs of residual blocks are listed."""
_SHOWN = 6


@dataclass(frozen=True)
class Layer:
    """A place in the network whose neurons are measured.

    Attributes:
      name: module path, `"layer1.0"`.
      stage: the group of layers it belongs to, `"layer1"`.
      node: the node whose value is the layer's activation.
      units: number of neurons, U.
      axis: the axis of the activation that counts them, from the front, 0 being the inputs.
      why: the rule that found it.
      signed: whether its activation can be negative.
    """

    name: str
    stage: str
    node: str
    units: int
    axis: int
    why: str
    signed: bool = False


class Layers(tuple[Layer, ...]):
    """Layers from input to output, shown as a table.

    Attributes:
      note: what must be said aloud about them, or empty.
    """

    note: str

    def __new__(cls, layers: Iterable[Layer] = (), note: str = "") -> "Layers":  # noqa: D102
        made = super().__new__(cls, layers)
        made.note = note
        return made

    def __getnewargs__(self):
        return tuple(self), self.note

    def __repr__(self) -> str:
        head = ("layer", "stage", "neurons", "axis", "why")
        rows = [(x.name, x.stage, f"{x.units:,}", str(x.axis), x.why) for x in self]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
        ]
        total = sum(layer.units for layer in self)
        ending = f"{len(self)} layer{'s' * (len(self) != 1)}, {total:,} neurons"
        return "\n".join([*lines, ending, *([self.note] if self.note else [])])

    __str__ = __repr__


def find_layers(network: Graph | Eager, inputs: Any, wanted: Sequence[str | Layer] | None = None) -> Layers:
    """Name the layers of a network.

    The outputs of residual blocks, where ReLUs of the sum of two values end them; else every activation function that
    is no gate. A gate is one whose every way to the output passes a sigmoid (in squeeze-and-excitation); if there were
    nothing else, gates count.

    Args:
      network: traced, or observed as it runs.
      inputs: a few, as the network takes them; three of them are run, to see the shapes.
      wanted: names of such layers, patterns of names (`"layer3.*"`), paths of modules (whose output is meant: the
        first tensor; called again, `"path_1"`), or layers, which may have been changed with `dataclasses.replace`.
        A pattern stands for the layers of the rule that it matches; for all that it matches where these are no layers
        of the rule, or activation functions alone (`"relu*"`).

    Returns:
      the layers from input to output. Those whose first axis does not count the inputs (windows of attention,
      for one) are left out, and `.note` says so; it names too what a pattern matches beside layers of the rule.

    Raises:
      ModelError: there is no layer, or none of a wanted name; or the network cannot take these inputs.
    """
    seen = Seen(network, inputs)
    found, note = _by_rule(seen) if wanted is None else _or_none(seen)
    if wanted is not None:
        chosen = _wanted(seen, found, wanted)
        return Layers(chosen, _passed_over(seen, found, chosen, wanted))
    return Layers(found, note)


def pooled(activation: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Mean of an activation over all its positions, (N, U).

    Args:
      activation: inputs along axis 0, neurons along `axis`, positions along the others.
      dtype: to compute it in; None: the activation's.
    """
    positions = [i for i in range(1, activation.ndim) if i != axis]
    if not positions:
        return activation.to(dtype or activation.dtype)
    return activation.mean(positions, dtype=dtype)


def rectified(activation: Tensor, layer: Layer) -> Tensor:
    """What selectivity is measured on, differentiable: means over positions, of a signed layer their absolute values.

    Args:
      activation: the layer's, inputs along axis 0.

    Returns:
      (N, U), in float32 or more.
    """
    pooled_NU = pooled(activation, layer.axis, dtype=torch.promote_types(activation.dtype, torch.float32))
    return pooled_NU.abs() if layer.signed else pooled_NU


def stages(layers: Sequence[Layer]) -> tuple[str, ...]:
    """The stages of some layers, from input to output."""
    return tuple(dict.fromkeys(layer.stage for layer in layers))


def all_but_last_stage(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers outside the last stage."""
    last = stages(layers)[-1:]
    return tuple(layer for layer in layers if layer.stage not in last)


def penalised_layers(layers: Sequence[Layer], wanted: Sequence[str] | None = None) -> tuple[Layer, ...]:
    """The layers that a penalty acts on.

    Args:
      layers: all layers.
      wanted: names of stages; None: all but the last.

    Raises:
      ConfigError: there is no such stage.
    """
    if wanted is None:
        return all_but_last_stage(layers)
    known = stages(layers)
    for stage in wanted:
        if stage not in known:
            raise ConfigError(
                "choosing the stages of a penalty",
                found=f"the model has no stage {stage!r}",
                remedy=nearest(stage, known),
            )
    return tuple(layer for layer in layers if layer.stage in wanted)


def _by_rule(seen: Seen) -> tuple[list[Layer], str]:
    open_ones = _open_activations(seen)
    if not open_ones:
        raise ModelError(
            "looking for the layers of a model",
            found="it has no activation function (ReLU, GELU, SiLU, ...) that can be seen, neither as a module nor "
            "as a function",
            remedy="Name the modules whose outputs are to be measured: layers=['path.of.module']",
        )
    residual = _residual(seen, open_ones)
    chosen = residual or open_ones
    paths = [seen.network.nodes[name] for name in chosen]
    names = block_names(paths, [seen.block(name) for name in chosen]) if residual else paths
    stages = block_stages(names) if residual else function_stages(paths, chosen, seen.operations, seen.network.nodes)
    ending = RESIDUAL if residual else ""
    kept = [name for name in chosen if seen.counts_inputs(name)]
    if not kept:
        raise ModelError(
            "looking for the layers of a model",
            found="the first axis of no activation counts the inputs",
            remedy="Give a model whose batch is the first axis throughout",
        )
    layers = [
        _layer(seen, name, stage, node, seen.operations[node].label + ending)
        for name, stage, node in zip(names, stages, chosen, strict=True)
        if node in kept
    ]
    left = [name for name, node in zip(names, chosen, strict=True) if node not in kept]
    note = (
        ""
        if not left
        else (
            f"Left out: {len(left)} of {len(chosen)} layers whose first axis does not count the inputs "
            f"(windows or positions are counted with them): {', '.join(left[:3])}{', ...' if len(left) > 3 else ''}."
        )
    )
    return layers, note


def _layer(seen: Seen, name: str, stage: str, node: str, why: str) -> Layer:
    axis, units = seen.units(node)
    return Layer(name, stage, node, units, axis, why, seen.signed(node))


def _open_activations(seen: Seen) -> list[str]:
    """The activation functions that are no gates; all where there are but gates."""
    activations = [op.name for op in seen.operations.values() if op.kind == "activation" and op.depends]
    gates = _gates(seen.record)
    return [name for name in activations if name not in gates] or activations


def _or_none(seen: Seen) -> tuple[list[Layer], str]:
    try:
        return _by_rule(seen)
    except ModelError:
        return [], ""


def _residual(seen: Seen, names: Sequence[str]) -> list[str]:
    """The ReLUs of sums, if one of them ends its module: sums stand also before a block, or within attention."""
    found = [name for name in names if _adds(seen.operations, name)]
    ending = any("." not in seen.network.nodes[name] or seen.block(name) for name in found)
    return found if ending else []


def _adds(operations: Mapping[str, Operation], name: str) -> bool:
    """Whether this is a ReLU of the sum of two values of the network."""
    operation = operations[name]
    if operation.label != "ReLU":
        return False  # sums before other functions stand also within attention and in convolutions' branches
    while operation.sources:
        operation = operations[operation.sources[0]]
        if operation.kind != "identity":
            break
    return operation.kind == "add" and operation.variable == 2


def _gates(record: Record) -> set[str]:
    """The operations whose every way to the output passes a sigmoid."""
    reaching = _behind(record, stop=None)
    return reaching - _behind(record, stop="sigmoid")


def _behind(record: Record, stop: str | None) -> set[str]:
    found, waiting = set(), list(record.outputs)
    while waiting:
        name = waiting.pop()
        if name not in found and record.operations[name].kind != stop:
            found.add(name)
            waiting.extend(record.operations[name].sources)
    return found


def _wanted(seen: Seen, found: Sequence[Layer], wanted: Sequence[str | Layer]) -> list[Layer]:
    """The layers that are asked for, in the order of the network."""
    places = {name: place for place, name in enumerate(seen.operations)}
    chosen: dict[str, Layer] = {}
    for item in [wanted] if isinstance(wanted, str | Layer) else wanted:
        for layer in [_checked(seen, found, item)] if isinstance(item, Layer) else _named(seen, found, item):
            chosen.setdefault(layer.name, layer)
    if not chosen:
        raise ModelError(
            "choosing the layers to measure",
            found="none is named",
            remedy="Name at least one, or leave `layers` out for those that the rule finds",
        )
    return sorted(chosen.values(), key=lambda layer: places[layer.node])


def _named(seen: Seen, found: Sequence[Layer], name: str) -> list[Layer]:
    listed = {layer.name: layer for layer in found}
    others = _nameable(seen)
    for known in (listed, others):
        names = [name] if name in known else fnmatch.filter(known, name)
        if names and known is listed and _matches_activations_alone(seen, name):
            names += _beside(seen, found, name)
        if names:
            return [listed.get(n) or _returned(seen, found, n, others[n]) for n in names]
    raise ModelError(
        "choosing the layers to measure",
        found=f"no layer and no module is called {name!r}, or these inputs do not reach it",
        remedy=nearest(name, [*listed, *seen.network.modules]),
    )


def _nameable(seen: Seen) -> dict[str, str]:
    """The node of each path that can be named."""
    paths = {path: node for node, path in seen.network.nodes.items()} | seen.network.modules
    return {path: node for path, node in paths.items() if node in seen.operations}


def _matches_activations_alone(seen: Seen, pattern: str) -> bool:
    paths, open_ones = _nameable(seen), set(_open_activations(seen))
    return all(seen.origin(paths[path]) in open_ones for path in fnmatch.filter(paths, pattern))


def _beside(seen: Seen, found: Sequence[Layer], name: str) -> list[str]:
    """Activation functions that a pattern matches beside layers of the rule, but for those within these."""
    listed, paths, open_ones = {layer.name for layer in found}, _nameable(seen), set(_open_activations(seen))
    if name in listed or name in paths or not fnmatch.filter(listed, name):
        return []
    open_ones -= {seen.origin(layer.node) for layer in found}
    within = tuple(f"{path}." for path in listed)
    matched: dict[str, str] = {}  # a value may have several names
    for path in fnmatch.filter(paths, name):
        if seen.origin(paths[path]) in open_ones and not path.startswith(within) and seen.counts_inputs(paths[path]):
            matched.setdefault(seen.origin(paths[path]), path)
    return list(matched.values())


def _passed_over(seen: Seen, found: Sequence[Layer], chosen: Sequence[Layer], wanted: Sequence[str | Layer]) -> str:
    """What must be said of activation functions that patterns match and do not stand for."""
    names, said = {layer.name for layer in chosen}, []
    for pattern in [wanted] if isinstance(wanted, str | Layer) else wanted:
        more = [] if isinstance(pattern, Layer) else [n for n in _beside(seen, found, pattern) if n not in names]
        if more:
            shown = f"{', '.join(more[:_SHOWN])}{', ...' if len(more) > _SHOWN else ''}"
            said.append(
                f"The pattern {pattern!r} stands for layers that the rule finds. It matches other activation functions "
                f"too, which are measured where they are named: {shown}."
            )
    return " ".join(said)


def _returned(seen: Seen, found: Sequence[Layer], name: str, node: str) -> Layer:
    if not seen.counts_inputs(node):
        shape = seen.operations[node].shape
        raise ModelError(
            "choosing the layers to measure",
            found=f"the first axis of {name!r}, of shape {shape} here, does not count the inputs",
            remedy="Name a layer whose activation has one entry an input along its first axis, and a second axis",
        )
    return _layer(seen, name, stage_of(name, stages(found)), node, "asked for")


def _checked(seen: Seen, found: Sequence[Layer], layer: Layer) -> Layer:
    """A layer as it was given, with the number of neurons that its axis has in this network."""
    node = layer.node if layer.node in seen.operations else None
    if node is None:  # listed where the network was looked into in the other way
        paths = {path: name for name, path in seen.network.nodes.items()} | seen.network.modules
        paths |= {other.name: other.node for other in found}
        node = paths.get(layer.node) or paths.get(layer.name)
    if node is None or node not in seen.operations:
        raise ModelError(
            "choosing the layers to measure",
            found=f"the network has no node {layer.node!r} for the layer {layer.name!r}",
            remedy="Take the layers from vestige.layers(model) of the same model",
        )
    shape = seen.operations[node].shape
    if not 0 < layer.axis < len(shape):
        raise ModelError(
            "choosing the layers to measure",
            found=f"layer {layer.name!r} has no axis {layer.axis}: its activation has shape {shape} here",
            remedy=f"Give an axis from 1 to {len(shape) - 1}",
        )
    _returned(seen, (), layer.name, node)
    return replace(layer, node=node, units=shape[layer.axis])
