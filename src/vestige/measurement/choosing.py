"""Which images of somebody's data are used, as tiles of rows with the model's classes for labels."""

from collections.abc import Iterator

from vestige.data.loader import Tile
from vestige.data.subsets import balanced_indices
from vestige.measurement.averaging import Rows
from vestige.measurement.inputs import Feed
from vestige.measurement.preparing import Prepared


class Choice:
    """Which images of some data are used.

    Attributes:
      length: how many, None where that is not known beforehand.
      notes: what must be said of the choice.
    """

    def __init__(self, feed: Feed, most: int, batch_size: int):
        self._feed, self._most, self._size = feed, most, batch_size
        self._begun = False
        self.length = None if feed.length is None else min(feed.length, most)
        self._left_out = feed.length is not None and feed.length > most
        self._balanced = self._left_out and feed.jumps and feed.labels is not None

    @property
    def which(self) -> str:
        """Which images are used where not all are, else nothing; complete when all were read."""
        if not self._left_out:
            return ""
        return "the same number of each class" if self._balanced else "the first, whatever their classes"

    @property
    def notes(self) -> tuple[str, ...]:
        """See the class; complete when all were read."""
        if not self._left_out:
            return ()
        return (f"Only {self._most:,} of the images are used ({self.which}): `images` says how many.",)

    def __iter__(self) -> Iterator[Tile]:
        if self._balanced:
            assert self._feed.labels is not None
            chosen = balanced_indices(self._feed.labels, self._most)
            yield from self._feed.at([chosen[i : i + self._size] for i in range(0, len(chosen), self._size)])
            return
        left = self._most
        for tile in self._feed:
            if not left:
                self._left_out = True
                return
            yield tile._replace(valid=min(tile.valid, left))
            self._left_out |= tile.valid > left
            left -= min(tile.valid, left)


def as_rows(tiles: Iterator[Tile], ready: Prepared, rows: Rows) -> Iterator[Tile]:
    """The tiles, their inputs in one tensor that has midpoints.

    Raises:
      DataError: inputs of another shape than the first, or a label that has no class of the model.
    """
    for tile in tiles:
        yield ready.relabelled(tile)._replace(inputs=rows.of(tile.inputs))
