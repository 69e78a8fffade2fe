"""Data from the user's own Python file: `path.py:object`.

The object, or what it gives when called, is a map-style Dataset of (image, label). An image may be Pillow's, uint8
pixels, the bytes of a file or its path; it then becomes the network's input as all images do. Floating-point
tensors are taken for inputs that are preprocessed already: these can be measured, but no study can be made of them.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vestige import userfile
from vestige.data.decode import UNREADABLE, Content
from vestige.data.fingerprint import dataset_name, locate, reading, split_spec
from vestige.data.labels import class_names, known_labels, label_of
from vestige.data.sources import Source, not_an_image
from vestige.errors import DataError, VestigeError

RETURN = "Return a map-style Dataset of (image, label) from it"


def load_data(spec: str, split: str) -> Any:
    """What a Python file gives as data: the object itself, or what it returns when it is called.

    Args:
      spec: `path.py:object`. The object is called unless it is a dataset, a loader or a collection, with `split` and
        `train` (whether the split is `train`) as far as its signature takes them.
      split: `train` or `test`.

    Raises:
      DataError: there is no such file or object, or running or calling it fails.
    """
    _, name, path = split_spec(spec)
    assert path is not None
    file = locate(spec, split).resolve()
    status = file.stat()
    return _made(spec, str(path), name, split, (str(file), status.st_size, status.st_mtime_ns))


def holds_images(data: Any) -> bool:
    """Whether `data` is a map-style dataset whose first item holds an image, to be prepared as `DataConfig` says."""
    try:
        item = data[0]
        return isinstance(item, tuple | list) and len(item) == 2 and _as_content(item[0]) is not None
    except UNREADABLE:
        return True  # an image was looked for
    except Exception:
        return False


def traits(spec: str, split: str) -> str:
    """What a Python file's data tell of themselves without an item being read: length, class names, labels.

    Raises:
      DataError: as `load_data`.
    """
    data = load_data(spec, split)
    try:
        n = len(data)
    except TypeError:
        n = None
    labels = known_labels(data)
    hashed = None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest()
    return repr((n, class_names(data, 0), hashed))


def user_source(spec: str, split: str, *, strict: bool = True) -> Source:
    """The images of a Python file's data, in the order of its items.

    Args:
      spec: `path.py:object`.
      split: `train` or `test`.
      strict: an item that cannot be read is an error where the labels are not known without reading; else it is
        noted as unreadable.

    Raises:
      DataError: as `load_data`; it is no map-style Dataset of (image, label).
    """
    doing, name, data = reading(spec, split), dataset_name(spec), load_data(spec, split)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, Tensor | dict | str):
        raise DataError(doing, found=f"it gives {_a(data)}", remedy=RETURN)

    def where(i: int) -> str:
        return f"item {i} of {name}"

    lock = Lock()  # images are decoded by threads, which the user's dataset need not bear

    def item(i: int) -> Any:
        with lock:
            return _item(data, i, split_spec(spec).path, where(i), doing)

    def read(i: int) -> Content:
        return _content(item(i)[0], where(i), doing)

    labels, unreadable = known_labels(data), {}
    if labels is None:
        labels, unreadable = _read_labels(len(data), item, where, doing, strict=strict)
    if len(wrong := np.flatnonzero(labels < 0)):
        raise DataError(
            doing, found=f"{where(int(wrong[0]))} has label {labels[wrong[0]]}", remedy="Give class indices from 0"
        )
    return Source(class_names(data, int(labels.max(initial=-1)) + 1), labels, read, where, unreadable)


@lru_cache(maxsize=4)
def _made(spec: str, path: str, name: str, split: str, version: tuple[str, int, int]) -> Any:
    """Made once: identity and images are asked for separately, and a dataset may take long to make."""
    doing = reading(spec, split)
    found = _object(path, name, doing, version)
    if isinstance(found, type) or not any(hasattr(found, key) for key in ("__getitem__", "__iter__")):
        if not callable(found):
            raise DataError(doing, found=f"it is {_a(found)}", remedy="Name a Dataset, or what makes one")
        settings = userfile.taken(found, {"split": split, "train": split == "train"})
        remedy = "Let it need no arguments but split, 'train' or 'test', or train, True or False"
        found = userfile.call_object(found, path, settings, doing=doing, kind=DataError, remedy=remedy)
    if found is None:
        raise DataError(doing, found="calling it gives nothing", remedy=RETURN)
    return found


@lru_cache(maxsize=4)
def _object(path: str, name: str, doing: str, version: tuple[str, int, int]) -> Any:  # noqa: ARG001 (a changed file)
    return userfile.load_object(path, name, doing=doing, kind=DataError)


def _item(data: Any, i: int, path: Path | None, where: str, doing: str) -> Any:
    try:
        item = data[i]
    except UNREADABLE:
        raise
    except Exception as error:
        assert path is not None
        raise DataError(
            doing,
            found=f"reading {where} raises {userfile.raised(error, path.expanduser().resolve())}",
            remedy="Mend the dataset",
        ) from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        shown = _a(item) + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
        raise DataError(doing, found=f"{where} is {shown}", remedy="Give pairs of (image, label)")
    return item


def _read_labels(
    n: int, item: Callable[[int], Any], where: Callable[[int], str], doing: str, *, strict: bool
) -> tuple[np.ndarray, dict[int, str]]:
    labels, unreadable = np.zeros(n, np.int64), {}
    for i in range(n):
        try:
            value = item(i)[1]
        except VestigeError:
            raise
        except UNREADABLE as error:
            problem = not_an_image(where(i), error, doing)
            if strict:
                raise problem from error
            unreadable[i] = problem.found
            continue
        label = label_of(value)
        if label is None:
            shown = repr(value) if isinstance(value, int | float | str) else _a(value)
            raise DataError(doing, found=f"{where(i)} has the label {shown}", remedy="Give class indices from 0")
        labels[i] = label
    return labels, unreadable


def _content(image: Any, where: str, doing: str) -> Content:
    content = _as_content(image)
    if content is not None:
        return content
    found = f"{where} is {_a(image)}"
    remedy = "Give images: Pillow's, uint8 pixels, or paths of image files"
    if isinstance(image, Tensor | np.ndarray):
        found += f" of {str(image.dtype).removeprefix('torch.')} of shape {tuple(image.shape)}"
        if "float" in str(image.dtype):
            found += ": preprocessed already, where an image is needed"
            remedy += " (data.size, mean and std prepare them). Inputs as they are can be measured by vestige.measure"
    raise DataError(doing, found=found, remedy=remedy)


def _as_content(image: Any) -> Content | None:
    """An image in a form that `decode` takes; None where it is none. Tensors are (C, H, W), arrays (H, W, C)."""
    if isinstance(image, str | Path):
        return Path(image).expanduser().read_bytes()
    if isinstance(image, bytes | Image.Image):
        return image
    if isinstance(image, Tensor) and image.dtype == torch.uint8:
        image = (image.permute(1, 2, 0) if image.ndim == 3 else image).contiguous().cpu().numpy()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        return None
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    return image if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3) else None


def _a(value: Any) -> str:
    name = {"Tensor": "tensor", "ndarray": "array"}.get(type(value).__name__, type(value).__name__)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
