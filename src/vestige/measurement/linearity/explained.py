"""How much of what the network predicts a linear model of its inputs explains: 1 - I(F;Y|L) / I(F;Y).

Shapes: N images, C classes.
"""

from collections.abc import Callable, Iterable
from math import nan
from typing import Any

import polars as pl
import torch
from torch import Tensor

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.formulas.kalimeris import explained_by_linear
from vestige.measurement.linearity.rows import LOGITS, Row
from vestige.measurement.network import Network, check_finite, check_labels

DOING = "measuring linearity"
LinearLabels = Tensor | Callable[[Tensor], Tensor]
"""What a linear model predicts for the images of the tiles, int64 (N,), or a function that gives it for inputs."""


def measure_explained(network: Network, tiles: Iterable[Tile], linear_labels: LinearLabels) -> pl.DataFrame:
    """The measure `kalimeris` alone, in one pass that takes nothing but logits: for more images than the others take.

    Args:
      network: with the batch-norm statistics to measure with.
      tiles: the images, gone through once.
      linear_labels: see `LinearLabels`.

    Returns:
      The rows of `explained_rows`, and their columns as in `measure_linearity`.

    Raises:
      DataError: labels or predictions outside the model's classes, or another number of them; inputs that are not
        finite.
      ModelError: the network has diverged.
    """
    networks = network, network.without_relus()
    logits: list[list[Tensor]] = [[] for _ in networks]
    labels, linear = [torch.empty(0, dtype=torch.int64)], LinearPredictions(linear_labels, network.classes)
    predicted = []
    for tile in tiles:
        check_inputs(tile)
        labels.append(tile.labels[: tile.valid].cpu())
        predicted.append(linear.of(tile))
        for net, found in zip(networks, logits, strict=True):
            found.append(net.captured(tile.inputs, [])[0][: tile.valid].double().cpu())
    linear.end()
    check_labels(labels_N := torch.cat(labels), network.classes, doing=DOING)
    sides = [torch.cat(found) for found in logits]
    check_finite(sides[0], "its output", doing=DOING)
    value, anchor = (explained_rows(logits_NC, labels_N, torch.cat(predicted)) for logits_NC in sides)
    return as_table(value, anchor)


def check_inputs(tile: Tile) -> None:
    """Inputs must be numbers: it is not the network that has diverged.

    Raises:
      DataError: some are NaN or infinite.
    """
    if not tile.inputs[: tile.valid].isfinite().all():
        raise DataError(
            DOING,
            found="some inputs are NaN or infinite",
            remedy="Look at how they are read and normalised, or leave them out",
        )


def explained_rows(logits_NC: Tensor, labels_N: Tensor, linear_N: Tensor) -> dict[Row, float]:
    """All of "logits": `kalimeris`, the share, and how it came about.

    `kalimeris-information`: I(F;Y); `kalimeris-unexplained`: I(F;Y|L), both in bits; `kalimeris-groups`: so many groups
    of classes they tell apart, fewer than have images where images are few; `kalimeris-linear-top1`: the linear model's
    accuracy.
    """
    found = explained_by_linear(logits_NC.argmax(1), labels_N, linear_N)
    known = bool(logits_NC.isfinite().all())
    values = {
        "kalimeris": found.share if known else nan,
        "kalimeris-information": found.information if known else nan,
        "kalimeris-unexplained": found.unexplained if known else nan,
        "kalimeris-groups": float(found.groups),
        "kalimeris-linear-top1": (linear_N == labels_N).double().mean().item(),
    }
    return {(measure, LOGITS, ""): value for measure, value in values.items()}


def as_table(value: dict[Row, float], anchor: dict[Row, float] | None) -> pl.DataFrame:
    """Rows with the network's value and the anchor's: 0 where it has no such row (no gates), NaN without an anchor."""
    rows = [(*row, value[row], nan if anchor is None else anchor.get(row, 0.0)) for row in value]
    return pl.DataFrame(rows, schema=["measure", "layer", "other", "value", "anchor"], orient="row")


class LinearPredictions:
    """A linear model's predictions, tile by tile.

    Args:
      given: see `LinearLabels`.
      classes: C.
    """

    def __init__(self, given: LinearLabels, classes: int):
        self._given, self._classes, self._seen = given, classes, 0

    def of(self, tile: Tile) -> Tensor:
        """Of the images of the next tile that count.

        Raises:
          DataError: they are no classes of the model, or another number of them.
        """
        if isinstance(self._given, Tensor):
            linear_T = self._given[self._seen : self._seen + tile.valid].cpu()
        else:
            linear_T = self._called(self._given, tile.inputs[: tile.valid].clone())  # it may write into them
        self._seen += tile.valid
        if len(linear_T) != tile.valid:
            self._refuse("fewer" if isinstance(self._given, Tensor) else "another number of")
        if len(outside := linear_T[(linear_T < 0) | (linear_T >= self._classes)]):
            raise DataError(
                f"{DOING}: reading the linear model's predictions",
                found=f"class {int(outside[0])}, but the model's classes are 0 to {self._classes - 1}",
                remedy="Let the linear model predict the network's class indices",
            )
        return linear_T

    def _called(self, given: Callable[[Tensor], Any], inputs_T: Tensor) -> Tensor:
        """What somebody's linear model says of some inputs."""
        found = given(inputs_T)
        if not isinstance(found, Tensor) or found.ndim != 1 or found.is_floating_point() or found.is_complex():
            what = f"a {type(found).__name__}"
            if isinstance(found, Tensor):
                what = f"{str(found.dtype).removeprefix('torch.')} of shape {tuple(found.shape)}"
            raise DataError(
                f"{DOING}: reading the linear model's predictions",
                found=f"the linear model predicts {what} for {len(inputs_T)} inputs",
                remedy="Let it give the class of each input, a tensor of whole numbers, (N,)",
            )
        return found.cpu()

    def end(self) -> None:
        """There are no more tiles.

        Raises:
          DataError: there are predictions left.
        """
        if isinstance(self._given, Tensor) and self._seen != len(self._given):
            self._refuse("more")

    def _refuse(self, many: str) -> None:
        raise DataError(
            DOING,
            found=f"the linear model gives {many} predictions than there are images",
            remedy="Give one prediction for every image, in the order of the images",
        )
