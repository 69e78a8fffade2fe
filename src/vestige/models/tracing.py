"""Tracing a module into an fx graph whose nodes have the paths of the operations that they come from."""

import inspect
import math
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision.models.feature_extraction import NodePathTracer

from vestige.errors import ModelError
from vestige.models.operations import Names, first_line, function_name, hides_activation, is_activation
from vestige.models.overwriting import overwritten

# Of torchvision.ops, those that behave differently in training; its blocks with a ReLU must be looked into.
_LEAVES = (
    torchvision.ops.StochasticDepth,
    torchvision.ops.DropBlock2d,
    torchvision.ops.FrozenBatchNorm2d,
    torchvision.ops.DeformConv2d,
)
# Of torch.nn, those that only call others; those that cannot be traced through, but seen into as they run.
_CONTAINERS = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
    nn.DataParallel,
    nn.parallel.DistributedDataParallel,
)
_OPAQUE = _CONTAINERS[3:]
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, torchvision.ops.FrozenBatchNorm2d)


@dataclass(frozen=True)
class Trace:
    """What a module computes.

    Attributes:
      graph: of its first argument.
      nodes: for each node of the graph (but the output) the path of the module operation that it comes from,
        numbered where the same module is called again: ``"layer1.0.relu_1"``.
      modules: for each path of a module, numbered likewise, the node whose value it returns (the first tensor).
    """

    graph: fx.Graph
    nodes: dict[str, str]
    modules: dict[str, str]


def trace(model: nn.Module) -> Trace:
    """Record what a module computes from its first argument; the other arguments keep their defaults.

    Args:
      model: traced in the mode it is in; functional dropout and the like keep that mode.

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
            found=f"it cannot be traced ({type(error).__name__}: {first_line(error)})",
            remedy="Give a model whose forward takes one tensor and does not branch on the values or shapes "
            "of tensors: torch.fx must be able to trace it",
        ) from error
    finally:
        with torch.no_grad():  # a forward that counts its batches counts the trace too
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
    modules = {path: _at_last(node, seen, graph, model) for path, (node, seen) in tracer.returned.items()}
    _drop_constant_inputs(graph, defaults)
    _send_readers_on(graph, model)
    names = {node.name: path for node, path in tracer.node_to_qualname.items() if node.op != "output"}
    modules = {path: _first_item(node) for path, node in modules.items()}
    nodes = {node.name: names.get(node.name, node.name) for node in graph.nodes if node.op != "output"}
    return Trace(graph, nodes, {path: node.name for path, node in modules.items() if node.name in nodes})


def hides_relu(module: nn.Module) -> bool:
    """Whether there is a ReLU within a module."""
    return any(isinstance(part, nn.ReLU) for part in module.modules() if part is not module)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one operation, with nothing to be seen within it."""
    if is_activation(module):
        return True
    if isinstance(module, _NORMS) and hides_activation(module):
        return False  # timm's, which end with their activation function
    if isinstance(module, (torch.jit.ScriptModule, *_LEAVES)):
        return True
    of_torch = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return of_torch and not isinstance(module, _CONTAINERS)


class _Tracer(NodePathTracer):
    """Also notes what each module returns, and names nodes by the paths that Eager gives the same operations."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.returned: dict[str, tuple[fx.Node, int]] = {}
        self._names, self._module_names = Names(), Names()

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        """Whether a module is recorded as one call."""
        if isinstance(m, _NORMS) and hides_activation(m):
            return False
        return is_leaf(m) or isinstance(m, _OPAQUE) or super().is_leaf_module(m, module_qualname)

    def call_module(self, m: nn.Module, forward: Callable, args: Any, kwargs: Any) -> Any:
        """Record the call of a module."""
        name = self._module_names.give(self.path_of_module(m))
        value = super().call_module(m, forward, args, kwargs)
        returned = value
        while isinstance(returned, tuple | list) and returned:
            returned = returned[0]
        if isinstance(returned, fx.Proxy):
            self.returned[name] = (returned.node, len(self.graph.nodes))
        return value

    def _get_node_qualname(self, module_qualname: str, node: fx.Node) -> str:
        if node.op == "call_module":
            return self._names.give(module_qualname)
        function = function_name(node.target) if node.op in ("call_function", "call_method") else str(node)
        return self._names.give(f"{module_qualname}.{function}".lstrip("."))


def _tracer() -> "_Tracer":
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


def _at_last(node: fx.Node, seen: int, graph: fx.Graph, root: nn.Module) -> fx.Node:
    """What overwrote a node's value last among the first nodes of a graph, `seen` of them; else the node."""
    for later in list(graph.nodes)[:seen]:
        if overwritten(later, root) is node:
            node = later
    return node


def _first_item(node: fx.Node) -> fx.Node:
    """The first of the values that a node's value is taken apart into, if it is."""
    items = (user for user in node.users if user.target is operator.getitem and user.args[1] == 0)
    return next(items, node) if node.op == "call_module" else node
