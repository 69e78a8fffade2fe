"""The linear model of the inputs that a network is compared with: the user's, or one fitted to training data."""

from collections.abc import Iterator
from typing import Any, Protocol

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


def fitted(how: Preparation, ready: Prepared, rows: Rows) -> tuple[PixelModel | None, str]:
    """A linear model of the training inputs; or why there is none."""
    if how.training_data is None:
        return None, "it needs training_data, with labels"
    if isinstance(how.training_data, Iterator):
        return None, "training_data can be read only once, and must be read twice"
    size = how.batch_size or FORWARD_IMAGES
    try:
        feed = batches(how.training_data, batch_size=size, workers=how.workers)
        tiles = as_rows(iter(Choice(feed, images_to_fit(rows.shape), size)), ready, rows)
        return fit_pixels(_with_known_labels(tiles, ready.network.classes)), ""
    except DataError as error:
        return None, f"of training_data, {error.found}"


def _with_known_labels(tiles: Iterator[Tile], classes: int) -> Iterator[Tile]:
    for tile in tiles:
        check_labels(tile.labels[: tile.valid], classes, doing="fitting a linear model")
        yield tile


KNOWN_IMAGES = (
    "The linear model of the inputs (kalimeris) was fitted to the same images that the network is measured on. It may "
    "know them by heart, and then the share that it explains is too high: give other images as training data."
)


def same_data(data: Any, training_data: Any) -> bool:
    """Whether both are the same object, or begin with the same inputs."""
    if data is training_data:
        return True
    several = isinstance(data, (tuple, list)) and isinstance(training_data, (tuple, list)) and data and training_data
    return bool(several) and same_data(data[0], training_data[0])


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
