"""Midpoint nonlinearity and gate churn, summed over neighbours on a path of images.

sqrt(sum ||h(mid) - avg||^2 / sum ||(h1 - h2)/2||^2): 0 for an affine layer, sqrt(3) for unrelated outputs.
Shapes: T inputs of a tile, D features, P pairs.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vestige.formulas import linearity as formulas
from vestige.measurement.linearity.rows import Row
from vestige.measurement.linearity.steps import Step
from vestige.measurement.network import Network


class Midpoints:
    """Of every layer of a network, and of its logits.

    Args:
      network: whose.
    """

    def __init__(self, network: Network):
        self._rounding = network.rounding
        self._sums: dict[str, Tensor] = {}
        self._last: dict[str, Tensor] = {}
        self._gates = {layer.name: _Gates() for layer in network.layers if layer.node in network.graph.relus}

    def add(self, name: str, activation_TD: Tensor, step: Step, rounded_TD: Tensor | None = None) -> None:
        """A layer's whole maps of the images and midpoints of a step.

        Args:
          name: of the layer.
          activation_TD: the maps.
          step: what they are of.
          rounded_TD: what was rounded, where the maps are differences of it.
        """
        ends, middle_PD = activation_TD[: step.ends], activation_TD[step.ends : step.ends + step.middles]
        before = self._last.get(name, ends[:0])
        if step.middles or not step.start:
            self._last[name] = ends[-1:].clone()
        if not step.middles:
            return
        first_PD, second_PD = torch.cat([before, ends[:-1]]), ends[1 - len(before) :]
        rounded_PD = second_PD if rounded_TD is None else rounded_TD[: step.ends][1 - len(before) :]
        sums = formulas.midpoint_sums(first_PD, second_PD, middle_PD)
        added = torch.stack([*sums, formulas.level_of(rounded_PD)])
        self._sums[name] = self._sums[name] + added if name in self._sums else added
        if name in self._gates:
            self._gates[name].add(first_PD, second_PD)

    def rows(self) -> dict[Row, float]:
        """`midpoint`, and of ReLUs `gate-churn` and `gate-churn-independent`."""
        rows = {
            ("midpoint", name, ""): formulas.midpoint_from_sums(*sums, rounding=self._rounding).item()
            for name, sums in self._sums.items()
        }
        for name, gates in self._gates.items():
            rows["gate-churn", name, ""] = gates.churn / gates.n
            rows["gate-churn-independent", name, ""] = formulas.independent_churn(gates.open / gates.n).item()
        return rows


@dataclass
class _Gates:
    """Of the gates of a layer over pairs: the summed share that differs, and how often the first is open."""

    n: int = 0
    churn: float = 0.0
    open: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, first_PD: Tensor, second_PD: Tensor) -> None:
        self.n += len(first_PD)
        self.churn += formulas.gate_churn(first_PD, second_PD).item() * len(first_PD)
        self.open = self.open + (first_PD > 0).float().sum(0).double()  # exact: counts of a tile
