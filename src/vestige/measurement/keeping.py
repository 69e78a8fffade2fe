"""Pooled activations kept for what needs many images at once: in memory, in files, or of a random sample alone.

Shapes: N images, T of a tile, U neurons (units) of a layer.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from os import sysconf
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from vestige.data.transforms import Stream, uniform
from vestige.errors import ConfigError, DataError, nearest

Keep = Literal["auto", "memory", "disk", "nothing"]
SPILL_BYTES = 64 << 20
"""So much is gathered before it is written to files."""
SAMPLE = 10_000
"""Images, about, of which activations are kept where those of all would be too many."""
_KINDS = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True)
class Place:
    """Where pooled activations are kept, and of how many of the images.

    Attributes:
      share: of the images: 1 for all of them; less for a random sample; 0 for none.
      held: bytes in memory beyond which they go to files; None: never.
    """

    share: float
    held: float | None

    @property
    def exact(self) -> bool:
        """Whether all images are kept."""
        return self.share >= 1

    def chosen(self, indices: np.ndarray) -> Tensor:
        """Which images are kept: a function of their indices alone, (T,) bool."""
        return torch.from_numpy(uniform(0, 0, indices, Stream.KEPT) < self.share)


def choose_place(keep: Keep, images: int | None, bytes_per_image: int, *, sample: int = SAMPLE) -> Place:
    """Decide where pooled activations are kept.

    Args:
      keep: `auto`: in memory where half of what is free suffices, else in files where half of the disk's free space
        does, else of a sample alone; `memory`; `disk`; `nothing`: of a sample alone.
      images: how many there will be, where that is known: a sample cannot be drawn without.
      bytes_per_image: of all layers.
      sample: so many images, about, where not all are kept.

    Raises:
      ConfigError: there is no such `keep`.
    """
    if keep not in get_args(Keep):
        raise ConfigError(
            "choosing where to keep pooled activations",
            found=f"there is no keep={keep!r}",
            remedy=nearest(keep, get_args(Keep)),
        )
    if keep == "nothing":
        return Place(min(1.0, sample / images) if images else 0.0, None)
    if keep == "memory":
        return Place(1.0, None)
    if keep == "disk":
        return Place(1.0, SPILL_BYTES)
    held = free_memory() / 2
    needed = (images or 0) * bytes_per_image
    if needed <= held or needed <= shutil.disk_usage(tempfile.gettempdir()).free / 2:
        return Place(1.0, held)
    return choose_place("nothing", images, bytes_per_image, sample=sample)


def free_memory() -> float:
    """Bytes of memory that can be had, as far as the system tells."""
    return min(_available(), _left_to_group())


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") // 2
    except (ValueError, OSError):
        return 4 << 30


def _left_to_group() -> int | float:
    """What a container or a cluster's job may still take."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return inf if limit == "max" else int(limit) - int(used)
    except (OSError, ValueError):
        return inf


@dataclass
class Kept:
    """Rows of pooled activations by layer name, in the order in which they were added.

    Attributes:
      units: number of neurons by layer name.
      folder: for files.
      limit: bytes in memory beyond which rows go to files.
    """

    units: Mapping[str, int]
    folder: Path
    limit: float
    _rows: dict[str, list[Tensor]] = field(default_factory=dict)
    _bytes: int = 0

    def add(self, name: str, a_TU: Tensor) -> None:
        """Keep the activations of some images in a layer."""
        self._rows.setdefault(name, []).append(a_TU)
        self._bytes += a_TU.numel() * a_TU.element_size()
        if self._bytes > self.limit:
            self._spill()

    def take(self, name: str) -> Tensor:
        """All rows of a layer, (N, U); they are not kept any longer."""
        rows = self._rows.pop(name, [])
        path = self._file(name)
        if not path.exists():
            return torch.cat(rows) if rows else torch.empty(0, self.units[name])
        if rows:
            self._write(name, rows)
        # Private: nothing that is made of it can change the file, which goes away with the folder.
        stored = np.memmap(path, dtype=_KINDS[self._dtype], mode="c").reshape(-1, self.units[name])
        return torch.from_numpy(stored)

    def _spill(self) -> None:
        self.limit = min(self.limit, SPILL_BYTES)  # once it is too much, little is gathered before each writing
        for name, rows in self._rows.items():
            self._write(name, rows)
        self._rows.clear()
        self._bytes = 0

    def _write(self, name: str, rows: list[Tensor]) -> None:
        self._dtype = rows[0].dtype
        try:
            with self._file(name).open("ab") as file:
                for a_TU in rows:
                    file.write(a_TU.contiguous().numpy().data)
        except OSError as error:
            raise DataError(
                "keeping pooled activations",
                found=f"they do not fit on the disk at {self.folder} ({error.strerror})",
                remedy="Set TMPDIR to a folder on a larger disk, or stream them with keep='nothing'",
            ) from error

    def _file(self, name: str) -> Path:
        return self.folder / f"{list(self.units).index(name)}.rows"


@contextmanager
def keeping(place: Place, units: Mapping[str, int]) -> Iterator[Kept]:
    """Room for pooled activations; its files are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vestige-") as folder:
        yield Kept(units, Path(folder), inf if place.held is None else place.held)
