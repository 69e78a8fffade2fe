"""Replaying a network from one layer on, each time with one of its neurons replaced, doing as little as is exact.

Shapes: T images that were held, P replays (each of one of them, with one neuron replaced), U neurons of a layer.
"""

import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from vestige.models.convolving import Convolver
from vestige.models.folding import converted, folded, scale_and_shift
from vestige.models.graph import Graph
from vestige.models.map_layouts import laid_out
from vestige.models.operations import Operation
from vestige.models.pairs import (
    Pairs,
    Slice,
    add_intact_,
    add_slice_,
    depthwise,
    gathered,
    own,
    scaled,
    updated_conv,
    updated_linear,
    whole,
)
from vestige.models.spreading import spread

_ADDS = (operator.add, torch.add, "add")
_RELUS = (functional.relu, torch.relu, "relu")


class _Given(NamedTuple):
    """A value that no replay changes, of T images."""

    intact: Tensor


_Env = dict[fx.Node, Any]
_Step = Callable[[_Env, Pairs], Any]


class Replayer:
    """The end of a network, from one layer on, for replays of single neurons.

    Args:
      graph: a measurement copy: eval mode, no gradients.
      node: name of the layer's node.
      axis: which counts its neurons.
      operations: a record of a forward of the graph.
      dtype: to compute in.
      shortcuts: see `spread`.

    Attributes:
      captured: names of the nodes whose intact values it starts from.
      widest: entries of the largest value that a replay makes, those on the way to a convolution included.
    """

    def __init__(
        self,
        graph: Graph,
        node: str,
        axis: int,
        operations: Mapping[str, Operation],
        *,
        dtype: torch.dtype = torch.float32,
        shortcuts: bool = True,
    ):
        self._graph, self._operations, self._dtype = graph, operations, dtype
        self._spread = spread(graph, node, axis, operations, shortcuts=shortcuts)
        self._norms = {norm: conv for conv, norm in self._spread.folded.items() if conv in self._spread.kinds}
        kinds = self._spread.kinds
        convs = [n for n in kinds if kinds[n] in ("whole", "update") and self._is_convolution(n)]
        self._convolver = Convolver(graph, convs, operations, dtype)
        self._taken = {n: self._taken_from(n) for n in kinds if kinds[n] not in ("whole", "size")}
        self._steps = [(n, self._step(n, kind)) for n, kind in kinds.items() if kind not in _NO_STEP]
        self._done_after = self._last_uses()
        self.captured = tuple(dict.fromkeys(self._taken.values()))
        made = [n for n, kind in kinds.items() if kind in ("whole", "update")]
        sizes = (torch.Size(operations[n.name].shape[1:]).numel() for n in made)
        self.widest = max([self._convolver.largest_step(), *sizes, 1])

    def laid_out(self, captured: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Intact values as replays want them: in the dtype, maps laid out for speed."""
        return {name: self._laid_out(captured[name]) for name in self.captured}

    def logits(self, intact: Mapping[str, Tensor], pairs: Pairs, replace: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits of some replays.

        Args:
          intact: what `laid_out` gave, T images each.
          pairs: the replays.
          replace: given the activations of the pairs' neurons, (P, *positions), gives what replaces them.

        Returns:
          (P, C), in the dtype.
        """
        env: _Env = {}
        for node, name in self._taken.items():
            env[node] = _Given(intact[name])
        source = self._spread.source
        channel = self._spread.channels[source]
        own_P = own(env[source].intact, channel, pairs)
        written_P = replace(own_P.squeeze(channel.axis)).to(own_P.dtype).unsqueeze(channel.axis).expand_as(own_P)
        env[source] = Slice(written_P, own_P, env[source].intact, channel)
        for node, step in self._steps:
            env[node] = step(env, pairs)
            for done in self._done_after[node]:
                del env[done]
        return _value(env[self._spread.output], pairs)

    def _laid_out(self, value: Tensor) -> Tensor:
        value = value.to(self._dtype) if value.is_floating_point() else value
        return laid_out(value, self._convolver.layout(value.shape)) if value.ndim == 4 else value.contiguous()

    def _is_convolution(self, node: fx.Node) -> bool:
        module = self._graph.submodule(node) if node.op == "call_module" else None
        return type(module) is nn.Conv2d and module.padding_mode == "zeros"

    def _taken_from(self, node: fx.Node) -> str:
        """The node whose intact value stands for this one: behind the batch norm that is folded into it."""
        return self._spread.folded.get(node, node).name

    def _step(self, node: fx.Node, kind: str) -> _Step:
        if node in self._norms:
            conv = self._norms[node]
            return lambda env, _: env[conv]
        if kind == "size":
            return lambda env, pairs: self._size(node, env, pairs)
        if kind == "channel":
            return self._on_channel(node)
        return self._update(node) if kind == "update" else self._whole(node)

    def _size(self, node: fx.Node, env: _Env, pairs: Pairs) -> Any:
        """A size is that of P replays, whatever stands for the value."""

        def of(source: fx.Node) -> Any:
            value = env[source]
            if isinstance(value, _Given | Slice):
                return value.intact[:1].expand(len(pairs), *value.intact.shape[1:])
            return value

        value = self._call(node, map_arg(node.args, of), map_arg(node.kwargs, of))
        return value.to(self._dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _on_channel(self, node: fx.Node) -> _Step:
        """The operation on the neuron's own channel, as if there were no other."""
        source, channel = _first_tensor(node, self._spread.channels), self._spread.channels[node]
        module = self._graph.submodule(node) if node.op == "call_module" else None
        if isinstance(module, _BatchNorm):
            scale_U, shift_U = scale_and_shift(module, self._dtype)
            operate = lambda written, pairs: scaled(written, scale_U, shift_U, pairs)  # noqa: E731
        elif isinstance(module, nn.Conv2d):
            weight, bias = self._weights(node)
            operate = lambda written, pairs: depthwise(written, weight, bias, module, pairs)  # noqa: E731
        elif self._operations[node.name].kind == "reshape":
            operate = lambda written, _: written.flatten(1)  # noqa: E731
        else:
            operate = None

        def step(env: _Env, pairs: Pairs) -> Slice:
            written = env[source].written
            written = self._with_first(node, source, env) if operate is None else operate(written, pairs)
            return Slice(written, own(env[node].intact, channel, pairs), env[node].intact, channel)

        return step

    def _update(self, node: fx.Node) -> _Step:
        source, module = _first_tensor(node, self._spread.channels), self._graph.submodule(node)
        weight, _ = self._weights(node)
        if isinstance(module, nn.Conv2d):
            weight_UKO = weight.flatten(2).permute(1, 2, 0).contiguous()
            return lambda env, pairs: updated_conv(env[node].intact, env[source], weight_UKO, module, pairs)
        block = self._spread.channels[source].block
        weight_UKO = weight.T.unflatten(0, (-1, block)).contiguous()
        return lambda env, pairs: updated_linear(env[node].intact, env[source], weight_UKO, pairs)

    def _whole(self, node: fx.Node) -> _Step:
        sources = node.all_input_nodes
        module = self._graph.submodule(node) if node.op == "call_module" else None
        if self._is_convolution(node):
            convolve = self._convolver.convolution(node, *self._weights(node))
            return lambda env, pairs: convolve(_value(env[sources[0]], pairs))
        if node.target in _ADDS and len(sources) == 2 and not node.kwargs and self._is_private(sources, node):
            mine, other = sources if self._private(sources[0], node) else sources[::-1]
            return lambda env, pairs: _add_(env[mine], env[other], pairs)
        if (node.target in _RELUS or type(module) is nn.ReLU) and self._private(sources[0], node):
            return lambda env, _: env[sources[0]].relu_()
        own_module = None if module is None else converted(module, self._dtype)

        def step(env: _Env, pairs: Pairs) -> Any:
            def of(source: fx.Node) -> Any:
                return _value(env[source], pairs)

            return self._call(node, map_arg(node.args, of), map_arg(node.kwargs, of), own_module)

        return step

    def _is_private(self, sources: list[fx.Node], node: fx.Node) -> bool:
        shapes = {self._operations[s.name].shape for s in (*sources, node) if s.name in self._operations}
        return len(shapes) == 1 and any(self._private(source, node) for source in sources)

    def _private(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether a value is made by a replay, shares its memory with no other, and is of use only to `user`."""
        if set(node.users) != {user} or node in self._spread.channels:
            return False
        if node in self._norms:
            return True
        if self._spread.kinds.get(node) == "update":
            return True
        module = self._graph.submodule(node) if node.op == "call_module" else None
        fresh = type(module) in (nn.Conv2d, nn.Linear) or isinstance(module, _BatchNorm) or node.target in _ADDS
        return self._spread.kinds.get(node) == "whole" and fresh

    def _weights(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a convolution or linear layer, the batch norm behind it folded in."""
        norm = self._spread.folded.get(node)
        return folded(self._graph.submodule(node), None if norm is None else self._graph.submodule(norm), self._dtype)

    def _with_first(self, node: fx.Node, source: fx.Node, env: _Env) -> Tensor:
        def of(taken: fx.Node) -> Any:
            return env[source].written.contiguous() if taken is source else env[taken]

        return self._call(node, map_arg(node.args, of), map_arg(node.kwargs, of))

    def _call(self, node: fx.Node, args: Any, kwargs: Any, module: nn.Module | None = None) -> Any:
        match node.op:
            case "call_module":
                return (module or self._graph.submodule(node))(*args, **kwargs)
            case "call_function":
                return node.target(*args, **kwargs)  # type: ignore[operator]
            case "call_method":
                return getattr(args[0], _method(str(node.target), args))(*args[1:], **kwargs)
        assert node.op == "get_attr"
        return operator.attrgetter(str(node.target))(self._graph.module)

    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """After which step each value is of no more use."""
        last: dict[fx.Node, fx.Node] = {}
        for node, _ in self._steps:
            sources = [self._norms[node]] if node in self._norms else node.all_input_nodes
            for source in sources:
                if source in self._spread.kinds:
                    last[source] = node
        done: dict[fx.Node, list[fx.Node]] = defaultdict(list)
        for source, node in last.items():
            if source is not self._spread.output:
                done[node].append(source)
        return done


_NO_STEP = ("given", "source")


def _method(name: str, args: Any) -> str:
    """Of the network's own layout there may be a view where of a replay's there is none."""
    shaped = len(args) > 1 and not isinstance(args[1], torch.dtype)
    return {"view": "reshape", "view_as": "reshape_as"}.get(name, name) if shaped else name


def _first_tensor(node: fx.Node, channels: Mapping[fx.Node, Any]) -> fx.Node:
    return next(source for source in node.all_input_nodes if source in channels)


def _value(value: Any, pairs: Pairs) -> Any:
    if isinstance(value, Slice):
        return whole(value, pairs)
    return gathered(value.intact, pairs) if isinstance(value, _Given) else value


def _add_(mine: Tensor, other: Any, pairs: Pairs) -> Tensor:
    if isinstance(other, Slice):
        return add_slice_(mine, other, pairs)
    return add_intact_(mine, other.intact, pairs) if isinstance(other, _Given) else mine.add_(other)
