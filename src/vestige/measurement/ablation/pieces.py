"""Pieces of a long computation, each a few named tensors: a piece that is finished is never made again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import Tensor

from vestige.config import differences
from vestige.errors import StoreError
from vestige.runs.store import read_json, read_tensors, try_lock, value_hash, wait_lock, write_json, write_tensors

Piece = dict[str, Tensor]
Make = Callable[[str], Piece]


class Pieces(ABC):
    """Where pieces are made and kept."""

    @abstractmethod
    def all(self, names: Sequence[str], make: Make) -> Iterator[Piece]:
        """The pieces of these names, in their order.

        Args:
          names: such as `exact/zero/layer3.2/block-0003`; what a name means is settled by it and by the key alone.
          make: computes the piece of a name; called at most once for each that is not there.
        """

    @abstractmethod
    def done(self, names: Sequence[str]) -> list[str]:
        """Which of these pieces are made."""


class MemoryPieces(Pieces):
    """Pieces made one after the other; none is kept."""

    def __init__(self):
        self._made: set[str] = set()

    def all(self, names: Sequence[str], make: Make) -> Iterator[Piece]:
        """See `Pieces.all`."""
        for name in names:
            piece = make(name)
            self._made.add(name)
            yield piece

    def done(self, names: Sequence[str]) -> list[str]:
        """Those that were made."""
        return [name for name in names if name in self._made]


class FolderPieces(Pieces):
    """Pieces in the files of a folder, which any number of processes may fill together, killed at any moment.

    A piece is written whole or not at all. Each process makes those that no other holds, and waits for the rest.

    Args:
      folder: of the pieces.
      key: everything that can change their numbers, readable, for JSON: a folder of another key is refused.

    Raises:
      StoreError: the folder holds pieces of another key, or cannot be written.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]):
        self.folder, self._hash = folder, value_hash(key)
        path = folder / "key.json"
        with wait_lock(folder / ".locks" / "key.lock"):
            stored = read_json(path) if path.exists() else None
            if stored is None:
                write_json(path, key)
                return
        if value_hash(stored) != self._hash:
            said = [f"{name} is {_short(new)}, was {_short(old)}" for name, new, old in differences(key, stored)]
            raise StoreError(
                f"going on in {folder}",
                found=f"its pieces were made by other settings: {'; '.join(said[:4])}",
                remedy="Give another folder, or delete this one",
            )

    def all(self, names: Sequence[str], make: Make) -> Iterator[Piece]:
        """See `Pieces.all`."""
        for name in names:
            if not self._path(name).exists():
                with try_lock(self._lock(name)) as held:
                    if held and self._read(name) is None:
                        self._write(name, make(name))
        for name in names:
            yield self._made_by_now(name, make)

    def done(self, names: Sequence[str]) -> list[str]:
        """See `Pieces.done`."""
        return [name for name in names if self._path(name).exists()]

    def _made_by_now(self, name: str, make: Make) -> Piece:
        piece = self._read(name)
        if piece is None:  # another process is at it, or was killed while it was, or the file is damaged
            with wait_lock(self._lock(name)):
                piece = self._read(name)
                if piece is None:
                    self._write(name, make(name))
                    piece = self._read(name)
        assert piece is not None
        return piece

    def _read(self, name: str) -> Piece | None:
        """A piece; None where it is not there, damaged, or of another key."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            tensors, metadata = read_tensors(path)
        except StoreError:
            return None
        return tensors if metadata.get("key") == self._hash else None

    def _write(self, name: str, piece: Piece) -> None:
        path = self._path(name)
        for left in path.parent.glob(f".{path.name}.*.tmp"):  # by a process that was killed: the lock is ours
            left.unlink(missing_ok=True)
        # Copies: two tensors of one memory cannot be stored beside each other.
        write_tensors(path, {label: tensor.clone() for label, tensor in piece.items()}, {"key": self._hash})

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='/')}.safetensors"

    def _lock(self, name: str) -> Path:
        return self.folder / ".locks" / f"{quote(name, safe='')}.lock"


def _short(value: Any) -> str:
    text = "not there" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
