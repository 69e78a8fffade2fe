"""Looking into any network: traced where torch.fx can trace it, else as it runs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vestige.errors import ModelError
from vestige.models.copies import measurement_copy
from vestige.models.eager import Eager
from vestige.models.graph import Graph
from vestige.models.layouts import lay_out
from vestige.models.operations import call, first_line, hides_activation, is_activation, only_tensor, own, tensors

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
_LOW_PRECISION = 2e-2


def observe(model: nn.Module, inputs: Any) -> Graph | Eager:
    """Make a network ready to be looked into; it is left as it is.

    Args:
      model: takes the inputs, gives logits.
      inputs: a few: a tensor, a tuple or list (several arguments) or a dict (named ones).

    Returns:
      its traced graph; or, where it cannot be traced, hides activation functions from tracing, or computes
      something else when traced, the network observed as it runs, with a `note` that says why.

    Raises:
      ModelError: it cannot be copied, or cannot take these inputs.
    """
    copied = measurement_copy(model)
    expected = _output(copied, inputs)
    graph, why = _traced(copied, inputs, expected)
    if graph is not None:
        if lay_out(graph, inputs) and _differs(graph, inputs, expected):
            graph.to(memory_format=torch.contiguous_format)  # a view, say, that only the usual layout allows
        return graph
    return Eager(copied, inputs, note=f"Observed as it runs: {why}.", copy=False)


def logits_of(output: Any) -> Tensor:
    """The logits in what a network returns.

    Args:
      output: a tensor; a tuple or list, whose first tensor it is; a mapping with "logits" or "out"; or an object
        with an attribute `logits`.

    Raises:
      ModelError: it is none of these.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if isinstance(output.get(key), Tensor):
                return output[key]
    elif isinstance(found := getattr(output, "logits", None), Tensor):
        return found
    elif isinstance(output, tuple | list):
        for item in output:
            if isinstance(item, Tensor):
                return item
    keys = f" with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
    raise ModelError(
        "looking for the logits in a model's output",
        found=f"it returns a {type(output).__name__}{keys}",
        remedy="Give a model that returns logits: a tensor, a tuple that begins with it, a mapping with 'logits' "
        "or 'out', or an object with .logits",
    )


def _output(model: nn.Module, inputs: Any) -> Any:
    try:
        with torch.no_grad():
            return call(model, own(inputs))
    except ModelError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(inputs))
        raise ModelError(
            f"running a {type(model).__name__}",
            found=f"it cannot take inputs of shape {shapes} ({type(error).__name__}: {first_line(error)})",
            remedy="Check the inputs' channels and size against what the model was made for",
        ) from error


def _traced(model: nn.Module, inputs: Any, expected: Any) -> tuple[Graph | None, str]:
    """The graph of a measurement copy; or None and why there is none, the copy being as it was."""
    if not isinstance(only_tensor(inputs), Tensor):
        return None, "it takes more than one tensor, and only networks that take one are traced"
    modes = {path: getattr(m, "inplace", None) for path, m in model.named_modules()}
    try:
        graph = Graph.of_copy(model)
    except ModelError as error:
        return None, error.found
    why = _hidden(graph) or _differs(graph, inputs, expected)
    if not why:
        return graph, ""
    for path, module in model.named_modules():
        if modes[path] is not None:
            setattr(module, "inplace", modes[path])  # noqa: B010
    return None, why


def _hidden(graph: Graph) -> str:
    for node in graph.module.graph.nodes:
        if node.op == "call_module":
            module = graph.submodule(node)
            if not is_activation(module) and hides_activation(module):
                return f"{str(node.target)!r}, a {type(module).__name__}, hides activation functions from tracing"
    return ""


def _differs(graph: Graph, inputs: Any, expected: Any) -> str:
    """What is wrong with the output of a graph, if anything."""
    for forward in (graph.observing({}), graph.capturing([])):  # as it is, and with nothing overwritten
        try:
            with torch.no_grad():
                output, _ = forward(only_tensor(inputs))
        except Exception as error:  # whatever the generated code stumbles over
            return f"its traced copy fails ({type(error).__name__}: {first_line(error)})"
        if why := _other_output(output, expected):
            return why
    return ""


def _other_output(output: Any, expected: Any) -> str:
    """In what an output is not the one expected, if in anything."""
    mine, theirs = list(tensors(output)), list(tensors(expected))
    if [m.shape for m in mine] != [t.shape for t in theirs]:
        return "traced, it gives outputs of other shapes"
    for m, t in zip(mine, theirs, strict=True):
        if m.is_meta or not t.numel() or not t.is_floating_point():
            continue
        allowed = _TOLERANCE.get(t.dtype, _LOW_PRECISION) * float(t.nan_to_num().abs().max())
        if not torch.allclose(m, t, rtol=0, atol=allowed, equal_nan=True):
            return "traced, it does not give its own logits"
    return ""
