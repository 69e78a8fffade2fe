"""How far a long computation of pieces is, those included that other processes make."""

from collections.abc import Callable, Mapping

from vestige.measurement.ablation.pieces import Pieces

Progress = Callable[[int, int | None], None]


class Telling:
    """Counts ablations: of one neuron (or set), for one image.

    Args:
      pieces: where they are made.
      progress: called with the number done and that of all; None: nobody asks.
    """

    def __init__(self, pieces: Pieces, progress: Progress | None):
        self._pieces, self._progress = pieces, progress
        self._weights: dict[str, int] = {}

    def expect(self, weights: Mapping[str, int]) -> None:
        """These pieces too will be made: ablations of each by name."""
        self._weights |= weights
        self.at()

    def within(self, name: str, each: int) -> Callable[[int], None]:
        """What is called, while a piece is made, with the number of its images done, `each` ablations an image."""

        def tell(images: int) -> None:
            self._tell(min(images * each, self._weights[name]))

        return tell

    def at(self) -> None:
        """Say how far it is."""
        self._tell(0)

    def _tell(self, more: int) -> None:
        if self._progress is None:
            return
        total = sum(self._weights.values())
        done = sum(self._weights[name] for name in self._pieces.done(list(self._weights)))
        self._progress(min(done + more, total), total)
