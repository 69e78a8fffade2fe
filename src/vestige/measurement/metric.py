"""Class selectivity as a torchmetrics metric, to be logged from one's own training loop.

Shapes: T images of a batch, U neurons (units) of a layer, C classes, H = 2 halves.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vestige.errors import DataError, ModelError
from vestige.formulas import selectivity as formulas
from vestige.measurement.reading import spatial_mean
from vestige.measurement.sharing import Group
from vestige.measurement.sums import halves

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ModelError(
        "loading vestige.ClassSelectivity",
        found="torchmetrics is not installed",
        remedy="Install it: pip install torchmetrics",
    ) from error

DOING = "updating ClassSelectivity"
MEASURES = ("csi", "csi_cv", "eta2")


class ClassSelectivity(Metric):
    """Mean class selectivity of a network's neurons: csi, its cross-validated form, and eta squared.

    Sums by class are all that is kept, in float64, so that memory does not grow with the images and processes can be
    merged. The halves of csi_cv are alternate images of each class, as each process sees them. Batch-norm statistics
    are those of the network as it runs, where `vestige.measure` can recompute them.

    Args:
      num_classes: how many classes there are, C.
      axis: of the neurons in the activations: 1 for (T, U, height, width), -1 for (T, tokens, U).
      rectify: take the absolute value of an image's spatial mean, for activations that can be negative.
      kwargs: of `torchmetrics.Metric`.

    Example:
      >>> metric = ClassSelectivity(num_classes=10)
      >>> metric.update({"layer1": activations}, labels)  # floating point (T, U, ...), int64 (T,)
      >>> metric.compute()  # {"csi": ..., "csi_cv": ..., "eta2": ..., "csi/layer1": ...}
    """

    full_state_update = True  # states come with the first batch, which tells their sizes
    is_differentiable = False
    higher_is_better = None

    def __init__(self, num_classes: int, *, axis: int = 1, rectify: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_classes, self.axis, self.rectify = num_classes, axis, rectify
        self.layers: dict[str, str] = {}
        self.add_state("counts_HC", torch.zeros(2, num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, activations: Tensor | Mapping[str, Tensor], labels: Tensor) -> None:
        """Add a batch.

        Args:
          activations: floating point, (T, U) or with positions; or such by layer name, the same names every time.
          labels: int64, (T,), 0..C-1.

        Raises:
          DataError: labels outside the classes, or not as many as activations.
        """
        named = activations if isinstance(activations, Mapping) else {"": activations}
        self._check(named, labels)
        if not len(labels):
            return
        labels = labels.long()
        counts_HC: Tensor = self.counts_HC
        half_T = halves(labels, counts_HC.sum(0))
        cell_T = half_T * self.num_classes + labels
        self.counts_HC += cell_T.bincount(minlength=2 * self.num_classes).view(2, self.num_classes)
        for name, activation in named.items():
            a_TU = spatial_mean(activation.detach(), self.axis % activation.ndim).double()
            a_TU = a_TU.abs() if self.rectify else a_TU
            self._add_layer(name, a_TU.shape[1])
            self._state(name, "sums").view(-1, a_TU.shape[1]).index_add_(0, cell_T, a_TU)
            self._state(name, "squares").add_(a_TU.square().sum(0))

    def compute(self) -> dict[str, Tensor]:
        """Means over the neurons that are not dead: of each layer (`csi/NAME`), and of those means over the layers.

        Returns:
          scalars by name; NaN where fewer than two classes have been seen (`csi_cv`: twice each).
        """
        found: dict[str, Tensor] = {}
        for name in self.layers:
            for measure, value in self._measured(name).items():
                found[f"{measure}/{name}"] = value
        overall = (
            {
                measure: torch.stack([found[f"{measure}/{name}"] for name in self.layers]).nanmean()
                for measure in MEASURES
            }
            if self.layers
            else {}
        )
        return overall | {key: value for key, value in found.items() if not key.endswith("/")}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Add up what the processes have; one that has seen no batch yet learns here what layers there are."""
        own = {name: self._state(name, "sums").shape[2] for name in self.layers}
        for units in {name: size for sizes in Group.here().gather(own) for name, size in sizes.items()}.items():
            self._add_layer(*units)
        super().sync(*args, **kwargs)

    def _measured(self, name: str) -> dict[str, Tensor]:
        sums_HCU, squares_U = self._state(name, "sums"), self._state(name, "squares")
        nan = torch.full((), torch.nan, dtype=torch.float64, device=squares_U.device)
        live_U = squares_U > 0
        counts_HC: Tensor = self.counts_HC
        counts_C = counts_HC.sum(0)
        if (counts_C > 0).sum() < 2 or not live_U.any():
            return dict.fromkeys(MEASURES, nan)
        sums_CU = sums_HCU.sum(0)
        halved = counts_HC.gt(0).all(0).sum() >= 2
        a_CU, b_CU = map(formulas.means_from_sums, sums_HCU, counts_HC)
        return {
            "csi": formulas.csi(formulas.means_from_sums(sums_CU, counts_C))[live_U].mean(),
            "csi_cv": formulas.cross_validated_csi(a_CU, b_CU)[live_U].mean() if halved else nan,
            "eta2": formulas.eta2_from_moments(sums_CU, counts_C, squares_U)[live_U].mean(),
        }

    def _add_layer(self, name: str, units: int) -> None:
        if name in self.layers:
            return
        # The names tell apart metrics that add up other numbers: torchmetrics merges those that look the same.
        key = self.layers[name] = f"{len(self.layers)}_{'last' if self.axis < 0 else self.axis}_{self.rectify}"
        device = self.counts_HC.device  # pyright: ignore[reportAttributeAccessIssue]
        for kind, shape in (("sums", (2, self.num_classes, units)), ("squares", (units,))):
            zeros = torch.zeros(shape, dtype=torch.float64, device=device)
            self.add_state(f"{kind}_{key}", zeros, dist_reduce_fx="sum")

    def _state(self, name: str, kind: str) -> Tensor:
        return getattr(self, f"{kind}_{self.layers[name]}")

    def _check(self, named: Mapping[str, Tensor], labels: Tensor) -> None:
        for name, activation in named.items():
            if len(activation) != len(labels):
                raise DataError(
                    DOING,
                    found=f"{len(activation)} activations{f' of {name}' if name else ''} and {len(labels)} labels",
                    remedy="Give one label an image",
                )
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= self.num_classes):
            raise DataError(
                DOING,
                found=f"labels from {int(labels.min())} to {int(labels.max())} of {self.num_classes} classes",
                remedy=f"Give class indices from 0 to {self.num_classes - 1}",
            )
