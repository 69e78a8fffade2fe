"""Offsets before a ReLU, one a neuron, that give a layer a wanted mean of `closed` and of CSI.

Legend: N images, U neurons, P positions, C classes, G offsets of a grid.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.formulas.selectivity import csi, means_from_sums

GRID = torch.sinh(torch.linspace(-5.0, 5.0, 321, dtype=torch.float64)) / 2
"""In standard deviations: dense around 0; beyond what the neurons give both quantities are linear."""
WAY, POLISH = 120, 40
"""Steps to the wanted means, and at them."""
GOOD = 0.005
"""How far the means may be off, relatively, before neurons are shut."""
H, LONGEST = 0.02, 0.3
"""Of the differences that stand for derivatives; the longest step of a neuron."""
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Values before the ReLU, (N, U, P), and labels, (N,), batch after batch; it may be called again."""


@dataclass(frozen=True)
class Openings:
    """A layer at every offset of a grid, linear between.

    Attributes:
      grid_G: offsets, in standard deviations.
      sd_U: of the values before the ReLU.
      closed_GU: share of values that the ReLU sets to 0.
      means_GCU: class means after it.
    """

    grid_G: Tensor
    sd_U: Tensor
    closed_GU: Tensor
    means_GCU: Tensor

    @classmethod
    def of(cls, batches: Batches, classes: int, grid_G: Tensor | None = None) -> "Openings":
        """Look at a layer's values before its ReLU, twice.

        With x > -b wherever the ReLU of x + b is open, its mean is (sum of those x + b * their number) / number of all.
        """
        grid_G = GRID if grid_G is None else grid_G
        sd_U = _deviation(batches())
        edges_G, units = -grid_G.flip(0), len(sd_U)
        cells = classes * units * (len(grid_G) + 1)
        sums, numbers = torch.zeros(cells, dtype=torch.float64), torch.zeros(cells, dtype=torch.float64)
        counts_C, positions = torch.zeros(classes, dtype=torch.float64), 1
        for values_NUP, labels_N in batches():
            x_NUP = (values_NUP.double().cpu() / sd_U[:, None]).contiguous()
            positions = x_NUP.shape[2]
            row_NU1 = (labels_N.cpu()[:, None] * units + torch.arange(units))[..., None]
            cell = (row_NU1 * (len(grid_G) + 1) + torch.bucketize(x_NUP, edges_G)).flatten()
            sums += cell.bincount(x_NUP.flatten(), minlength=cells)
            numbers += cell.bincount(minlength=cells)
            counts_C += labels_N.cpu().bincount(minlength=classes)
        above, number = (_beyond(t.view(classes, units, -1)) for t in (sums, numbers))
        relu_GCU = (above + grid_G * number).permute(2, 0, 1) * sd_U / positions
        closed_GU = 1 - number.sum(0).T / (counts_C.sum() * positions)
        return cls(grid_G, sd_U, closed_GU, torch.stack([means_from_sums(sums_CU, counts_C) for sums_CU in relu_GCU]))

    def both(self, offsets_U: Tensor) -> Tensor:
        """The layer's means of closed and of CSI with these offsets, in standard deviations, (2,)."""
        return self.by_neuron(offsets_U).mean(1)

    def by_neuron(self, offsets_U: Tensor) -> Tensor:
        """closed and CSI of each neuron, (2, U)."""
        closed_U = self._between(self.closed_GU, offsets_U).clamp(0, 1)
        return torch.stack([closed_U, csi(self._between(self.means_GCU, offsets_U).clamp(min=0))])

    def of_neurons(self, chosen: Tensor) -> "Openings":
        """Some neurons of the layer, by their indices."""
        return Openings(self.grid_G, self.sd_U[chosen], self.closed_GU[:, chosen], self.means_GCU[..., chosen])

    def shutting(self) -> Tensor:
        """Offsets at which no value is above 0, in standard deviations, (U,)."""
        below_U = (self.closed_GU >= 1).sum(0).sub(1).clamp(min=0)
        return self.grid_G[below_U] - 0.5

    def _between(self, table: Tensor, offsets_U: Tensor) -> Tensor:
        """The last axis of a table's rows is the neurons'."""
        if len(self.grid_G) == 1:
            return table[0]
        place_U = torch.searchsorted(self.grid_G, offsets_U.contiguous()).clamp(1, len(self.grid_G) - 1)
        low_U, high_U = self.grid_G[place_U - 1], self.grid_G[place_U]
        part_U = (offsets_U - low_U) / (high_U - low_U)
        every = torch.arange(len(offsets_U))
        if table.ndim == 2:
            below, above = table[place_U - 1, every], table[place_U, every]
            return torch.lerp(below, above, part_U.clamp(0, 1))
        below, above = table[place_U - 1, :, every].T, table[place_U, :, every].T
        return torch.lerp(below, above, part_U[None])


def _beyond(bins_CUB: Tensor) -> Tensor:
    """Sums over the bins beyond each edge, for the offsets in ascending order, (C, U, G)."""
    return bins_CUB.flip(2).cumsum(2)[..., :-1]


def _deviation(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Of each neuron's values over images and positions, float64; 1 where they do not vary."""
    moments, count = None, 0
    for values_NUP, _ in batches:
        x_NUP = values_NUP.double().cpu()
        found = torch.stack([x_NUP.sum((0, 2)), x_NUP.square().sum((0, 2))])
        moments = found if moments is None else moments + found
        count += x_NUP.shape[0] * x_NUP.shape[2]
    assert moments is not None
    mean_U, square_U = moments / count
    sd_U = (square_U - mean_U.square()).clamp(min=0).sqrt()
    return torch.where(sd_U > 1e-6 * square_U.sqrt().clamp(min=1e-30), sd_U, 1.0)


def fit(openings: Openings, closed: float, csi: float) -> Tensor:
    """The smallest offsets, in the values' units, that give the wanted means, or come near.

    Open gates make CSI low. Where it shall be lower than so few open gates can make it, neurons are shut altogether
    (their CSI is 0), as few as will do and those that are closed most often, and the others opened the more.

    Args:
      openings: of the layer.
      closed: the mean over its neurons.
      csi: the mean over its neurons.

    Returns:
      (U,) float64.
    """
    units = len(openings.sd_U)
    order_U = openings.by_neuron(torch.zeros_like(openings.sd_U))[0].argsort(descending=True, stable=True)
    best_U, least = torch.zeros_like(openings.sd_U), float("inf")
    for shut in range(min(units, 1 + int(closed * units))):
        left = order_U[shut:]
        aim = torch.tensor([closed * units - shut, csi * units], dtype=torch.float64) / len(left)
        found, size = _near(openings.of_neurons(left), aim)
        if size < least:
            best_U, least = openings.shutting(), size
            best_U[left] = found
        if least < GOOD:
            break
    if least >= GOOD:
        found, size = _extreme(openings, closed, csi)
        best_U = found if size < least else best_U
    return best_U * openings.sd_U


def _extreme(openings: Openings, closed: float, csi: float) -> tuple[Tensor, float]:
    """Offsets for the lowest CSI at so many closed gates, and how far they are off, relatively.

    As many neurons are shut as there are closed gates, one is half open, the others open always, as far as CSI asks.
    """
    units = len(openings.sd_U)
    order_U = openings.by_neuron(torch.zeros_like(openings.sd_U))[0].argsort(descending=True, stable=True)
    shut = min(int(closed * units + 1e-9), units - 1)
    half_U = _closing(openings, closed * units - shut)
    left = order_U[shut:]
    half = left[openings.by_neuron(half_U)[1][left].argmin()]
    never_U = openings.grid_G[(openings.closed_GU > 0).sum(0).clamp(max=len(openings.grid_G) - 1)].clamp(min=0.1)

    def offsets(times: float) -> Tensor:
        chosen_U = never_U * times
        chosen_U[order_U[:shut]] = openings.shutting()[order_U[:shut]]
        chosen_U[half] = half_U[half]
        return chosen_U

    low, high = 1.0, 1000.0
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if float(openings.both(offsets(middle))[1]) > csi else (low, middle)
    aim_2 = torch.tensor([closed, csi], dtype=torch.float64)
    missing_2 = (openings.both(offsets(high)) - aim_2) / aim_2.clamp(min=1e-3)
    return offsets(high), float(missing_2.abs().max())


def _closing(openings: Openings, share: float) -> Tensor:
    """For each neuron the offset at which it is closed that often (U)."""
    low_U = torch.full_like(openings.sd_U, float(openings.grid_G[0]))
    high_U = -low_U
    for _ in range(60):
        middle_U = (low_U + high_U) / 2
        above_U = openings.by_neuron(middle_U)[0] > share
        low_U, high_U = torch.where(above_U, middle_U, low_U), torch.where(above_U, high_U, middle_U)
    return high_U


def _near(openings: Openings, aim_2: Tensor) -> tuple[Tensor, float]:
    """Offsets that give the means or come near, and how far they are off, relatively.

    From no offsets on, in many steps: each is the shortest, in standard deviations, that by the derivatives takes both
    means a part of the way.
    """
    offsets_U = torch.zeros_like(openings.sd_U)
    best_U, least = offsets_U, float("inf")
    for number in range(WAY + POLISH):
        found_2 = openings.both(offsets_U)
        if (size := float(((aim_2 - found_2) / aim_2.clamp(min=1e-3)).abs().max())) < least:
            best_U, least = offsets_U, size
        if least < GOOD / 100:
            break
        # CSI falls as one over the offset: in its logarithm the way is straighter.
        missing = torch.stack([aim_2[0] - found_2[0], (aim_2[1].clamp(min=1e-6) / found_2[1].clamp(min=1e-6)).log()])
        slopes_2U = (openings.by_neuron(offsets_U + H) - openings.by_neuron(offsets_U - H)) / (2 * H * len(offsets_U))
        slopes_2U[1] /= found_2[1].clamp(min=1e-6)
        square = slopes_2U @ slopes_2U.T + 1e-9 * torch.eye(2, dtype=torch.float64)
        step_U = slopes_2U.T @ torch.linalg.solve(square, missing / max(WAY - number, 1))
        longest_U = LONGEST * (1 + offsets_U.abs())
        offsets_U = offsets_U + step_U * min(1.0, 1 / float((step_U.abs() / longest_U).max().clamp(min=1e-12)))
    return best_U, least
