"""How a change of one neuron spreads: first within its channel, then as an update of a linear layer's output.

As long as operations keep channels apart, only the neuron's own channel differs from the intact network. Where such a
value meets a convolution or a linear layer W, the output is the intact one plus W's column times the difference:

    y' = y + W[:, u] * (x'_u - x_u)

which for the last layer of a network (pooled, then the head) is the whole answer. Behind that everything differs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from vestige.models.graph import Graph
from vestige.models.operations import Operation, function_name
from vestige.models.overwriting import is_shape

Kind = Literal["source", "channel", "update", "whole", "size", "given"]
"""What becomes of a node in a replay.

`source`: the replaced value; `channel`: differs in one channel, and only that is computed; `update`: a linear layer's
intact output, updated; `whole`: computed whole; `size`: a size or a weight, no activation; `given`: not affected, taken
from the intact network.
"""

_CHANNEL_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_CHANNEL_POOL_FUNCTIONS = (
    functional.max_pool2d,
    functional.avg_pool2d,
    functional.adaptive_avg_pool2d,
)


class Channel(NamedTuple):
    """Where one neuron stands in a value: entries `unit * block ...` of an axis."""

    axis: int
    block: int = 1


@dataclass(frozen=True)
class Spread:
    """What is computed when one neuron of a layer changes.

    Attributes:
      source: the layer's node.
      kinds: of the nodes that a replay computes or takes, in the order of the graph.
      channels: where the neuron stands in the values that differ in one channel only.
      folded: convolutions whose batch norm is folded into them, with that batch norm's node.
      output: the node of the logits.
    """

    source: fx.Node
    kinds: Mapping[fx.Node, Kind]
    channels: Mapping[fx.Node, Channel]
    folded: Mapping[fx.Node, fx.Node]
    output: fx.Node


def spread(
    graph: Graph, name: str, axis: int, operations: Mapping[str, Operation], *, shortcuts: bool = True
) -> Spread:
    """Follow a change of one neuron through a graph.

    Args:
      graph: of the whole network.
      name: the node of the layer.
      axis: which counts its neurons.
      operations: a record of a forward of the graph (`Graph.record`).
      shortcuts: use channels and updates; else all that is affected is computed whole.

    Returns:
      What there is to compute.
    """
    source, output = graph.node(name), _output(graph)
    affected = _behind(source)
    needed = _needed(source, output, affected, operations)
    folded = {
        node: norm
        for node in graph.module.graph.nodes
        if node in needed and node is not source and (norm := _norm_behind(graph, node)) is not None
    }
    kinds: dict[fx.Node, Kind] = {}
    channels: dict[fx.Node, Channel] = {source: Channel(axis)}
    for node in graph.module.graph.nodes:
        if node not in needed:
            continue
        if node is source:
            kinds[node] = "source"
        elif node not in affected:
            kinds[node] = "size" if _is_no_activation(node, operations) else "given"
        elif is_shape(node) or node.name not in operations:
            kinds[node] = "size"
        else:
            kinds[node] = "whole"
            taken = [s for s in node.all_input_nodes if s in affected and not _is_no_activation(s, operations)]
            if shortcuts and len(taken) == 1 and taken[0] in channels:
                kinds[node] = _kind(graph, node, taken[0], channels, operations)
    return Spread(source, kinds, channels, folded, output)


def _kind(
    graph: Graph,
    node: fx.Node,
    taken: fx.Node,
    channels: dict[fx.Node, Channel],
    operations: Mapping[str, Operation],
) -> Kind:
    """Whether an operation on a value that differs in one channel is an update, stays in the channel, or is whole."""
    channel, before = channels[taken], operations[taken.name].shape
    module = graph.submodule(node) if node.op == "call_module" else None
    if _updates(module, channel, len(before)):
        return "update"
    moved = _moved(node, module, channel, before, operations[node.name])
    if moved is None:
        return "whole"
    channels[node] = moved
    return "channel"


def _updates(module: nn.Module | None, channel: Channel, ndim: int) -> bool:
    if type(module) is nn.Linear:
        return channel.axis == ndim - 1
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and channel == Channel(1)
    )


def _moved(
    node: fx.Node, module: nn.Module | None, channel: Channel, before: tuple[int, ...], operation: Operation
) -> Channel | None:
    """Where the neuron stands after an operation that keeps channels apart; None: it does not, as far as is known."""
    if any(isinstance(s, fx.Node) and not is_shape(s) for s in node.all_input_nodes[1:]):
        return None
    maps = channel == Channel(1) and len(before) == 4
    if operation.kind in ("activation", "sigmoid", "identity"):
        return channel if _is_elementwise(node, module) else None
    if module is None:
        if node.target in _CHANNEL_POOL_FUNCTIONS and maps:
            return channel
        if function_name(node.target) == "mean":
            return _averaged(operation, channel, len(before))
    elif getattr(module, "return_indices", False):
        return None
    elif (channel == Channel(1) and _keeps_statistics(module)) or (
        maps and (type(module) in _CHANNEL_POOLS or _is_depthwise(module))
    ):
        return channel
    if operation.kind == "reshape" and channel == Channel(1) and len(operation.shape) == 2:
        block = math.prod(before[2:])
        return Channel(1, block) if operation.shape[1] == before[1] * block else None
    return None


def _is_elementwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an activation function treats all channels alike: torch's own, without weights."""
    if module is None:
        return len([s for s in node.all_input_nodes if not is_shape(s)]) == 1
    return type(module).__module__.startswith("torch.nn") and next(module.parameters(), None) is None


def _averaged(operation: Operation, channel: Channel, ndim: int) -> Channel | None:
    """The axis of the neurons after a mean over positions."""
    numbers = [s for s in operation.settings if s is not None]
    over = numbers[0] if numbers else None
    over = [over] if isinstance(over, int) and not isinstance(over, bool) else over
    if not isinstance(over, list | tuple) or not all(type(axis) is int for axis in over):
        return None
    over = sorted(axis % ndim for axis in over)
    if 0 in over or channel.axis in over or channel.block != 1:
        return None
    keeps = len(operation.shape) == ndim
    return Channel(channel.axis if keeps else channel.axis - sum(axis < channel.axis for axis in over))


def _is_depthwise(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and module.padding_mode == "zeros"
    )


def _norm_behind(graph: Graph, node: fx.Node) -> fx.Node | None:
    """The batch norm that is the only one to take a convolution's output, and that can be folded into it."""
    if node.op != "call_module" or len(node.users) != 1:
        return None
    conv = graph.submodule(node)
    if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
        return None
    (user,) = node.users
    if user.op != "call_module" or type(norm := graph.submodule(user)) is not nn.BatchNorm2d:
        return None
    return user if _keeps_statistics(norm) else None


def _keeps_statistics(norm: nn.Module | None) -> bool:
    return isinstance(norm, _BatchNorm) and isinstance(norm.running_mean, Tensor) and not norm.training


def _behind(source: fx.Node) -> set[fx.Node]:
    found, waiting = {source}, [source]
    while waiting:
        for user in waiting.pop().users:
            if user not in found:
                found.add(user)
                waiting.append(user)
    return found


def _needed(
    source: fx.Node, output: fx.Node, affected: set[fx.Node], operations: Mapping[str, Operation]
) -> set[fx.Node]:
    """What the logits are computed from, back to the source and to what is taken from the intact network."""
    found, waiting = set(), [output]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        if node is not source and (node in affected or _is_no_activation(node, operations)):
            waiting.extend(node.all_input_nodes)
    return found | {source}


def _is_no_activation(node: fx.Node, operations: Mapping[str, Operation]) -> bool:
    """A weight, a size or a number: computed anew, since a replay may have another batch size."""
    if node.op in ("placeholder", "output"):
        return False
    return node.op == "get_attr" or is_shape(node) or node.name not in operations or not operations[node.name].depends


def _output(graph: Graph) -> fx.Node:
    """The node of the logits, as `logits_of` chooses among several outputs."""
    (end,) = (node for node in graph.module.graph.nodes if node.op == "output")
    returned = end.args[0]
    if isinstance(returned, Mapping):
        returned = returned.get("logits", returned.get("out", returned))
    return returned if isinstance(returned, fx.Node) else end.all_input_nodes[0]
