"""The linear model of the inputs that a network is compared with: the user's, or one fitted to training data."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from vestige.data.loader import Tile
from vestige.errors import DataError
from vestige.measurement.averaging import Rows
from vestige.measurement.choosing import Choice, as_rows
from vestige.measurement.inputs import batches
from vestige.measurement.linearity.pixels import PixelModel, fit_pixels, images_to_fit
from vestige.measurement.network import check_labels
from vestige.measurement.preparing import FORWARD_IMAGES, Preparation, Prepared


class LinearModel(Protocol):
    """What a network is compared with."""

    def predict(self, inputs: Tensor, /) -> Tensor:
        """The class of each input, int64, (N,)."""
        ...


class KnownImages:
    """Which images a linear model was fitted to, and how many of those measured are among them."""

    def __init__(self):
        self._known: set[int] = set()
        self._shared = self._seen = 0

    def know(self, tiles: Iterable[Tile]) -> Iterator[Tile]:
        """Tiles, the images of which are fitted."""
        for tile in tiles:
            self._known.update(map(_mark, tile.inputs[: tile.valid]))
            yield tile

    def look(self, tiles: Iterable[Tile]) -> Iterator[Tile]:
        """Tiles, the images of which are measured."""
        for tile in tiles:
            if self._known:
                self._shared += sum(_mark(image) in self._known for image in tile.inputs[: tile.valid])
                self._seen += tile.valid
            yield tile

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said when all were measured; a copy or two in a large set is nothing to speak of."""
        if 100 * self._shared < max(self._seen, 1):
            return ()
        return (
            f"Of the {self._seen:,} images measured {self._shared:,} are among those that the linear model of the "
            "inputs (kalimeris) was fitted to. It may know them by heart, and then the share that it explains is too "
            "high: give other images as training data.",
        )


def _mark(image: Tensor) -> int:
    """The same for equal images, and in all likelihood for no others."""
    values = image.flatten()
    return hash(values[:: max(1, len(values) // _MARKED)].cpu().numpy().tobytes())


_MARKED = 4096
"""Numbers of an image that tell it from others."""


class Fitted(NamedTuple):
    """A linear model of the training inputs, or why there is none, and what must be said of it."""

    model: PixelModel | None
    lacking: str = ""
    notes: tuple[str, ...] = ()


def fitted(how: Preparation, ready: Prepared, rows: Rows, known: KnownImages) -> Fitted:
    """Fit a linear model to the training data."""
    if how.training_data is None:
        return Fitted(None, "it needs training_data, with labels")
    if isinstance(how.training_data, Iterator):
        return Fitted(None, "training_data can be read only once, and must be read twice")
    size = how.batch_size or FORWARD_IMAGES
    try:
        feed = batches(how.training_data, batch_size=size, workers=how.workers)
        choice = Choice(feed, images_to_fit(rows.shape), size)
        tiles = as_rows(iter(choice), ready, rows)
        model = fit_pixels(known.know(_with_known_labels(tiles, ready.network.classes)))
    except DataError as error:
        return Fitted(None, f"of training_data, {error.found}")
    said = f"The linear model of the inputs (kalimeris) is of {model.images:,} of the training images ({choice.which})."
    return Fitted(model, notes=(said,) if choice.which else ())


def _with_known_labels(tiles: Iterator[Tile], classes: int) -> Iterator[Tile]:
    for tile in tiles:
        check_labels(tile.labels[: tile.valid], classes, doing="fitting a linear model")
        yield tile


def of_linear(compared: LinearModel | None, lacking: str) -> Iterator[str]:
    """What must be said of the linear model."""
    if compared is None:
        yield f"How much a linear model of the inputs explains (kalimeris) is left out: {lacking}."
    elif isinstance(compared, PixelModel) and not compared.converged:
        yield (
            "The linear model of the inputs (kalimeris) was not fitted to the end: its predictions may not be the best "
            "that a linear model makes."
        )


def described(compared: LinearModel | None) -> dict[str, Any] | None:
    """What a linear model is, for the record."""
    if not isinstance(compared, PixelModel):
        return None if compared is None else {"kind": type(compared).__name__}
    made = {"penalty": compared.penalty, "images": compared.images, "converged": compared.converged}
    return {"kind": "logistic regression", **made}
