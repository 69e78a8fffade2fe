"""What all interventions log of some layers: csi, eta2 and closed on the batch (true labels), and the dose.

Legend: N images, U neurons of all these layers side by side, C classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vestige.errors import DataError
from vestige.formulas.selectivity import class_means, csi, eta2
from vestige.models.layers import Layer, rectified
from vestige.training.events import Event, Intervention, LoopState
from vestige.training.interventions.dose import Dose


class Watching(Intervention):
    """An intervention that looks at layers while it acts.

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: those it looks at.
      edits: fx nodes whose activations it replaces.
    """

    quantities = ("csi", "eta2", "closed", "dose")
    cumulative = ("dose",)

    def __init__(self, name: str, window: tuple[int, int], layers: Sequence[Layer], edits: tuple[str, ...] = ()):
        super().__init__(name, window, tuple(dict.fromkeys(layer.node for layer in layers)), edits)
        self.layers, self.dose = tuple(layers), Dose()
        self._by_layer_U = weights(layers, [layer.name for layer in layers])
        self._described: dict[str, Tensor | float] = {}

    def on(self, event: Event, state: LoopState) -> None:
        """Look at the activations of a batch."""
        if event is Event.FORWARD_END:
            self._described = self.described(state)

    def log(self) -> dict[str, Tensor | float]:
        """Of the batch: csi and eta2 (true labels, class means) and closed, means over layers; the dose so far."""
        return {**self._described, "dose": self.dose.total}

    def keep(self) -> dict[str, Tensor]:
        """The dose."""
        return {"dose": self.dose.keep()}

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """The dose."""
        self.dose.restore(kept)

    def activations(self, state: LoopState) -> Tensor:
        """What selectivity is measured on, of all neurons side by side (N, U), of the whole batch, differentiable."""
        return state.whole(torch.cat([rectified(state.activations[layer.node], layer) for layer in self.layers], 1))

    @torch.no_grad()
    def described(self, state: LoopState, activations_NU: Tensor | None = None) -> dict[str, Tensor | float]:
        """csi, eta2, closed; only closed where the batch has one class, nothing where activations are NaN."""
        with torch.autocast(state.device.type, enabled=False):
            closed = self._closed(state)
            if not bool((state.labels_cpu != state.labels_cpu[0]).any()):
                return {"closed": closed}
            if activations_NU is None:
                activations_NU = self.activations(state)
            self._by_layer_U = self._by_layer_U.to(activations_NU)
            try:
                csi_U = csi(class_means(activations_NU, state.labels, state.classes))
            except DataError:
                return {}
            eta2_U = eta2(activations_NU, state.labels, state.classes)
            return {
                "csi": (csi_U * self._by_layer_U).sum(),
                "eta2": (eta2_U * self._by_layer_U).sum(),
                "closed": closed,
            }

    def _closed(self, state: LoopState) -> Tensor:
        maps = [state.activations[layer.node] for layer in self.layers]
        open_L = state.processes.total(torch.stack([m.count_nonzero() for m in maps]))
        sizes = [m.shape[1:].numel() * len(state.labels) for m in maps]
        return torch.stack([1 - count / size for count, size in zip(open_L, sizes, strict=True)]).mean()


def weights(layers: Sequence[Layer], groups: Sequence[str]) -> Tensor:
    """Weights of all neurons that average within each group, then over groups (U, sum 1), float64."""
    units: Counter[str] = Counter()
    for layer, group in zip(layers, groups, strict=True):
        units[group] += layer.units
    return torch.cat(
        [
            torch.full((layer.units,), 1 / (units[group] * len(units)), dtype=torch.float64)
            for layer, group in zip(layers, groups, strict=True)
        ]
    )
