"""Pooled activations kept for what needs many images at once: in memory, in files, or of a random sample alone.

Shapes: N images, T of a tile, U neurons (units) of a layer.
"""

import shutil
import tempfile
from collections.abc import Iterator
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
      held: bytes in memory beyond which they go to files; infinity: never.
    """

    share: float
    held: float = inf

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
        return Place(min(1.0, sample / images) if images else 0.0)
    if keep == "memory":
        return Place(1.0)
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
    """Rows of pooled activations of all neurons, in the order in which they were added.

    Attributes:
      file: for what does not fit in memory.
      limit: bytes in memory beyond which rows go to the file.
    """

    file: Path
    limit: float
    _rows: list[Tensor] = field(default_factory=list)
    _bytes: int = 0

    def add(self, a_TU: Tensor) -> None:
        """Keep the activations of some images."""
        self._rows.append(a_TU)
        self._bytes += a_TU.numel() * a_TU.element_size()
        if self._bytes > self.limit:
            self._write()
            self.limit = min(self.limit, SPILL_BYTES)  # once it is too much, little is gathered before each writing

    def of(self, neurons: slice, units: int) -> Tensor:
        """All rows of some neurons out of `units`, (N, U)."""
        if not self.file.exists():
            return (
                torch.cat([a_TU[:, neurons] for a_TU in self._rows])
                if self._rows
                else torch.empty(0, units)[:, neurons]
            )
        if self._rows:
            self._write()
        # Private: nothing that is made of it can change the file, which goes away with its folder.
        stored = np.memmap(self.file, dtype=_KINDS[self._dtype], mode="c").reshape(-1, units)
        return torch.from_numpy(np.ascontiguousarray(stored[:, neurons]))

    def _write(self) -> None:
        self._dtype = self._rows[0].dtype
        try:
            with self.file.open("ab") as file:
                for a_TU in self._rows:
                    file.write(a_TU.contiguous().numpy().data)
        except OSError as error:
            raise DataError(
                "keeping pooled activations",
                found=f"they do not fit on the disk at {self.file.parent} ({error.strerror})",
                remedy="Set TMPDIR to a folder on a larger disk, or stream them with keep='nothing'",
            ) from error
        self._rows.clear()
        self._bytes = 0


@contextmanager
def keeping(place: Place) -> Iterator[Kept]:
    """Room for pooled activations; its file is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vestige-") as folder:
        yield Kept(Path(folder) / "activations", place.held)
