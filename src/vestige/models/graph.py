"""The fx graph of a network: capture values, edit them, replay its end from the middle, drop its ReLUs."""

import copy as copying
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from vestige.errors import ModelError, nearest
from vestige.models.copies import laid_out, measurement_copy, unwrapped
from vestige.models.operations import Operation, Record, only_tensor
from vestige.models.rewriting import Readers, Recording, capturing, crossing, observing, pure
from vestige.models.tracing import Trace, hides_relu, trace

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
      traced: what it was made from.
      in_place: paths of the modules that worked in place before they were kept from it.

    Attributes:
      nodes: for each node name, the path of the module operation that it comes from.
      modules: for each path of a module, the node whose value it returns.
      traced: True.
      note: empty.
    """

    traced, note = True, ""

    def __init__(self, module: fx.GraphModule, traced: Trace, in_place: frozenset[str] = frozenset()):
        self.module, self.nodes, self.modules = module, traced.nodes, traced.modules
        self._trace, self._in_place = traced, in_place
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
        if copy:
            return cls.of_copy(measurement_copy(model))
        model = unwrapped(model)
        traced = trace(model)
        return cls(fx.GraphModule(model, traced.graph, type(model).__name__), traced)

    @classmethod
    def of_copy(cls, model: nn.Module) -> "Graph":
        """Trace a measurement copy, which the graph keeps.

        Raises:
          ModelError: it cannot be traced; the copy is as it was.
        """
        traced = trace(model)
        in_place = {path for path, module in model.named_modules() if getattr(module, "inplace", False) is True}
        as_is = Trace(copying.deepcopy(traced.graph), traced.nodes, traced.modules)
        for path in in_place:
            setattr(model.get_submodule(path), "inplace", False)  # noqa: B010
        module = fx.GraphModule(model, traced.graph, type(model).__name__)
        return cls(pure(module).eval(), as_is, frozenset(in_place))

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
        return self._once(("capturing", names), lambda: capturing(self.module, [self._node[n] for n in names]))

    def observing(self, readers: Readers) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
        """A forward in which values are read at the moment they are made.

        It works in place where the network does, but for its inputs, and holds no value longer than the network.

        Args:
          readers: by node name, what is called with the value itself, which it must neither keep nor change.

        Returns:
          a function of the inputs, giving the network's output and what each reader returned.

        Raises:
          ModelError: there is no such node.
        """
        names = self._known(list(readers))
        forward = self._once(
            ("observing", names), lambda: observing(self.module, self._trace.graph, names, self._in_place)
        )
        return lambda inputs: forward(only_tensor(inputs), readers)

    def record(self, inputs: Any) -> Record:
        """What a forward of some inputs does, operation after operation."""
        inputs = only_tensor(inputs)
        record = Record(self.module, inputs)
        with torch.no_grad():
            record.close(Recording(self.module, record).run(inputs))
        return record

    def operations(self, inputs: Any) -> Mapping[str, Operation]:
        """What a forward does, by node name; recorded once, whatever the inputs are later."""
        return self._once("operations", lambda: self.record(inputs).operations)

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
            laid_out(self.module, memory_format)
        self._built.clear()  # built modules may hold a buffer that has been replaced
        return self

    def _suffix(self, name: str) -> Suffix:
        root = pure(self.module)
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
        root, wanted = pure(self.module), set(names)
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
        root, new, copies = pure(self.module), fx.Graph(), {}
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
        module = fx.GraphModule(root, new, "WithoutReLUs")
        return Graph(module, Trace(module.graph, self.nodes, self.modules))

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


def _identity(value: Tensor) -> Tensor:
    return value


def _edited(edits: Mapping[str, Edit], name: str, value: Tensor) -> Tensor:
    return edits[name](value) if name in edits else value
