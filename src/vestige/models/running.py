"""One forward as it runs: a torch function mode sees its functions, hooks of its modules tell it where it is."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vestige.models.operations import Names, function_name, kind_of, tensors

RETURNED = " (returned)"

Note = Callable[[str, Any, Any, Any, Any], Any]
"""Called with name, target, arguments, keyword arguments and value of an operation; gives the value to go on with."""


class Run(TorchFunctionMode):
    """One forward: where it is, and what the next operation is called."""

    def __init__(self, note: Note, drop_relus: bool):
        super().__init__()
        self._note, self._drop_relus = note, drop_relus
        self._names, self._module_names = Names(), Names()
        self._within: list[tuple[str, str, bool]] = [("", "", False)]  # path, numbered path, whether a leaf
        self._count: dict[str, int] = {}
        self.calls: dict[str, tuple[str, int]] = {}  # for each node that is a module's, which call of the module

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._drop_relus and kind_of(func)[1] == "ReLU":
            value = _passed_on(func, args, kwargs)
        else:
            value = func(*args, **kwargs)
        path, _, leaf = self._within[-1]
        if leaf or next(tensors(value), None) is None:
            return value
        name = self._names.give(f"{path}.{function_name(func)}".lstrip("."))
        return self._note(name, func, args, kwargs, value)

    def enter(self, path: str, leaf: bool) -> None:
        """A module is called; what happens within a leaf is not noted."""
        inside = leaf or self._within[-1][2]
        if not self._within[-1][2]:
            self._within.append((path, self._module_names.give(path), inside))
        else:
            self._within.append(("", "", True))

    def leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, value: Any) -> Any:
        """It has given a value; returns what it shall give."""
        _, numbered, leaf = self._within.pop()
        call = (path, self._count.get(path, 0))
        self._count[path] = call[1] + 1
        if self._within[-1][2] or next(tensors(value), None) is None:
            return value
        here = self._within
        self._within = [("", "", True)]  # what is done in noting is none of the network's
        if leaf:
            name = self._names.give(path)
            self.calls[name] = call
            value = self._note(name, module, args, kwargs, value)
        self.calls[numbered + RETURNED] = call
        value = self._note(numbered + RETURNED, _returned, (next(tensors(value)),), {}, value)
        self._within = here
        return value


class CallsOfModules(nullcontext):
    """One forward of which some calls of modules are noted, by path and number, and nothing else."""

    def __init__(self, note: Note, wanted: Sequence[tuple[tuple[str, int], str]]):
        super().__init__()
        self._note, self._wanted = note, wanted
        self._paths = {path for (path, _), _ in wanted}
        self._count: dict[str, int] = {}

    def enter(self, path: str, leaf: bool) -> None:
        """Nothing is done before a call."""

    def leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, value: Any) -> Any:
        """A module has given a value; returns what it shall give."""
        number = self._count.get(path, 0)
        self._count[path] = number + 1
        for call_of_module, name in self._wanted if path in self._paths else ():
            if call_of_module == (path, number):
                value = self._note(name, module, args, kwargs, value)
        return value


class Scripted(nn.Module):
    """Has the hooks that a scripted module cannot have."""

    def __init__(self, module: torch.jit.ScriptModule):
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the scripted module gives."""
        return self.module(*args, **kwargs)


def wrapping_scripts(model: nn.Module) -> nn.Module:
    """A module with hooks in place of each of its outermost scripted modules; changed in place."""
    if isinstance(model, torch.jit.ScriptModule):
        return Scripted(model)
    wrapped: dict[nn.Module, Scripted] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        parent = model.get_submodule(path.rpartition(".")[0])
        if isinstance(module, torch.jit.ScriptModule) and not isinstance(parent, torch.jit.ScriptModule | Scripted):
            model.set_submodule(path, wrapped.setdefault(module, Scripted(module)))
    return model


def _returned() -> None:
    """Stands for what a module returns."""


def _passed_on(func: Callable, args: Any, kwargs: Any) -> Tensor:
    value = next(tensors((args, kwargs)))
    in_place = function_name(func).endswith("_") or kwargs.get("inplace") is True or True in args[1:]
    return value if in_place else value.clone()
