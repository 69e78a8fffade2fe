"""Objects from the user's own Python files: `path.py:object`, for models and for data.

Nothing here imports torch, though the user's file may.
"""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vestige.errors import VestigeError, nearest


def load_object(path: str, name: str, *, doing: str, kind: type[VestigeError]) -> Any:
    """Run a Python file and take an object from it.

    Args:
      path: of the file; it may import what lies beside it.
      name: of the object, with dots for what lies within another.
      doing: for the message.
      kind: of the error.

    Raises:
      kind: there is no such file, running it fails, or there is no such object in it.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        folder = file.parent
        here = [str(Path(path).with_name(p.name)) for p in folder.glob("*.py")] if folder.is_dir() else []
        remedy = nearest(path, here) if here else "Check the path"
        raise kind(doing, found=f"there is no file {path!r}", remedy=remedy)
    spec = importlib.util.spec_from_file_location(f"vestige_user_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up
    with beside(file):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise kind(
                doing,
                found=f"running {path} raises {raised(error, file)}",
                remedy="Mend the file; `python FILE` should run it without an error",
            ) from error
    found: Any = module
    for part in name.split("."):
        if not part or not hasattr(found, part):
            offered = [k for k in vars(found) if not k.startswith("_")] if hasattr(found, "__dict__") else []
            raise kind(doing, found=f"there is no {name!r} in {path}", remedy=nearest(part, offered))
        found = getattr(found, part)
    return found


def call_object(
    source: Callable[..., Any],
    path: str,
    arguments: Mapping[str, Any],
    *,
    doing: str,
    kind: type[VestigeError],
    remedy: str,
) -> Any:
    """Call an object of the user's.

    Args:
      source: what is called.
      path: of the file that it is from.
      arguments: by name.
      doing, kind, remedy: of the error.

    Raises:
      kind: the call fails.
    """
    file = Path(path).expanduser().resolve()
    call = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    with beside(file):
        try:
            return source(**arguments)
        except (Exception, SystemExit) as error:
            raise kind(doing, found=f"calling it with ({call}) raises {raised(error, file)}", remedy=remedy) from error


def taken(source: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that the signature of a callable takes by name."""
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):  # some built-in callables do not tell
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(settings)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in settings.items() if key in named}


@contextmanager
def beside(file: Path) -> Iterator[None]:
    """Let a file import what lies beside it."""
    sys.path.insert(0, str(file.parent))
    try:
        yield
    finally:
        if str(file.parent) in sys.path:
            sys.path.remove(str(file.parent))


def raised(error: BaseException, file: Path) -> str:
    """An error and the line of the user's file that it came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        lines.append(error.lineno)
    place = f" in line {lines[-1]}" if lines else ""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}{place}: {message}" if message else f"{type(error).__name__}{place}"
