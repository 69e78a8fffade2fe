"""Reading weights that others saved, and fitting them to a model by the names of their tensors."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vestige.errors import ModelError, nearest

_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 4


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
    if not path.is_file():
        here = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise ModelError(
            f"reading weights {path}",
            found=found,
            remedy=nearest(path.name, here) if here else "Check the path",
        )
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"reading weights {path}",
            found=f"it is damaged, or holds more than tensors and plain values ({_first_line(error)})",
            remedy="Get it anew, or save the state_dict alone where it was made: torch.save(model.state_dict(), FILE)",
        ) from error
    except Exception as error:
        raise ModelError(
            f"reading weights {path}",
            found=f"it is truncated or no file of weights ({_first_line(error)})",
            remedy="Get or make it anew",
        ) from error
    if not isinstance(content, Mapping):
        raise ModelError(
            f"reading weights {path}",
            found=f"it holds a {type(content).__name__}, not tensors by name",
            remedy="Save the state_dict: torch.save(model.state_dict(), FILE)",
        )
    return dict(content)


def load_weights(model: nn.Module, tensors: Mapping[str, Any], source: str) -> None:
    """Copy weights into a model, all of them or none.

    The prefixes `module.`, `model.` and `_orig_mod.` of data parallel, Lightning and torch.compile are left
    out where the model does not have them. Of wrappers, the first there is of `state_dict`,
    `model_state_dict`, `model`, `state_dict_ema`, `model_ema` is opened.

    Args:
      model: changed in place.
      tensors: tensors by name, or such a wrapper.
      source: where they come from, for the message.

    Raises:
      ModelError: tensors are missing, unexpected or of another shape; the model is as it was.
    """
    wanted = model.state_dict()
    given = _fitting_names(_opened(tensors, source), wanted)
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in given if k not in wanted]
    misshapen = [k for k in wanted if k in given and wanted[k].shape != given[k].shape]
    if missing or unexpected or misshapen:
        raise _unfitting(wanted, given, missing, unexpected, misshapen, type(model).__name__, source)
    with torch.no_grad():
        model.load_state_dict(given, strict=False)  # strict but for num_batches_tracked, checked above


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their arguments beside
        return torch.load(path, map_location="cpu", weights_only=True)


def _opened(tensors: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(tensors.get(wrapper), Mapping):
            return _opened(tensors[wrapper], source)
    found = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not found:
        raise ModelError(
            f"loading weights from {source}",
            found=f"there are no tensors among {', '.join(map(repr, list(tensors)[:_SHOWN])) or 'nothing'}",
            remedy="Give a state_dict, or a file with one under 'state_dict' or 'model'",
        )
    found.pop("n_averaged", None)  # a count that averaged models keep
    return found


def _fitting_names(given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The given tensors under the names, with prefixes taken off, of which most are wanted."""
    candidates = [given]
    while True:
        last = candidates[-1]
        cut = next((p for p in _PREFIXES if any(name.startswith(p) for name in last)), None)
        if cut is None:
            break
        candidates.append({name.removeprefix(cut): value for name, value in last.items()})
    candidates += [{name.replace("_orig_mod.", ""): v for name, v in c.items()} for c in candidates]
    plain = {name.replace("_orig_mod.", ""): name for name in wanted}  # the model itself may be compiled
    candidates += [{plain.get(name, name): v for name, v in c.items()} for c in candidates]
    return max(candidates, key=lambda candidate: len(candidate.keys() & wanted.keys()))


def _unfitting(
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
    kind: str,
    source: str,
) -> ModelError:
    shapes = [f"{k} {_shape(given[k])} for {_shape(wanted[k])}" for k in misshapen]
    lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return ModelError(
        f"loading weights from {source}",
        found=f"they do not fit the {kind}: "
        + "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in lists if names),
        remedy=_cause(wanted, given, missing, unexpected, misshapen),
    )


def _cause(wanted, given, missing, unexpected, misshapen) -> str:
    last = next(reversed(wanted)).rpartition(".")[0]
    in_head = [k for k in (*misshapen, *missing) if k.rpartition(".")[0] == last]
    if misshapen and not unexpected and len(in_head) == len(misshapen) + len(missing):
        return (
            f"They were trained for {given[misshapen[0]].shape[0]} classes, the model has "
            f"{wanted[misshapen[0]].shape[0]}: use the data they were trained on"
        )
    first = next(iter(wanted))
    if misshapen == [first] and not missing and not unexpected and wanted[first].ndim == 4:
        return (
            f"They take inputs of {given[first].shape[1]} channels, the model of {wanted[first].shape[1]}: "
            "set data.channels"
        )
    if len(missing) > len(wanted) // 2:
        return "They are of another architecture, or named otherwise: check model.name"
    if missing and not unexpected and not misshapen:
        return "They are incomplete, or of a smaller model: check model.name"
    return "They are of another variant of the model (depth, width, block): check model.name and model.kwargs"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
