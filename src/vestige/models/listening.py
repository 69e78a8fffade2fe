"""Reading layers of a network while its owner runs it: in training, with gradients, in its own wrappers.

Unlike `Graph` and `Eager`, which look into a copy, this puts hooks on the network itself, for as long as it listens.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from vestige.errors import ModelError
from vestige.models.copies import unwrapped
from vestige.models.eager import Eager
from vestige.models.layers import Layer, Layers, find_layers
from vestige.models.operations import tensors
from vestige.models.running import CallsOfModules, Run
from vestige.models.tracing import is_leaf


class Listener:
    """Reads the activations of layers at the moment they are made, in every forward while its context is open.

    Args:
      model: the network, or what wraps it (DDP, torch.compile, which runs uncompiled meanwhile).
      read: called with a layer and its activation, which it must neither keep nor change.
      choose: of the layers found, those to read.
      wanted: see `find_layers`.
      done: called with what each forward gives.
    """

    def __init__(
        self,
        model: nn.Module,
        read: Callable[[Layer, Tensor], Any],
        choose: Callable[[Layers], Sequence[Layer]],
        wanted: Sequence[str | Layer] | None = None,
        done: Callable[[Any], None] | None = None,
    ):
        self.model = unwrapped(model)
        self.layers: tuple[Layer, ...] = ()
        self._read, self._choose, self._wanted, self._done = read, choose, wanted, done
        self._by_node: dict[str, list[Layer]] = {}
        self._calls: dict[str, tuple[str, int]] = {}
        self._reached: set[str] = set()
        self._run: Run | CallsOfModules | None = None
        self._open: ExitStack | None = None

    def look(self, inputs: Any) -> None:
        """Find the layers, on a copy in eval mode.

        Args:
          inputs: a few, as the network takes them.

        Raises:
          ModelError: there are none, or not those that are wanted.
        """
        with torch.random.fork_rng(devices=_devices(self.model)):
            eager = Eager(self.model, inputs)
            self.layers = tuple(self._choose(find_layers(eager, inputs, self._wanted)))
        for layer in self.layers:
            self._by_node.setdefault(layer.node, []).append(layer)
        self._calls = eager.calls

    def __enter__(self) -> "Listener":
        if self._open is not None:
            raise ModelError(
                "listening to a model", found="this is being done already", remedy="Leave the context first"
            )
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            self._hook(stack)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        opened, self._open = self._open, None
        self._end()
        if opened is not None:
            opened.close()

    def _hook(self, stack: ExitStack) -> None:
        ear = _Ear(self)
        # The first forward tells what the network takes; only then the layers can be found.
        self._parts = stack.enter_context(ExitStack())
        if self.layers:
            self._hook_parts(ear)
        stack.callback(self.model.register_forward_pre_hook(ear.begin, with_kwargs=True).remove)
        stack.callback(self.model.register_forward_hook(ear.finish, always_call=True).remove)

    def _hook_parts(self, ear: "_Ear") -> None:
        """On the modules whose calls are read, or on all where functions are."""
        only = {self._calls[node][0] for node in self._by_node} if self._modules_will_do else None
        for path, module in self.model.named_modules():
            if path and not isinstance(module, torch.jit.ScriptModule) and (only is None or path in only):
                enter = functools.partial(ear.enter, path, is_leaf(module))
                leave = functools.partial(ear.leave, path)
                self._parts.callback(module.register_forward_pre_hook(enter).remove)
                self._parts.callback(module.register_forward_hook(leave, with_kwargs=True).remove)

    @property
    def _modules_will_do(self) -> bool:
        return all(node in self._calls for node in self._by_node)

    def begin(self, ear: "_Ear", inputs: Any) -> None:
        """A forward begins."""
        if not self.layers:
            self.look(_few(inputs))
            self._hook_parts(ear)
        self._reached = set()
        if self._modules_will_do:
            self._run = CallsOfModules(self._note, [(self._calls[node], node) for node in self._by_node])
        else:
            self._run = Run(self._note, drop_relus=False)
            self._run.__enter__()

    def finish(self, output: Any) -> None:
        """It ends, by an error or not."""
        ended = self._end()
        if not ended or sys.exc_info()[0] is not None:
            return
        for node in self._by_node:
            if node not in self._reached:
                raise ModelError(
                    "listening to a model",
                    found=f"this forward did not reach {node!r}: in training the network does something else",
                    remedy="Leave that layer out (layers, stages)",
                )
        if self._done is not None:
            self._done(output)

    def enter(self, path: str, leaf: bool) -> None:
        """A module is called."""
        if self._run is not None:
            self._run.enter(path, leaf)

    def leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, value: Any) -> Any:
        """A module has given a value."""
        return value if self._run is None else self._run.leave(path, module, args, kwargs, value)

    def _end(self) -> bool:
        run, self._run = self._run, None
        if isinstance(run, Run):
            run.__exit__(None, None, None)
        return run is not None

    def _note(self, name: str, _target: Any, _args: Any, _kwargs: Any, value: Any) -> Any:
        for layer in self._by_node.get(name, ()):
            self._reached.add(name)
            self._read(layer, next(tensors(value)))
        return value


class _Ear:
    """The hooks; in a copy of the network they hear nothing."""

    def __init__(self, listener: Listener | None):
        self._listener = listener

    def __deepcopy__(self, _memo: dict[int, Any]) -> "_Ear":
        return _Ear(None)

    def begin(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._listener is not None:
            self._listener.begin(self, kwargs if kwargs and not args else args)

    def finish(self, _model: nn.Module, _args: Any, output: Any) -> None:
        if self._listener is not None:
            self._listener.finish(output)

    def enter(self, path: str, leaf: bool, *_: Any) -> None:
        if self._listener is not None:
            self._listener.enter(path, leaf)

    def leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, value: Any) -> Any:
        return value if self._listener is None else self._listener.leave(path, module, args, kwargs, value)


def _few(inputs: Any) -> Any:
    """The first two, where every tensor has as many rows; detached."""
    rows = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors(inputs)}
    take = len(rows) == 1 and rows != {0}
    few = tree_map_only(Tensor, lambda tensor: (tensor[:2] if take else tensor).detach(), inputs)
    return few[0] if isinstance(few, tuple) and len(few) == 1 else few


def _devices(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})
