"""A model from the user's own Python file: `path.py:object`."""

import copy
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from vestige.errors import ModelError, nearest


def load_object(path: str, name: str) -> Any:
    """Run a Python file and take an object from it.

    Args:
      path: of the file; it may import what lies beside it.
      name: of the object, with dots for what lies within another.

    Raises:
      ModelError: there is no such file, running it fails, or there is no such object in it.
    """
    file = Path(path).expanduser().resolve()
    doing = f"building the model '{path}:{name}'"
    if not file.is_file():
        folder = file.parent
        here = [str(Path(path).with_name(p.name)) for p in folder.glob("*.py")] if folder.is_dir() else []
        remedy = nearest(path, here) if here else "Check the path"
        raise ModelError(doing, found=f"there is no file {path!r}", remedy=remedy)
    spec = importlib.util.spec_from_file_location(f"vestige_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up
    with _beside(file):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise ModelError(
                doing,
                found=f"running {path} raises {_where(error, file)}",
                remedy="Mend the file; `python FILE` should run it without an error",
            ) from error
    found: Any = module
    for part in name.split("."):
        if not part or not hasattr(found, part):
            offered = [k for k in vars(found) if not k.startswith("_")] if hasattr(found, "__dict__") else []
            raise ModelError(doing, found=f"there is no {name!r} in {path}", remedy=nearest(part, offered))
        found = getattr(found, part)
    return found


def make_model(source: Any, name: str, settings: Mapping[str, Any], kwargs: Mapping[str, Any]) -> nn.Module:
    """Make a model from the user's object.

    Args:
      source: a network, which is copied, or what is called to make one.
      name: `path.py:object`, for the messages.
      settings: `classes`, `channels`, `size`: given as far as the signature takes them.
      kwargs: given in any case; they go before the settings.

    Raises:
      ModelError: the call fails or does not give a network.
    """
    doing = f"building the model {name!r}"
    if isinstance(source, nn.Module):
        return copy.deepcopy(source)
    if not callable(source):
        raise ModelError(
            doing,
            found=f"it is a {type(source).__name__}",
            remedy="Name a torch.nn.Module, its class, or a function that returns one",
        )
    file = Path(name.rpartition(":")[0]).expanduser().resolve()
    arguments = {**_taken(source, settings), **kwargs}
    call = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    with _beside(file):
        try:
            model = source(**arguments)
        except (Exception, SystemExit) as error:
            raise ModelError(
                doing,
                found=f"calling it with ({call}) raises {_where(error, file)}",
                remedy="Mend it, or give what it needs in model.kwargs",
            ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            doing,
            found=f"calling it gives a {type(model).__name__}",
            remedy="Return a torch.nn.Module from it",
        )
    return model


def _taken(source: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):  # some built-in callables do not tell
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(settings)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in settings.items() if key in named}


@contextmanager
def _beside(file: Path):
    """Let a file import what lies beside it."""
    sys.path.insert(0, str(file.parent))
    try:
        yield
    finally:
        if str(file.parent) in sys.path:
            sys.path.remove(str(file.parent))


def _where(error: BaseException, file: Path) -> str:
    """An error and the line of the user's file that it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    place = f" in line {lines[-1]}" if lines else ""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}{place}: {message}" if message else f"{type(error).__name__}{place}"
