"""Each image's change of loss under each ablation, in a file a layer and value: neurons x images, float32."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import numpy as np

from vestige.measurement.ablation.pieces import Piece
from vestige.runs.store import writing


def write_changes(folder: Path, value: str, layer: str, pieces: Iterable[Piece]) -> None:
    """Write `per_input/VALUE/LAYER.npy`.

    Args:
      folder: of the ablation.
      value: what replaced the neurons.
      layer: where they are.
      pieces: of the blocks in order, with their `changes`.

    Raises:
      StoreError: it cannot be written.
    """
    changes_UN = np.concatenate([piece["changes"].numpy() for piece in pieces], axis=1)
    path = folder / "per_input" / value / f"{quote(layer, safe='')}.npy"
    with writing(path) as temporary, temporary.open("wb") as file:
        np.save(file, changes_UN)
