"""Tracing a module into an fx graph, and telling which of its operations overwrite a value in place."""

import inspect
import math
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd, _MaxPoolNd
from torchvision.models.feature_extraction import NodePathTracer

from vestige.errors import ModelError

# Of torchvision.ops, those that behave differently in training; its blocks with a ReLU must be looked into.
_LEAVES = (
    torchvision.ops.StochasticDepth,
    torchvision.ops.DropBlock2d,
    torchvision.ops.FrozenBatchNorm2d,
    torchvision.ops.DeformConv2d,
)
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


def trace(model: nn.Module) -> tuple[fx.Graph, dict[str, str]]:
    """Record what a module computes from its first argument; the other arguments keep their defaults.

    Args:
      model: traced in the mode it is in; functional dropout and the like keep that mode.

    Returns:
      the graph, and for each of its nodes (but the output) the path of the module operation it comes from,
      numbered where the same module is called again: ``"layer1.0.relu_1"``.

    Raises:
      ModelError: its forward cannot be traced.
    """
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    tracer = _tracer()
    try:
        defaults = _defaults(model)
        graph = tracer.trace(model, concrete_args=defaults or None)
    except Exception as error:
        raise ModelError(
            f"tracing a {type(model).__name__}",
            found=f"it cannot be traced ({type(error).__name__}: {_first_line(error)})",
            remedy="Give a model whose forward takes one tensor and does not branch on the values or shapes "
            "of tensors: torch.fx must be able to trace it",
        ) from error
    finally:
        with torch.no_grad():  # a forward that counts its batches counts the trace too
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
    _drop_constant_inputs(graph, defaults)
    _send_readers_on(graph, model)
    names = {node.name: path for node, path in tracer.node_to_qualname.items() if node.op != "output"}
    return graph, {node.name: names.get(node.name, node.name) for node in graph.nodes if node.op != "output"}


def overwritten(node: fx.Node, root: nn.Module) -> fx.Node | None:
    """The node whose value this one overwrites, if it works in place."""
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
    if target is None or (keep is not None and keep.isdisjoint(_possible_aliases(target, root))):
        copies[node] = graph.node_copy(node, copies.__getitem__)
        return copies[node]
    changed = _out_of_place(node)
    if changed is None:
        clone = graph.create_node("call_method", "clone", (copies[target],), name=f"{target.name}_kept")
        copies[node] = graph.node_copy(node, {**copies, target: clone}.__getitem__)
        return copies[node]
    copies[node] = new = graph.node_copy(node, copies.__getitem__)
    new.target = changed
    if "inplace" in new.kwargs:
        new.kwargs = {**new.kwargs, "inplace": False}
    return new


def hides_relu(module: nn.Module) -> bool:
    """Whether there is a ReLU within a module."""
    return any(isinstance(part, nn.ReLU) for part in module.modules() if part is not module)


def is_shape(node: fx.Node) -> bool:
    """Whether a node's value is a size, a device, a dtype or a number made of such."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in _SHAPE_ATTRIBUTES
    return bool(node.all_input_nodes) and all(is_shape(source) for source in node.all_input_nodes)


class _Tracer(NodePathTracer):
    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        """Whether a module is recorded as one call: not if it is a batch norm with a ReLU inside (timm's)."""
        if isinstance(m, _NormBase) and hides_relu(m):
            return False
        return super().is_leaf_module(m, module_qualname)


def _tracer() -> NodePathTracer:
    leaves, wrapped = list(_LEAVES), ()
    if "timm.layers" in sys.modules:  # what timm itself says cannot be looked into
        from timm.models import _features_fx as timm_fx

        leaves += timm_fx.get_notrace_modules()
        wrapped = tuple(timm_fx.get_notrace_functions())
    return _Tracer(autowrap_modules=(math, torchvision.ops), autowrap_functions=wrapped, leaf_modules=leaves)


def _defaults(model: nn.Module) -> dict[str, Any]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    return {p.name: p.default for p in parameters[1:] if p.default is not inspect.Parameter.empty}


def _drop_constant_inputs(graph: fx.Graph, defaults: dict[str, Any]) -> None:
    if not defaults:
        return
    for node in [n for n in graph.nodes if n.op == "placeholder"][1:]:
        for user in _descendants(node):
            graph.erase_node(user)
        graph.erase_node(node)


def _descendants(node: fx.Node) -> list[fx.Node]:
    """All that depend on a node, last first: for a specialised argument, the checks of its value."""
    found = {node}
    for later in node.graph.nodes:
        if found.intersection(later.all_input_nodes):
            found.add(later)
    return [later for later in reversed(node.graph.nodes) if later in found and later is not node]


def _send_readers_on(graph: fx.Graph, root: nn.Module) -> None:
    """Let who reads a value after it was overwritten read what overwrote it: `self.relu(x)`, a statement."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if (target := overwritten(node, root)) is not None:
            target.replace_all_uses_with(node, lambda user, after=place[node]: place[user] > after)


def _underscored(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_") and not name.endswith("__") and bool(node.all_input_nodes)


def _out_of_place(node: fx.Node) -> Any:
    """The target that computes the same without overwriting, if there is one."""
    if node.op == "call_function":
        if node.target in _OUT_OF_PLACE:
            return _OUT_OF_PLACE[node.target]
        if node.kwargs.get("inplace") is True:
            return node.target
        return getattr(torch, getattr(node.target, "__name__", "").rstrip("_"), None)
    if node.op == "call_method":
        name = str(node.target).rstrip("_")
        return name if hasattr(Tensor, name) else None
    return None


def _possible_aliases(node: fx.Node, root: nn.Module) -> Iterator[fx.Node]:
    """The node, and every earlier one whose memory its value may share."""
    yield node
    if not _fresh(node, root):
        for source in node.all_input_nodes:
            yield from _possible_aliases(source, root)


def _fresh(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        module = root.get_submodule(str(node.target))
        return isinstance(module, _FRESH_MODULES) and not getattr(module, "inplace", False)
    return node.op == "call_function" and node.target in _FRESH_FUNCTIONS


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
