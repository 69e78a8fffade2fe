"""A network observed and edited as it runs: its functions through a torch function mode, its modules by hooks."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from vestige.errors import ModelError, nearest
from vestige.models.copies import laid_out, measurement_copy
from vestige.models.operations import Record, call, first_line, kind_of, own, tensors
from vestige.models.running import RETURNED, CallsOfModules, Note, Run, Scripted, wrapping_scripts
from vestige.models.tracing import is_leaf

Edit = Callable[[Tensor], Tensor]
Readers = Mapping[str, Callable[[Tensor], Any]]


class Eager:
    """A network that cannot be traced. It has what `Graph` has, but for the suffixes.

    Operations have the paths that tracing would give them; what goes on within a scripted module is not seen.
    Names count calls: where control flow depends on the data, the second `relu` of one input may not be that of
    another.

    Args:
      model: takes the inputs, gives logits; a copy is made for measuring.
      inputs: some to run once, to see what there is: a tensor, a tuple (several arguments) or a dict (named ones).
      note: why it is not traced, a sentence.
      copy: False: `model` is a measurement copy already, which is kept.

    Attributes:
      module: the copy.
      nodes: for each node name, the path of the operation (for operations both are the same).
      modules: for each path of a module, numbered where it is called again, the node that is what it returns.
      relus: the ReLU nodes, in the order they ran.
      traced: False.

    Raises:
      ModelError: it cannot be copied, or cannot take these inputs.
    """

    traced = False

    def __init__(self, model: nn.Module, inputs: Any, *, note: str = "", copy: bool = True):
        self.module, self.note = wrapping_scripts(measurement_copy(model) if copy else model), note
        self._run: Run | CallsOfModules | None = None
        self._calls: dict[str, tuple[str, int]] = {}
        self._relus_dropped, self._owner = False, self
        for path, module in self.module.named_modules():
            if path and not isinstance(module, torch.jit.ScriptModule):
                leaf = is_leaf(module) or isinstance(module, Scripted)
                module.register_forward_pre_hook(lambda _, __, path=path, leaf=leaf: self._enter(path, leaf))
                leave = functools.partial(self._leave, path)
                module.register_forward_hook(leave, with_kwargs=True)
        self._look(inputs)

    def _look(self, inputs: Any) -> None:
        try:
            found = self.record(inputs).operations
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors(inputs))
            raise ModelError(
                f"running a {type(self.module).__name__}",
                found=f"it cannot take inputs of shape {shapes} ({type(error).__name__}: {first_line(error)})",
                remedy="Check the inputs' channels and size against what the model was made for",
            ) from error
        self.relus = tuple(name for name, operation in found.items() if operation.label == "ReLU")
        self.nodes = {name: name.removesuffix(RETURNED) for name in found}
        self.modules = {path: name for name, path in self.nodes.items() if name.endswith(RETURNED)}

    @property
    def calls(self) -> dict[str, tuple[str, int]]:
        """For each node that is what a module gives: the module's path, and which of its calls in a forward."""
        return dict(self._calls)

    def record(self, inputs: Any) -> Record:
        """What a forward of some inputs does, operation after operation."""
        inputs = own(inputs)
        record = Record(self.module, inputs)

        def note(name: str, target: Any, args: Any, kwargs: Any, value: Any) -> Any:
            record.add(name, target, args, kwargs, value)
            return value

        with torch.no_grad():
            record.close(self._forward(inputs, note))
        return record

    def observing(self, readers: Readers) -> Callable[[Any], tuple[Any, dict[str, Any]]]:
        """A forward in which values are read at the moment they are made: as `Graph.observing`.

        Raises:
          ModelError: there is no such node; in the forward: these inputs do not reach one.
        """
        names = self._known(list(readers))

        def forward(inputs: Any) -> tuple[Any, dict[str, Any]]:
            read: dict[str, Any] = {}

            def note(name: str, _target: Any, _args: Any, _kwargs: Any, value: Any) -> Any:
                if name in readers:
                    read[name] = readers[name](_first(value))
                return value

            output = self._forward(own(inputs), note, names)
            _check_reached(names, read)
            return output, {name: read[name] for name in names}

        return forward

    def capturing(self, nodes: Sequence[str]) -> Callable[[Any], tuple[Any, dict[str, Tensor]]]:
        """A forward that also gives the values of some nodes: copies, which nothing overwrites.

        Raises:
          ModelError: there is no such node; in the forward: these inputs do not reach one.
        """
        return self.observing(dict.fromkeys(self._known(nodes), torch.clone))

    def editing(self, nodes: Sequence[str]) -> Callable[[Any, Mapping[str, Edit]], Any]:
        """A full forward in which the value of each node is replaced by what its edit makes of it.

        Args:
          nodes: names of the nodes that can be edited.

        Returns:
          a function of the inputs and of the edits by node name (any of `nodes`), giving the logits.

        Raises:
          ModelError: there is no such node; in the forward: an edit of a node that was not among them, or that
            these inputs do not reach.
        """
        names = self._known(nodes)

        def forward(inputs: Any, edits: Mapping[str, Edit]) -> Any:
            if stray := set(edits) - set(names):
                raise ModelError(
                    "editing activations",
                    found=f"node {min(stray)!r} is not among those that this forward can edit",
                    remedy=nearest(min(stray), names),
                )
            done: set[str] = set()

            def edit(name: str, target: Any, args: Any, kwargs: Any, value: Any) -> Any:
                if name not in edits:
                    return value
                done.add(name)
                overwritten = any(_first(value) is tensor for tensor in tensors((args, kwargs)))
                return _replaced(value, edits[name], in_place=overwritten and kind_of(target)[0] != "identity")

            output = self._forward(own(inputs), edit)
            _check_reached(tuple(edits), done)
            return output

        return forward

    def without_relus(self) -> "Eager":
        """The same network, with the same parameters, every ReLU replaced by the identity.

        Raises:
          ModelError: a ReLU may lie within a scripted module.
        """
        for path, module in self.module.named_modules():
            if isinstance(module, Scripted):
                raise ModelError(
                    "taking the ReLUs out of a model",
                    found=f"{path or 'the whole'!r} is a scripted module, which may hide one",
                    remedy="Leave the linearity measurement out for this model",
                )
        anchor = object.__new__(Eager)
        anchor.__dict__.update(self.__dict__)
        anchor._relus_dropped, anchor.relus = True, ()
        return anchor

    def to(self, device: torch.device | str | None = None, memory_format: Any = None) -> "Eager":
        """Move the parameters and buffers, in place."""
        if device is not None:
            self.module.to(device)
        if memory_format is not None:
            laid_out(self.module, memory_format)
        return self

    def _forward(self, inputs: Any, note: Note, only: Sequence[str] | None = None) -> Any:
        calls = self._calls
        if only is not None and not self._relus_dropped and all(name in calls for name in only):
            run = CallsOfModules(note, [(calls[name], name) for name in only])  # no function need be looked at
        else:
            run = Run(note, self._relus_dropped)
        with self._owner._running(run), run, _uncompiled():
            return call(self.module, inputs)

    @contextmanager
    def _running(self, run: Run | CallsOfModules) -> Iterator[None]:
        self._run = run
        try:
            yield
        finally:
            self._run = None
            if isinstance(run, Run) and not self._calls:
                self._calls = run.calls

    def _enter(self, path: str, leaf: bool) -> None:
        if self._run is not None:
            self._run.enter(path, leaf)

    def _leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, value: Any) -> Any:
        return value if self._run is None else self._run.leave(path, module, args, kwargs, value)

    def _known(self, nodes: Sequence[str]) -> tuple[str, ...]:
        for name in nodes:
            if name not in self.nodes:
                raise ModelError(
                    "looking into a model",
                    found=f"there is no node {name!r}",
                    remedy=nearest(name, self.nodes),
                )
        return tuple(dict.fromkeys(nodes))


def _uncompiled() -> Any:
    """What lets compiled parts run as they were written; its import takes seconds, and nothing is compiled without."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _first(value: Any) -> Tensor:
    return next(tensors(value))


def _replaced(value: Any, edit: Edit, *, in_place: bool) -> Any:
    """A value whose first tensor has been edited; where that was overwritten, it may be read from elsewhere."""
    leaves, structure = tree_flatten(value)
    place = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
    old, new = leaves[place], edit(leaves[place])
    if in_place:
        leaves[place] = old.copy_(new) if new is not old else old
    else:
        leaves[place] = new if new is old else new.clone()
    return tree_unflatten(leaves, structure)


def _check_reached(names: Sequence[str], reached: Any) -> None:
    for name in names:
        if name not in reached:
            raise ModelError(
                "looking into a model as it runs",
                found=f"these inputs do not reach {name!r}: what the network does depends on them",
                remedy="Leave that layer out, or give inputs that reach it",
            )
