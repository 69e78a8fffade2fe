"""The fx graph of a network: capture values, edit them, replay its end from the middle, drop its ReLUs."""

import copy as copying
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional

from vestige.errors import ModelError, nearest
from vestige.models.tracing import copy_protecting, hides_relu, is_shape, overwritten, trace

Edit = Callable[[Tensor], Tensor]
_Made = TypeVar("_Made")

_RELU_FUNCTIONS = (functional.relu, functional.relu_, torch.relu, torch.relu_)


@dataclass(frozen=True)
class Suffix:
    """The part of a network after a node.

    Attributes:
      live: names of all the values it starts from: the node itself, then every other value that was computed
        before and is still needed (residual branches), in the order of the graph.
      module: what computes the logits from them, in this order.
    """

    live: tuple[str, ...]
    module: fx.GraphModule

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """Logits from the live values; more values than the live ones may be given."""
        return self.module(*[values[name] for name in self.live])


class Graph:
    """A traced network. What it builds shares its parameters and buffers, and is built once.

    Args:
      module: a graph module.
      nodes: for each node name, the path of the module operation that it comes from.
    """

    def __init__(self, module: fx.GraphModule, nodes: dict[str, str]):
        self.module, self.nodes = module, nodes
        self._node = {node.name: node for node in module.graph.nodes}
        self._built: dict[Hashable, Any] = {}

    @classmethod
    def trace(cls, model: nn.Module, *, copy: bool = True) -> "Graph":
        """Trace a network.

        Args:
          model: takes a batch of inputs, gives logits.
          copy: trace a copy made for measuring: eval mode, no gradients of parameters, nothing in place. Else
            (for training) parameters and modules are the model's own, traced in the mode it is in, which it
            should keep: only functional dropout and batch norm mind.

        Raises:
          ModelError: it cannot be copied or traced.
        """
        model = _unwrapped(model)
        if copy:
            model = _copied(model).eval().requires_grad_(False)
        graph, nodes = trace(model)
        if copy:
            for submodule in model.modules():
                if getattr(submodule, "inplace", False) is True:
                    setattr(submodule, "inplace", False)  # noqa: B010
        module = fx.GraphModule(model, graph, type(model).__name__)
        return cls(_pure(module).eval() if copy else module, nodes)

    @property
    def relus(self) -> tuple[str, ...]:
        """Names of the ReLU nodes, in the order of the graph."""
        return tuple(node.name for node in self.module.graph.nodes if self._is_relu(node))

    def node(self, name: str) -> fx.Node:
        """The fx node of a name."""
        return self._node[self._known([name])[0]]

    def submodule(self, node: fx.Node) -> nn.Module:
        """The module that a `call_module` node calls."""
        return self.module.get_submodule(str(node.target))

    def capturing(self, nodes: Sequence[str]) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
        """A forward that also gives the values of some nodes.

        The values are those that the network computes with, not copies, and differentiable; what would
        overwrite one in place is given a copy to work on.

        Args:
          nodes: names of nodes.

        Returns:
          a function of the inputs, giving the logits and the values by node name.

        Raises:
          ModelError: there is no such node.
        """
        names = self._known(nodes)
        return self._once(("capturing", names), lambda: self._capturing(names))

    def suffix(self, node: str) -> Suffix:
        """The part of the network after a node, as a function of the values that cross the cut.

        Raises:
          ModelError: there is no such node.
        """
        (name,) = self._known([node])
        return self._once(("suffix", name), lambda: self._suffix(name))

    def editing(self, nodes: Sequence[str]) -> Callable[[Tensor, Mapping[str, Edit]], Tensor]:
        """A full forward in which the value of each node is replaced by what its edit makes of it.

        Args:
          nodes: names of the nodes that can be edited.

        Returns:
          a function of the inputs and of the edits by node name (any of `nodes`), giving the logits.

        Raises:
          ModelError: there is no such node; in the forward: an edit of a node that was not among them.
        """
        names = self._known(nodes)
        return self._once(("editing", names), lambda: self._editing(names))

    def without_relus(self) -> "Graph":
        """The same network with every ReLU replaced by the identity; nodes keep their names.

        Raises:
          ModelError: a ReLU lies within a module that tracing could not look into.
        """
        return self._once("without_relus", self._without_relus)

    def to(self, device: torch.device | str | None = None, memory_format: Any = None) -> "Graph":
        """Move the parameters and buffers, in place, of everything built from this graph too."""
        if device is not None:
            self.module.to(device)
        if memory_format is not None:
            self.module.to(memory_format=memory_format)
        self._built.clear()  # built modules may hold a buffer that has been replaced
        return self

    def _capturing(self, names: tuple[str, ...]) -> Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]]:
        keep = {self._node[name] for name in names}
        new, copies, captured = fx.Graph(), {}, {}
        for node in self.module.graph.nodes:
            if node.op == "output":
                new.output((map_arg(node.args[0], copies.__getitem__), {name: captured[name] for name in names}))
            else:
                captured[node.name] = copy_protecting(node, new, copies, self.module, keep)
        return fx.GraphModule(self.module, new, "Capturing")

    def _suffix(self, name: str) -> Suffix:
        root = _pure(self.module)
        order = list(root.graph.nodes)
        cut = next(i for i, node in enumerate(order) if node.name == name)
        live, inside = crossing(order, cut)
        names = (name, *(node.name for node in order[:cut] if node in live))
        by_name = {node.name: node for node in order}
        new = fx.Graph()
        copies = {by_name[n]: new.placeholder(n) for n in names}
        for node in order:
            if node in inside:
                copies[node] = new.node_copy(node, copies.__getitem__)
        new.lint()
        return Suffix(names, fx.GraphModule(root, new, "Suffix"))

    def _editing(self, names: tuple[str, ...]) -> Callable[[Tensor, Mapping[str, Edit]], Tensor]:
        root, wanted = _pure(self.module), set(names)
        new = fx.Graph()
        copies = {node: new.node_copy(node) for node in root.graph.nodes if node.op == "placeholder"}
        edits = new.placeholder("edits")
        for node in root.graph.nodes:
            if node not in copies:
                copies[node] = new.node_copy(node, copies.__getitem__)
            if node.name in wanted:
                copies[node] = new.call_function(_edited, (edits, node.name, copies[node]))
        module = fx.GraphModule(root, new, "Editing")

        def forward(inputs: Tensor, edits: Mapping[str, Edit]) -> Tensor:
            if stray := set(edits) - wanted:
                raise ModelError(
                    "editing activations",
                    found=f"node {min(stray)!r} is not among those that this forward can edit",
                    remedy=nearest(min(stray), names),
                )
            return module(inputs, edits)

        return forward

    def _without_relus(self) -> "Graph":
        root, new, copies = _pure(self.module), fx.Graph(), {}
        for node in root.graph.nodes:
            if node.op == "call_module" and hides_relu(self.submodule(node)):
                raise ModelError(
                    "taking the ReLUs out of a model",
                    found=f"{node.target!r}, a {type(self.submodule(node)).__name__}, hides one from tracing",
                    remedy="Leave the linearity measurement out for this model",
                )
            if self._is_relu(node):
                source = copies[node.all_input_nodes[0]]
                copies[node] = new.create_node("call_function", _identity, (source,), name=node.name)
            else:
                copies[node] = new.node_copy(node, copies.__getitem__)
        return Graph(fx.GraphModule(root, new, "WithoutReLUs"), self.nodes)

    def _is_relu(self, node: fx.Node) -> bool:
        match node.op:
            case "call_module":
                return isinstance(self.module.get_submodule(str(node.target)), nn.ReLU)
            case "call_function":
                return node.target in _RELU_FUNCTIONS
            case "call_method":
                return node.target in ("relu", "relu_")
        return False

    def _known(self, nodes: Sequence[str]) -> tuple[str, ...]:
        for name in nodes:
            if name not in self.nodes:
                raise ModelError(
                    "looking into a traced model",
                    found=f"there is no node {name!r}",
                    remedy=nearest(name, self.nodes),
                )
        return tuple(dict.fromkeys(nodes))

    def _once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        if key not in self._built:
            self._built[key] = make()
        return self._built[key]


def crossing(order: Sequence[fx.Node], cut: int) -> tuple[set[fx.Node], set[fx.Node]]:
    """The nodes up to `order[cut]` whose values the output still needs, and those to be computed after it.

    Sizes are computed anew from the values that cross: a replay may have another batch size.
    """
    before, live, inside = set(order[: cut + 1]), set(), set()
    waiting = [order[-1]]
    while waiting:
        node = waiting.pop()
        if node in live or node in inside:
            continue
        recomputed = node is not order[cut] and (node.op == "get_attr" or is_shape(node))
        if node in before and not recomputed:
            live.add(node)
        else:
            inside.add(node)
            waiting.extend(node.all_input_nodes)
    return live, inside


def _pure(module: fx.GraphModule) -> fx.GraphModule:
    """The same computation with nothing overwritten in place."""
    if not any(overwritten(node, module) for node in module.graph.nodes):
        return module
    new, copies = fx.Graph(), {}
    for node in module.graph.nodes:
        copy_protecting(node, new, copies, module, keep=None)
    return fx.GraphModule(module, new, type(module).__name__)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copying.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"copying a {type(model).__name__} to measure it",
            found=f"{type(error).__name__}: {error}",
            remedy="Give a model that copy.deepcopy can copy",
        ) from error


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside torch.compile and (distributed) data parallel wrappers."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _identity(value: Tensor) -> Tensor:
    return value


def _edited(edits: Mapping[str, Edit], name: str, value: Tensor) -> Tensor:
    return edits[name](value) if name in edits else value
