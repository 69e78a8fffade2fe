"""Telling which operations of an fx graph overwrite a value in place, and keeping them from it."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd

_FRESH_MODULES = (
    _ConvNd,
    _NormBase,
    _MaxPoolNd,
    _AvgPoolNd,
    _AdaptiveAvgPoolNd,
    nn.Linear,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.ReLU,
)
_FRESH_FUNCTIONS = {
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    torch.add,
    torch.mul,
    torch.cat,
}
_OUT_OF_PLACE: dict[Any, Callable] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "matmul")
}
_SHAPE_METHODS = {"size", "dim", "numel", "stride", "ndimension"}
_SHAPE_ATTRIBUTES = {"shape", "ndim", "device", "dtype"}


def overwritten(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """The node whose value this one overwrites, if it works in place."""
    if isinstance(out := node.kwargs.get("out"), fx.Node):
        return out
    match node.op:
        case "call_module":
            in_place = getattr(root.get_submodule(str(node.target)), "inplace", False) is True
        case "call_function":
            in_place = node.target in _OUT_OF_PLACE or node.kwargs.get("inplace") is True or _underscored(node)
        case "call_method":
            in_place = _underscored(node)
        case _:
            in_place = False
    return node.all_input_nodes[0] if in_place else None


def copy_protecting(
    node: fx.Node,
    graph: fx.Graph,
    copies: dict[fx.Node, fx.Node],
    root: nn.Module,
    keep: set[fx.Node] | None,
) -> fx.Node:
    """Copy a node into another graph so that it leaves the values of some nodes as they are.

    Args:
      node: of the old graph; its inputs have been copied.
      graph: the new one.
      copies: old to new nodes; extended.
      root: the module that both graphs belong to.
      keep: the nodes of the old graph that must not be overwritten; None: all of them.
    """
    target = overwritten(node, root)
    if target is None or (keep is not None and keep.isdisjoint(possible_aliases([target], root))):
        copies[node] = graph.node_copy(node, copies.__getitem__)
        return copies[node]
    changed = _out_of_place(node)
    if changed is None:
        clone = graph.create_node("call_method", "clone", (copies[target],), name=f"{target.name}_kept")
        copies[node] = graph.node_copy(node, {**copies, target: clone}.__getitem__)
        return copies[node]
    copies[node] = new = graph.node_copy(node, copies.__getitem__)
    new.target = changed
    new.kwargs = {name: False if name == "inplace" else value for name, value in new.kwargs.items() if name != "out"}
    return new


def is_shape(node: fx.Node) -> bool:
    """Whether a node's value is a size, a device, a dtype or a number made of such."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _SHAPE_ATTRIBUTES
    return bool(node.all_input_nodes) and all(is_shape(source) for source in node.all_input_nodes)


def _underscored(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_") and not name.endswith("__") and bool(node.all_input_nodes)


def _out_of_place(node: fx.Node) -> Any:
    """The target that computes the same without overwriting, if there is one."""
    if node.op == "call_function":
        if node.target in _OUT_OF_PLACE:
            return _OUT_OF_PLACE[node.target]
        if node.kwargs.get("inplace") is True or "out" in node.kwargs:
            return node.target
        return getattr(torch, getattr(node.target, "__name__", "").rstrip("_"), None)
    if node.op == "call_method":
        name = str(node.target).rstrip("_")
        return name if hasattr(Tensor, name) else None
    return None


def possible_aliases(nodes: Iterable[fx.Node], root: nn.Module) -> set[fx.Node]:
    """The nodes, and every earlier one whose memory a value of theirs may share."""
    found, waiting = set(), list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(() if _fresh(node, root) else node.all_input_nodes)
    return found


def _fresh(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, _FRESH_MODULES) and not getattr(module, "inplace", False)
    return node.op == "call_function" and node.target in _FRESH_FUNCTIONS
