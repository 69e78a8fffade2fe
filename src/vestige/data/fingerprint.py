"""The images that a specification names, and their identity by content.

Nothing here imports torch: plans and `vestige status` ask for these identities.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from vestige.errors import DataError, nearest

KINDS = ("digits", "folder", "parquet", "torchvision")
TORCHVISION = {
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "MNIST": "MNIST/raw",
    "FashionMNIST": "FashionMNIST/raw",
    "KMNIST": "KMNIST/raw",
    "SVHN": "*_32x32.mat",
    "STL10": "stl10_binary",
    "GTSRB": "gtsrb",
    "Flowers102": "flowers-102",
    "Food101": "food-101",
    "DTD": "dtd",
}
"""torchvision's sets with a training and a test split, and where below PATH each keeps its files."""
LITTER = {"thumbs.db", "desktop.ini"}
"""Files that operating systems leave in folders (hidden files are passed over as well)."""


class Spec(NamedTuple):
    """A specification taken apart."""

    kind: str
    """One of `KINDS`, or `python`."""
    name: str
    """Of a torchvision set, or of the object in a Python file; else empty."""
    path: Path | None
    """None for `digits`."""


def split_spec(spec: str) -> Spec:
    """Take a specification apart.

    Args:
      spec: `digits`, `folder:PATH`, `parquet:FILE`, `torchvision:NAME:PATH` or `path.py:object`.

    Raises:
      DataError: the kind or the torchvision set is unknown, or the path or object is missing.
    """
    kind, _, rest = spec.partition(":")
    file, _, python_name = spec.rpartition(":")
    if kind not in KINDS and file.endswith(".py") and python_name:
        return Spec("python", python_name, Path(file).expanduser())
    if kind not in KINDS:
        if spec.removesuffix(":").endswith(".py"):
            raise DataError(
                f"reading the data {spec!r}",
                found="it names a file, but nothing in it",
                remedy=f"Name the dataset, or the function that makes it, too: {spec.removesuffix(':')}:NAME",
            )
        raise DataError(f"reading the data {spec!r}", found=f"unknown kind {kind!r}", remedy=_better(spec, kind))
    name, path = "", rest
    if kind == "torchvision":
        name, _, path = rest.partition(":")
        if name not in TORCHVISION:
            raise DataError(
                f"reading the data {spec!r}",
                found=f"unknown torchvision set {name!r}",
                remedy=nearest(name, TORCHVISION),
            )
    if (kind == "digits") == bool(rest) or (kind == "torchvision" and not path):
        form = {"folder": "folder:PATH", "parquet": "parquet:FILE", "torchvision": "torchvision:NAME:PATH"}
        raise DataError(
            f"reading the data {spec!r}",
            found="a path, which digits do not have" if kind == "digits" else "no path",
            remedy=f"Write '{form.get(kind, kind)}'",
        )
    return Spec(kind, name, Path(path).expanduser() if path else None)


def resolve(spec: str, base: Path) -> str:
    """The specification with its path made absolute.

    Args:
      spec: see `split_spec`.
      base: what a relative path starts from.

    Raises:
      DataError: as `split_spec`.
    """
    kind, name, path = split_spec(spec)
    if path is None:
        return spec
    absolute = os.path.normpath(base.absolute() / path)
    if kind == "python":
        return f"{absolute}:{name}"
    return ":".join(part for part in (kind, name, absolute) if part)


def dataset_name(spec: str) -> str:
    """A short name for tables, without directories: `digits`, `folder:val`, `parquet:test.parquet`, `mine.py:make`.

    Raises:
      DataError: as `split_spec`.
    """
    kind, name, path = split_spec(spec)
    if kind == "python" and path:
        return f"{path.name}:{name}"
    short = name or (Path(os.path.normpath(path.absolute())).name if path else "")
    return f"{kind}:{short}" if short else kind


def locate(spec: str, split: str) -> Path:
    """Where the images are: a file or a folder that exists.

    Args:
      spec: see `split_spec`.
      split: `train` or `test`, for the message.

    Raises:
      DataError: as `split_spec`; the path does not exist, or is a folder where a file is meant.
    """
    kind, name, path = split_spec(spec)
    if path is None:
        return digits_file()
    doing = reading(spec, split)
    if kind == "python" and not path.is_file():
        near = [str(path.with_name(p.name)) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        remedy = nearest(str(path), near) if near else "Check the path"
        raise DataError(doing, found=f"there is no file {str(path)!r}", remedy=remedy)
    if kind == "python":
        return path
    if not path.exists():
        raise DataError(
            doing,
            found=f"{path} does not exist",
            remedy=f"Give the path of a {'file' if kind == 'parquet' else 'folder'} that does",
        )
    if kind == "parquet" and not path.is_file():
        raise DataError(doing, found=f"{path} is a folder", remedy="Give one Parquet file")
    if kind != "parquet" and not path.is_dir():
        raise DataError(doing, found=f"{path} is not a folder", remedy="Give the folder that holds the images")
    if kind == "torchvision" and not any(path.glob(TORCHVISION[name])):
        raise DataError(
            doing,
            found=f"{path} holds no {TORCHVISION[name]}",
            remedy=f"Download torchvision's {name} there first: vestige never downloads",
        )
    return path


def fingerprint(spec: str, split: str) -> str:
    """Identity of the images by content, the same wherever they lie.

    `digits` and Parquet files: SHA-256 of the file. Folders: SHA-256 of sorted relative paths and sizes, so
    that it stays quick for millions of files. `path.py:object`: SHA-256 of the file, the object's name, and, where
    the object tells them without an image being read, its length, class names and labels; neither the images
    themselves nor what else the file imports or reads is covered. For that the file is run.

    Args:
      spec: see `split_spec`.
      split: `train` or `test`; told apart where one specification holds both.

    Returns:
      `kind:` and 64 hexadecimal digits; for all but folders and Parquet files also the split.

    Raises:
      DataError: as `locate`; a file cannot be read.
    """
    kind, name, _ = split_spec(spec)
    path = locate(spec, split)
    try:
        if kind == "folder":
            return f"folder:{_listing_hash(path, [path])}"
        if kind == "torchvision":
            return f"torchvision:{name}:{split}:{_listing_hash(path, sorted(path.glob(TORCHVISION[name])))}"
        status = path.stat()
        digest = _file_hash(path, status.st_size, status.st_mtime_ns)
        if kind == "python":
            from vestige.data.userdata import traits

            whole = hashlib.sha256(f"{digest}\0{name}\0{traits(spec, split)}".encode()).hexdigest()
            return f"python:{split}:{whole}"
    except OSError as error:
        raise unreadable(spec, split, error) from error
    return f"digits:{split}:{digest}" if kind == "digits" else f"parquet:{digest}"


def digits_file() -> Path:
    """scikit-learn's bundled digits, found without importing it (which takes a second)."""
    package = find_spec("sklearn")
    assert package is not None, "scikit-learn is a dependency"
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


def reading(spec: str, split: str) -> str:
    """What is being done, for messages."""
    return f"reading data.{split} {spec!r}"


def unreadable(spec: str, split: str, error: OSError) -> DataError:
    """The error for a file or folder that the system does not let us read."""
    return DataError(
        reading(spec, split),
        found=f"{error.filename or 'it'} cannot be read ({error.strerror or error})",
        remedy="Make it readable",
    )


def is_litter(name: str) -> bool:
    """Whether a file or folder is not the user's: hidden, or left by the operating system."""
    return name.startswith(".") or name.lower() in LITTER


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder, litter passed over, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_litter(entry.name):
                continue
            if entry.is_dir():
                yield from walk(Path(entry.path))
            else:
                yield entry


def _better(spec: str, kind: str) -> str:
    path = Path(spec).expanduser()
    if path.suffix == ".parquet":
        return f"Write 'parquet:{spec}'"
    if path.is_dir():
        return f"Write 'folder:{spec}'"
    return nearest(kind, KINDS)


def _listing_hash(root: Path, parts: Iterable[Path]) -> str:
    lines = []
    for part in parts:
        sizes = walk(part) if part.is_dir() else []
        lines += [(Path(entry.path).relative_to(root).as_posix(), entry.stat().st_size) for entry in sizes]
        if part.is_file():
            lines.append((part.relative_to(root).as_posix(), part.stat().st_size))
    return hashlib.sha256("".join(f"{name}\0{size}\n" for name, size in sorted(lines)).encode()).hexdigest()


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, changed_ns: int) -> str:  # noqa: ARG001 (a changed file is another entry)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
