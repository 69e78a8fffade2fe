"""Rewriting a graph: values read as they are made or captured whole, nothing overwritten, what a cut leaves live."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.fx.node import map_arg

from vestige.models.operations import Record, tensors
from vestige.models.overwriting import copy_protecting, is_shape, overwritten, possible_aliases

Readers = Mapping[str, Callable[[Tensor], Any]]


def capturing(root: fx.GraphModule, keep: Sequence[fx.Node]) -> fx.GraphModule:
    """What gives the output and the values of some nodes by name; what would overwrite one works on a copy."""
    new, copies = fx.Graph(), {}
    for node in root.graph.nodes:
        if node.op == "output":
            new.output((map_arg(node.args[0], copies.__getitem__), {kept.name: copies[kept] for kept in keep}))
        else:
            copy_protecting(node, new, copies, root, set(keep))
    return fx.GraphModule(root, new, "Capturing")


def editing(root: fx.GraphModule, keep: Sequence[fx.Node], edit: Sequence[fx.Node]) -> fx.GraphModule:
    """What gives the output and the values of some nodes, the values of others being replaced on the way.

    Its second argument is called with the name and the value of a node of `edit`, and gives the value to go on with.
    """
    new, copies, function = fx.Graph(), {}, None
    for node in root.graph.nodes:
        if node.op == "output":
            new.output((map_arg(node.args[0], copies.__getitem__), {kept.name: copies[kept] for kept in keep}))
            continue
        copy_protecting(node, new, copies, root, {*keep, *edit})
        if node.op == "placeholder" and function is None:
            function = new.placeholder("function")
        if node in edit:
            copies[node] = new.call_function(_call, (function, node.name, copies[node]))
    return fx.GraphModule(root, new, "Editing")


def observing(root: fx.GraphModule, graph: fx.Graph, names: Iterable[str], in_place: frozenset[str]) -> fx.GraphModule:
    """What calls readers, its second argument, with the values of some nodes, protecting nothing but its inputs.

    Args:
      root: has the modules.
      graph: the graph as it was traced.
      names: of the nodes.
      in_place: paths of the modules that work in place, whatever they do in `root`.
    """
    new, copies, read = fx.Graph(), {}, {}
    wanted, readers = set(names), None
    inputs = {node for node in graph.nodes if node.op == "placeholder"}
    for node in graph.nodes:
        if node.op == "output":
            new.output((map_arg(node.args[0], copies.__getitem__), {name: read[name] for name in names}))
            continue
        copy_protecting(node, new, copies, root, inputs)
        if node.op == "placeholder":
            readers = new.placeholder("readers")
        if node.name in wanted:
            read[node.name] = new.call_function(_read, (readers, node.name, copies[node]))
    module = fx.GraphModule(root, new, "Observing")
    on_inputs = {
        str(node.target)
        for node in graph.nodes
        if node.op == "call_module" and inputs.intersection(possible_aliases(node.all_input_nodes, root))
    }
    for path in ({str(node.target) for node in new.nodes if node.op == "call_module"} & in_place) - on_inputs:
        again = copy.copy(module.get_submodule(path))
        again.inplace = True  # type: ignore[assignment]
        module.set_submodule(path, again)
    return module


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


def pure(module: fx.GraphModule) -> fx.GraphModule:
    """The same computation with nothing overwritten in place."""
    if not any(overwritten(node, module) for node in module.graph.nodes):
        return module
    new, copies = fx.Graph(), {}
    for node in module.graph.nodes:
        copy_protecting(node, new, copies, module, keep=None)
    return fx.GraphModule(module, new, type(module).__name__)


class Recording(fx.Interpreter):
    """Runs a graph and notes what it does."""

    def __init__(self, module: fx.GraphModule, record: Record):
        super().__init__(module)
        self.extra_traceback = False
        self._record = record

    def run_node(self, n: fx.Node) -> Any:
        """Run a node."""
        value = super().run_node(n)
        if n.op in ("call_module", "call_function", "call_method"):
            target = self.fetch_attr(str(n.target)) if n.op == "call_module" else n.target
            self._record.add(n.name, target, *self.fetch_args_kwargs_from_env(n), value)
        return value


def _call(function: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    return function(name, value)


def _read(readers: Readers, name: str, value: Tensor) -> Any:
    return readers[name](value if isinstance(value, Tensor) else next(tensors(value)))
