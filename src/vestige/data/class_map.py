"""Which output of a model is which class of the data: label in the data -> class index of the model."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vestige.errors import DataError, nearest

FORMS = "Give a list of indices, {class name or label: index}, or the names of the model's classes in their order"


def read_class_map(path: Path | str, class_names: Sequence[str], *, outputs: int | None = None) -> np.ndarray:
    """The model's class index of every class of the data, from a file.

    Args:
      path: a JSON file (see `class_map`; also `{index: name}` and `{index: [name, ...]}`, as ImageNet's index is often
        kept), or a text file: one index a line, `NAME INDEX` lines, or one name a line, in the order of the model's
        classes, which may be followed by other words. Blank lines and lines that start with # are passed over.
      class_names: of the data, C of them, in the order of their labels.
      outputs: classes of the model; indices must be below.

    Returns:
      (C,) int64.

    Raises:
      DataError: the file cannot be read or understood; a class has no index, or one that another has, or is out of
        range.
    """
    doing = f"reading the class map {path}"
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise DataError(doing, found=reason, remedy="Give a JSON or text file") from error
    if Path(path).suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        try:
            given = json.loads(text)
        except ValueError as error:
            raise DataError(doing, found=f"it is no JSON ({error})", remedy=FORMS) from error
    else:
        given = _from_lines(text, class_names)
    return class_map(given, class_names, outputs=outputs, doing=doing)


def class_map(
    given: Any, class_names: Sequence[str], *, outputs: int | None = None, doing: str = "mapping classes"
) -> np.ndarray:
    """The model's class index of every class of the data.

    Args:
      given: C indices in the order of the labels; or a mapping from class names (or, where it has none of them, from
        labels) to indices, in which further keys do not matter; or the names of the model's classes in their order.
      class_names: of the data, C of them, in the order of their labels.
      outputs: classes of the model; indices must be below.
      doing: for the message.

    Returns:
      (C,) int64.

    Raises:
      DataError: a class has no index, or one that another has, or is out of range; `given` is none of these.
    """
    if isinstance(given, np.ndarray):
        given = given.tolist()
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) > 0
    if isinstance(given, Mapping) and given:
        indices = _by_key(_turned(given), class_names, doing)
    elif listed and all(isinstance(name, str) for name in given):
        indices = _by_name(list(given), class_names, doing)
    elif listed:
        if len(given) != len(class_names):
            found = f"{len(given)} indices for the {len(class_names)} classes of the data"
            raise DataError(doing, found=found, remedy="Give one index for each class, in the order of the labels")
        indices = list(given)
    else:
        raise DataError(doing, found=f"nothing to map by in a {type(given).__name__}", remedy=FORMS)
    return _checked(indices, class_names, outputs, doing)


def _from_lines(text: str, class_names: Sequence[str]) -> Any:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if all(re.fullmatch(r"-?\d+", line) for line in lines):
        return [int(line) for line in lines]
    if set(lines) & set(class_names):
        return lines
    pairs = [re.fullmatch(r"(.+?)[\s,:]+(-?\d+)", line) for line in lines]
    if all(pairs):
        return {pair[1]: int(pair[2]) for pair in pairs if pair}
    return [line.split()[0] for line in lines]


def _turned(given: Mapping[Any, Any]) -> dict[str, Any]:
    """`{index: name}` and `{index: [name, ...]}` turned round; keys as text."""
    turned: dict[str, Any] = {}
    for key, value in given.items():
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list | tuple) and str(key).isdigit():
            turned |= {str(name): int(key) for name in names if str(name) not in turned}
        else:
            turned[str(key)] = value
    return turned


def _by_key(given: Mapping[str, Any], class_names: Sequence[str], doing: str) -> list[Any]:
    keys = list(class_names) if set(class_names) & set(given) else [str(label) for label in range(len(class_names))]
    for name, key in zip(class_names, keys, strict=True):
        if key not in given:
            raise DataError(doing, found=f"class {name!r} has no index", remedy=nearest(name, given))
    return [given[key] for key in keys]


def _by_name(given: Sequence[str], class_names: Sequence[str], doing: str) -> list[int]:
    for name in class_names:
        if given.count(name) > 1:
            raise DataError(
                doing,
                found=f"class {name!r} is named {given.count(name)} times",
                remedy="Give {class name: index}, where names serve for several classes",
            )
    places = {name: i for i, name in enumerate(given)}
    missing = [name for name in class_names if name not in places]
    if missing:
        raise DataError(doing, found=f"class {missing[0]!r} has no index", remedy=nearest(missing[0], given))
    return [places[name] for name in class_names]


def _checked(indices: Sequence[Any], class_names: Sequence[str], outputs: int | None, doing: str) -> np.ndarray:
    taken: dict[int, str] = {}
    for name, index in zip(class_names, indices, strict=True):
        if not isinstance(index, int | np.integer) or isinstance(index, bool):
            raise DataError(doing, found=f"class {name!r} has the index {index!r}", remedy="Give whole numbers from 0")
        index = int(index)
        if index < 0 or (outputs is not None and index >= outputs):
            range_ = "0 and above" if outputs is None else f"0 to {outputs - 1}"
            found = f"class {name!r} has index {index}; the model's classes are {range_}"
            raise DataError(doing, found=found, remedy="Give indices of the model's classes")
        if index in taken:
            found = f"classes {taken[index]!r} and {name!r} both have index {index}"
            raise DataError(doing, found=found, remedy="Give each class an index of its own")
        taken[index] = name
    return np.array(indices, dtype=np.int64)
