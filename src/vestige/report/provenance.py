"""Where a study's tables lie, from the manifests: what each folder holds, and what opens it."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from vestige.runs.manifest import Manifest

RUNS = "runs/*/*"


@dataclass(frozen=True)
class TableFiles:
    """The tables of one measurement, over all runs.

    Attributes:
      name: of the measurement: `selectivity-corrected-test`.
      pattern: of its files, from the study's folder.
      files, size: how many there are, and their bytes as a reader wants them.
    """

    name: str
    pattern: str
    files: int
    size: str


def table_files(manifests: Mapping[tuple[str, int], Manifest]) -> tuple[TableFiles, ...]:
    """The tables that the manifests name, by measurement."""
    counts: Counter[str] = Counter()
    sizes: dict[str, int] = defaultdict(int)
    for manifest in manifests.values():
        for path, artifact in manifest.artifacts.items():
            name, _, file = path.partition("/")
            if file.endswith(".parquet"):
                counts[name] += 1
                sizes[name] += artifact.size
    measured = [
        TableFiles(name, f"{RUNS}/{name}/*.parquet", counts[name], _bytes(sizes[name])) for name in sorted(counts)
    ]
    trained = sum(bool(manifest.checkpoints) for manifest in manifests.values())
    history = [TableFiles("history", f"{RUNS}/history.parquet", trained, "")] if trained else []
    return (*history, *measured)


def _bytes(size: int) -> str:
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
