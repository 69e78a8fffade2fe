"""Where the browser's numbers lie: within the page, or in files beside it that scripts load as they are needed.

A chunk holds columns of a run for some steps and some neurons. A run that is small is one chunk; of a large one each
step is a chunk, for the table, and each block of neurons another, for the lives of single neurons.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestige.report.neurons.encoding import Codes
from vestige.runs.store import write_text

WHOLE = 1_500_000
"""Bytes of codes up to which a run is one chunk."""
OURS = re.compile(r"run-\d{3}(-(step|neurons|classes-neurons)-\d+)?\.js|images-\d{5}\.(png|jpg)")
"""What a report calls these files; any other file beside them is its owner's."""
BLOCK = 600_000
"""Bytes of codes of a block of neurons."""


@dataclass
class Chunks:
    """Takes chunks and keeps them: in memory for a page that holds all, else as files.

    Attributes:
      folder: of the files; None: the page holds them.
      held: by name, where the page holds them.
      written: names of the files.
    """

    folder: Path | None
    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)

    def put(self, name: str, content: dict[str, Any]) -> str:
        """Keep a chunk under a name, which is returned."""
        if self.folder is None:
            self.held[name] = content
        else:
            text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
            write_text(self.folder / f"{name}.js", f'vestigeNeurons("{name}",{text});\n')
            self.written.append(f"{name}.js")
        return name

    def put_run(self, name: str, columns: Mapping[str, Codes], steps: list[int], units: int) -> dict[str, Any]:
        """Keep the columns of a run.

        Returns:
          names of its chunks: `whole`, or `steps` (one a step) and `blocks` (first neuron and name).
        """
        size = sum(codes.array.nbytes for codes in columns.values())
        every = slice(None)
        if size <= WHOLE:
            return {"whole": self.put(name, _packed(columns, every, every, len(steps), units))}
        by_step = [
            self.put(f"{name}-step-{step:08d}", _packed(columns, slice(i, i + 1), every, 1, units))
            for i, step in enumerate(steps)
        ]
        return {"steps": by_step, "blocks": self.put_blocks(name, columns, len(steps), units)}

    def put_blocks(self, name: str, columns: Mapping[str, Codes], steps: int, units: int) -> list[tuple[int, str]]:
        """Keep columns in blocks of neurons, all steps each."""
        size = sum(codes.array.nbytes for codes in columns.values())
        block = units if size <= WHOLE else max(8, units * BLOCK // size)
        return [
            (
                first,
                self.put(
                    f"{name}-neurons-{first:05d}",
                    _packed(columns, slice(None), slice(first, first + block), steps, min(block, units - first)),
                ),
            )
            for first in range(0, units, block)
        ]


def _packed(columns: Mapping[str, Codes], steps: slice, neurons: slice, s: int, n: int) -> dict[str, Any]:
    return {"s": s, "n": n, "c": {name: codes.pack(steps, neurons) for name, codes in columns.items()}}


def remove_former(folder: Path, written: Sequence[str]) -> None:
    """What an earlier report had beside it and this one has not would be taken for its own."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if OURS.fullmatch(path.name) and path.name not in written:
            path.unlink()
