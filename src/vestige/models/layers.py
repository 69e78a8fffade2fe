"""Where a network's neurons are, found by rule: residual block outputs after their ReLU, else every ReLU."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from vestige.errors import ConfigError, ModelError, nearest
from vestige.models.graph import Graph, crossing

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_POOLS = (_MaxPoolNd, _AvgPoolNd)
_POOL_FUNCTIONS = (functional.max_pool2d, functional.avg_pool2d)
_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Layer:
    """A place in the network whose neurons are measured.

    Attributes:
      name: module path, `"layer1.0"`.
      stage: the group of layers it belongs to, `"layer1"`.
      node: the fx node whose value is the layer's activation.
      units: number of neurons, U.
      axis: the axis of the activation that counts them.
      why: the rule that found it.
    """

    name: str
    stage: str
    node: str
    units: int
    axis: int
    why: str


def find_layers(graph: Graph, inputs: Tensor) -> tuple[Layer, ...]:
    """Name the layers of a network.

    The outputs of residual blocks after their last ReLU, where there are any; else every ReLU.

    Args:
      graph: a traced network.
      inputs: a few inputs, to see the shapes.

    Returns:
      the layers from input to output.

    Raises:
      ModelError: the network has no ReLU, or cannot take these inputs.
    """
    residual = [name for name in graph.relus if _adds(graph, name)]
    chosen = residual or list(graph.relus)
    if not chosen:
        raise ModelError(
            "looking for the layers of a model",
            found="it has no ReLU, neither as a module nor as a function",
            remedy="Give a network with ReLUs (ResNets, VGGs and their like)",
        )
    why = "ReLU after a residual addition" if residual else "ReLU"
    paths = [graph.nodes[name] for name in chosen]
    names = _block_names(paths) if residual else paths
    stages = _block_stages(names) if residual else _stages_between_pools(graph, chosen)
    shapes = _shapes(graph, chosen, inputs)
    return tuple(
        Layer(name, stage, node, shapes[node][axis], axis, why)
        for name, stage, node in zip(names, stages, chosen, strict=True)
        for axis in [2 if len(shapes[node]) == 3 else 1]  # (N, tokens, features) or (N, channels, ...)
    )


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


def _adds(graph: Graph, relu: str) -> bool:
    """Whether a ReLU's input is the sum of two values of the network."""
    node = graph.node(relu).all_input_nodes[0]
    while node.op == "call_module" and isinstance(graph.submodule(node), _TRANSPARENT):
        node = node.all_input_nodes[0]
    summands = [argument for argument in node.args if isinstance(argument, fx.Node)]
    return node.op in ("call_function", "call_method") and node.target in _ADDITIONS and len(summands) == 2


def _block_names(paths: Sequence[str]) -> list[str]:
    """The module that each ReLU stands in; its own path where two stand in one, or it stands in none."""
    parents = [path.rpartition(".")[0] for path in paths]
    return [
        parent if parent and parents.count(parent) == 1 else path for path, parent in zip(paths, parents, strict=True)
    ]


def _block_stages(names: Sequence[str]) -> list[str]:
    """The shortest leading part of the paths that tells groups apart; the first part where none groups."""
    parts = [name.split(".") for name in names]
    for depth in range(1, max(map(len, parts))):
        groups = [".".join(p[:depth]) for p in parts]
        if 1 < len(set(groups)) < len(groups):
            return groups
    return [p[0] for p in parts]


def _stages_between_pools(graph: Graph, relus: Sequence[str]) -> list[str]:
    """The first part of each path, numbered by the poolings before it where its group has any.

    Only poolings that everything passes through count: not those in a branch of an inception block.
    """
    order = list(graph.module.graph.nodes)
    pools: dict[str, int] = {}
    found: dict[str, tuple[str, int]] = {}
    for place, node in enumerate(order[:-1]):
        first, _, rest = graph.nodes[node.name].partition(".")
        group = first if rest else ""
        if _pools(graph, node) and crossing(order, place)[0] == {node}:
            pools[group] = pools.get(group, 0) + 1
        found[node.name] = (first, pools.get(group, 0))
    return [f"{group}.{passed}" if group in pools else group for group, passed in (found[r] for r in relus)]


def _pools(graph: Graph, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.submodule(node), _POOLS)
    return node.op == "call_function" and node.target in _POOL_FUNCTIONS


def _shapes(graph: Graph, nodes: Sequence[str], inputs: Tensor) -> dict[str, torch.Size]:
    try:
        with torch.no_grad():
            _, activations = graph.capturing(nodes)(inputs)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            "looking for the layers of a model",
            found=f"it cannot take inputs of shape {tuple(inputs.shape)}: {error}",
            remedy="Check data.channels and data.size against what the model was made for",
        ) from error
    return {name: activation.shape for name, activation in activations.items()}
