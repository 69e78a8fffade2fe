"""What a network does with a few inputs: its operations, shapes, signs and neuron axes."""

import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from vestige.errors import ModelError
from vestige.models.axes import Axes
from vestige.models.eager import Eager
from vestige.models.graph import Graph
from vestige.models.operations import Record, first_line, tensors

_KEEP_SIGN = ("identity", "pool", "resize", "reshape", "permute", "transpose", "movedim", "pieces", "add")


class Seen:
    """A network, and what it did with two inputs and with three.

    Args:
      network: traced, or observed as it runs.
      inputs: a few; where they cannot be taken apart, they are run as they are.

    Raises:
      ModelError: the network cannot take them.
    """

    def __init__(self, network: Graph | Eager, inputs: Any):
        self.network = network
        few = _few(inputs)
        self.record = _recorded(network, few)
        self.operations = self.record.operations
        self.axes = Axes(self.operations)
        self._count = _count(few)
        self._more = _one_more(network, few)

    def counts_inputs(self, name: str) -> bool:
        """Whether the first axis of a node's value counts the inputs: it grows with their number."""
        shape = self.operations[name].shape
        more = self._more.get(name)
        return len(shape) > 1 and shape[0] == self._count and (more is None or more == self._count + 1)

    def signed(self, name: str) -> bool:
        """Whether a node's value can be negative, as far as is known."""
        operation = self.operations[name]
        if operation.kind in ("activation", "sigmoid"):
            return operation.signed
        if operation.kind == "add" and len(operation.sources) < 2:
            return True  # a constant, which may be negative
        if operation.kind in _KEEP_SIGN and operation.sources:
            return any(self.signed(source) for source in operation.sources)
        return True

    def block(self, name: str) -> str:
        """The innermost module, but its own, that returns an operation's value; empty where there is none."""
        path = self.network.nodes[name]
        own = {path, re.sub(r"_\d+$", "", path)}
        modules = self.network.modules.items()
        return next((p for p, node in modules if p not in own and self.origin(node) == name), "")

    def origin(self, name: str) -> str:
        """The operation whose value a node passes on."""
        while name in self.operations and self.operations[name].kind == "identity" and self.operations[name].sources:
            name = self.operations[name].sources[0]
        return name

    def units(self, name: str) -> tuple[int, int]:
        """The neuron axis of a node's value, and its length."""
        axis = self.axes.of(name)
        return axis, self.operations[name].shape[axis]


def _few(inputs: Any) -> Any:
    """The first two inputs, where every tensor has as many rows."""
    rows = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors(inputs)}
    if len(rows) != 1 or rows == {0}:
        return inputs
    return tree_map_only(Tensor, lambda tensor: tensor[:2], inputs)


def _count(inputs: Any) -> int:
    return next((tensor.shape[0] for tensor in tensors(inputs) if tensor.ndim), 0)


def _one_more(network: Graph | Eager, inputs: Any) -> dict[str, int]:
    """Lengths of the first axes when there is one input more; empty where the network does not take more."""
    count = _count(inputs)

    def longer(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor[:1]]) if tensor.ndim and len(tensor) == count else tensor

    try:
        record = network.record(tree_map_only(Tensor, longer, inputs))
    except Exception:  # of one size of batch only: whatever it stumbles over
        return {}
    return {name: op.shape[0] if op.shape else 0 for name, op in record.operations.items()}


def _recorded(network: Graph | Eager, inputs: Any) -> Record:
    try:
        return network.record(inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(inputs))
        raise ModelError(
            "looking for the layers of a model",
            found=f"it cannot take inputs of shape {shapes}: {first_line(error)}",
            remedy="Check data.channels and data.size against what the model was made for",
        ) from error
