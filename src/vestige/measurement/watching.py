"""A network that is watched while it is measured: how far that is, and how well it does on the images.

Shapes: T inputs of a tile, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from vestige.data.loader import Tile
from vestige.measurement.averaging import Rows
from vestige.measurement.network import Network

Progress = Callable[[int, int | None], None]


class Watch:
    """What is seen of a measurement while it runs.

    Args:
      progress: called with the number of inputs that went through the network and of all that will, None where that
        is not known.
      expected: the latter, given the number of images.
      images: how many there are; None where that is not known.

    Attributes:
      n: images read so far.
      top1: share of them whose class has the highest logit.
      loss: mean cross-entropy of them, nats.
      classes: those that have images.
    """

    def __init__(self, progress: Progress | None, expected: Callable[[int], int], images: int | None):
        self._progress, self._expected, self._images = progress, expected, images
        self._done, self.n, self._right, self._loss = 0, 0, 0, 0.0
        self.classes: set[int] = set()
        self._tile: Tile | None = None

    @property
    def top1(self) -> float:
        """See the class."""
        return self._right / self.n

    @property
    def loss(self) -> float:
        """See the class."""
        return self._loss / self.n

    def tiles(self, tiles: Iterable[Tile], forward: Callable[[Any], object]) -> Iterator[Tile]:
        """The tiles as they come; those that nobody runs the network on are given to `forward`."""
        for tile in tiles:
            self._tile = tile
            yield tile
            if self._tile is not None:
                forward(tile.inputs)
        self._images = self.n

    def see(self, inputs: Any, logits_TC: Tensor) -> None:
        """The network was run; where that was on the tile that was read last, it is scored."""
        tile = self._tile
        if tile is None or inputs is not tile.inputs:
            return
        logits_TC, labels_T = logits_TC[: tile.valid].double().cpu(), tile.labels[: tile.valid].cpu()
        self.n += tile.valid
        self.classes |= set(labels_T.tolist())
        self._right += int((logits_TC.argmax(1) == labels_T).sum())
        self._loss += float(cross_entropy(logits_TC, labels_T, reduction="sum"))
        self._tile = None

    def count(self, inputs: int) -> None:
        """So many inputs more go through the network, or its anchor."""
        self._done += inputs
        if self._progress is not None:
            of = None if self._images is None else max(self._done, self._expected(self._images))
            self._progress(self._done, of)

    def end(self) -> None:
        """It is over."""
        if self._progress is not None:
            self._progress(self._done, self._done)


@dataclass(frozen=True)
class Watched(Network):
    """A network, and its anchor, given rows.

    Attributes:
      rows: how they are made what the network takes.
      watch: is told.
      scored: whether its logits are scores; those of the anchor are not.
    """

    rows: Rows | None = None
    watch: Watch = field(default_factory=lambda: Watch(None, int, None))
    scored: bool = True

    @classmethod
    def of(cls, network: Network, rows: Rows, watch: Watch) -> "Watched":
        """A network with one who watches it."""
        return cls(network.graph, network.layers, network.classes, network.dtype, rows, watch)

    def on_device(self, inputs: Any) -> Any:
        """What the network takes, of rows, where its weights are."""
        self.watch.count(len(inputs))
        return super().on_device(inputs if self.rows is None else self.rows.inputs(inputs))

    def captured(self, inputs: Any, nodes: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """As of any network."""
        logits_TC, values = super().captured(inputs, nodes)
        if self.scored:
            self.watch.see(inputs, logits_TC)
        return logits_TC, values

    def without_relus(self) -> "Watched":
        """The anchor."""
        return replace(self, graph=self.graph.without_relus(), scored=False)


@dataclass(frozen=True)
class Unanchored(Watched):
    """A network that has no anchor: it stands for it itself, which must not be shown."""

    def without_relus(self) -> "Unanchored":
        """The network as it is."""
        return replace(self, scored=False)
