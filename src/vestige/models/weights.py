"""Reading weights that others saved, and fitting them to a model by the names of their tensors."""

import argparse
import hashlib
import pathlib
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vestige.errors import ModelError, nearest
from vestige.models.unfitting import fitting_classes, unfitting

_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
_KNOWN_PARTS = {"module", "model"}
"""Of prefixes that data parallel, averaging and Lightning put before names."""
_OTHERS = {
    ".h5": "a file of Keras",
    ".keras": "a file of Keras",
    ".onnx": "an ONNX graph",
    ".pb": "a graph of TensorFlow",
    ".tflite": "a graph of TensorFlow",
    ".msgpack": "a file of Flax",
    ".npz": "a file of NumPy",
    ".json": "a text, perhaps the index of weights in several files",
}
_SHOWN = 4


class _Given(NamedTuple):
    """Tensors under the names that the model has for them, and what was done to get there."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def read_weights(path: Path | str) -> dict[str, Any]:
    """Read a file of weights without running any code that it may hold.

    Args:
      path: safetensors, or what `torch.save` wrote.

    Returns:
      what it holds: tensors by name, perhaps inside a wrapper that `load_weights` understands. On the CPU.

    Raises:
      ModelError: there is no such file, it is damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    doing = f"reading weights {path}"
    if not path.is_file():
        here = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise ModelError(doing, found=found, remedy=nearest(path.name, here) if here else "Check the path")
    if path.suffix in _OTHERS:
        raise ModelError(
            doing, found=f"it is {_OTHERS[path.suffix]}", remedy="Give safetensors, or what torch.save wrote"
        )
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except pickle.UnpicklingError as error:
        raise _holding_more(path, error) from error
    except Exception as error:
        if "TorchScript" in str(error):
            raise ModelError(
                doing,
                found="it is a TorchScript archive, which holds code",
                remedy="Save its weights alone where it is trusted: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
            ) from error
        raise ModelError(
            doing,
            found=f"it is truncated or no file of weights ({_first_line(error)})",
            remedy="Get or make it anew",
        ) from error
    if not isinstance(content, Mapping):
        raise ModelError(
            doing,
            found=f"it holds a {type(content).__name__}, not tensors by name",
            remedy="Save the state_dict: torch.save(model.state_dict(), FILE)",
        )
    return dict(content)


def load_weights(model: nn.Module, tensors: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """Copy weights into a model, all of them or none.

    Of wrappers, the first there is of `state_dict`, `model_state_dict`, `model`, `state_dict_ema`, `model_ema`
    is opened, or the only mapping that holds tensors. `_orig_mod.` of torch.compile is left out of names, and so is
    a prefix under which the whole model is found: `module.` and `model.` of data parallel and Lightning, or any
    other if it is the only one. What lies outside of that prefix is left out.

    Args:
      model: changed in place.
      tensors: tensors by name, or such a wrapper.
      source: where they come from, for the message.

    Returns:
      what a reader should know of this: what was opened, what was left out.

    Raises:
      ModelError: tensors are missing, unexpected, of another shape or quantised; the model is as it was.
    """
    wanted = model.state_dict()
    given = _named(tensors, wanted, source)
    if problem := unfitting(wanted, given.tensors, type(model).__name__, source):
        raise problem
    with torch.no_grad():
        model.load_state_dict(given.tensors, strict=False)  # strict but for num_batches_tracked, checked above
    return given.notes


def classes_of_weights(model: nn.Module, tensors: Mapping[str, Any], classes: int, source: str) -> int | None:
    """The number of classes for which weights were trained, seen from where they do not fit a model.

    Args:
      model: of the same architecture, for `classes` classes.
      tensors: as `load_weights` takes them.
      classes: of the model.
      source: where they come from, for the message.

    Returns:
      `classes` where every shape fits; None where they differ by more than the number of classes.

    Raises:
      ModelError: there are no tensors.
    """
    wanted = model.state_dict()
    return fitting_classes(wanted, _named(tensors, wanted, source).tensors, classes)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, whatever file they came from, hexadecimal.

    The counts of batches that batch norm keeps are left out: they change nothing that is measured.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if name.endswith("num_batches_tracked"):
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{plain.dtype}\0{tuple(plain.shape)}\0".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(list(_plain_values())), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TorchScript archive")  # an error below says it
        return torch.load(path, map_location="cpu", weights_only=True)


@cache
def _plain_values() -> tuple[Any, ...]:
    """What training scripts keep beside the weights, and what making it cannot run: arguments, numbers, paths."""
    from numpy._core import multiarray

    functions: list[Any] = [multiarray.scalar, multiarray._reconstruct]  # pyright: ignore[reportAttributeAccessIssue]
    formerly = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefdg"}
    paths = [pathlib.PosixPath, pathlib.PurePosixPath]
    return (argparse.Namespace, np.dtype, np.ndarray, *functions, *formerly, *kinds, *paths)


def _holding_more(path: Path, error: Exception) -> ModelError:
    """The error for a file that is damaged, or would run code to be read."""
    try:
        kinds = [str(kind) for kind in torch.serialization.get_unsafe_globals_in_checkpoint(path)]
    except Exception:  # files of before torch 1.6, and damaged ones
        kinds = re.findall(r"GLOBAL ([\w.]+)", str(error))
    allowed = {"numpy.dtype", "numpy.ndarray"}
    kinds = [kind for kind in dict.fromkeys(kinds) if kind not in allowed and "multiarray" not in kind]
    own = [kind for kind in kinds if not kind.startswith(("torch.", "builtins."))]
    if any(kind.startswith("torch.nn.modules.") for kind in kinds):
        shown = _some(own or kinds)
        return ModelError(
            f"reading weights {path}",
            found=f"it holds a whole module ({shown}), which would run code to be read, not its tensors alone",
            remedy="Save its weights alone where it is trusted: torch.save(model.state_dict(), NEW)",
        )
    # Before its reason torch advises to run what the file holds.
    reason = re.search(r"Unpickler error:\s*(.*)", str(error))
    what = f"it holds {_some(kinds)}" if kinds else (reason[1].strip() if reason else _first_line(error))
    return ModelError(
        f"reading weights {path}",
        found=f"it is damaged, or holds more than tensors and plain values ({what})",
        remedy="Get it anew, or save the state_dict alone where it was made: torch.save(model.state_dict(), FILE)",
    )


def _named(tensors: Mapping[str, Any], wanted: Mapping[str, Tensor], source: str) -> _Given:
    """Open wrappers, and take off the prefix under which the whole model lies, or else most of it."""
    given, opened = _opened(tensors, source)
    plain = {_uncompiled(name): name for name in wanted}  # the model itself may be compiled
    needed = {name for name in plain if not name.endswith("num_batches_tracked")}
    named = {_uncompiled(name): tensor for name, tensor in given.items()}
    hits = Counter(prefix for name in named for prefix in _prefixes(name) if name.removeprefix(prefix) in needed)
    whole = sorted((prefix for prefix, n in hits.items() if n == len(needed)), key=_strangeness)
    if len(whole) > 1 and _strangeness(whole[0])[0]:
        raise ModelError(
            f"loading weights from {source}",
            found=f"they hold the whole model more than once, under {', '.join(map(repr, whole[:_SHOWN]))}",
            remedy="Save the one that you mean alone",
        )
    prefix = whole[0] if whole else max(hits, key=lambda p: (hits[p], not p), default="")
    within = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    outside = [name for name in named if not name.startswith(prefix)] if whole else []
    if prefix and outside:
        opened = (*opened, f"{len(outside)} tensors outside of {prefix!r} were left out ({_some(outside)})")
    if not whole:
        within |= {name: tensor for name, tensor in named.items() if not name.startswith(prefix)}
    return _Given({plain.get(name, name): tensor for name, tensor in within.items()}, opened)


def _opened(tensors: Mapping[str, Any], source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    holding = [key for key, value in tensors.items() if _holds_tensors(value)]
    known = [key for key in _WRAPPERS if isinstance(tensors.get(key), Mapping)]
    found = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not known and not found and "param_groups" in tensors:
        raise ModelError(
            f"loading weights from {source}",
            found="it is the state of an optimiser, which holds no weights",
            remedy="Give the file that the model's state_dict was saved to",
        )
    if not known and not found and len(holding) > 1:
        raise ModelError(
            f"loading weights from {source}",
            found=f"it holds several sets of tensors: {', '.join(map(repr, holding[:_SHOWN]))}",
            remedy=f"Save the one that you mean alone: torch.save(content[{holding[0]!r}], FILE)",
        )
    if wrapper := next(iter([*known, *(holding if not found else [])]), None):
        inner, notes = _opened(tensors[wrapper], source)
        beside = [key for key in holding if key != wrapper]
        said = f"the weights are those under {wrapper!r}; there is also {_some([repr(key) for key in beside])}"
        return inner, (said, *notes) if beside else notes
    if not found:
        raise ModelError(
            f"loading weights from {source}",
            found=f"there are no tensors among {', '.join(map(repr, list(tensors)[:_SHOWN])) or 'nothing'}",
            remedy="Give a state_dict, or a file with one under 'state_dict' or 'model'",
        )
    found.pop("n_averaged", None)  # a count that averaged models keep
    return found, ()


def _holds_tensors(value: Any) -> bool:
    """Whether this is tensors by name: an optimiser keeps its own by number."""
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _uncompiled(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _prefixes(name: str) -> list[str]:
    """Every beginning of a dotted name that ends with a dot, and none."""
    return ["", *(name[: dot.end()] for dot in re.finditer(r"\.", name))]


def _strangeness(prefix: str) -> tuple[bool, int, str]:
    """None first, then `module.` and `model.`, then others."""
    parts = prefix.split(".")[:-1]
    return not set(parts) <= _KNOWN_PARTS, len(parts), prefix


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
