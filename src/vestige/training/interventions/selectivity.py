"""Penalty on the class selectivity index: loss = CE - alpha * mean over stages of (mean over neurons of CSI).

References:
  Leavitt & Morcos 2020, Selectivity considered harmful, https://arxiv.org/abs/2003.01262; Ranadive et al.
  2023, On the special role of class-selective neurons in early training, TMLR.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from vestige.acting import LabelMode
from vestige.formulas.selectivity import EPSILON, class_means, class_sums, csi, csi_from_sums
from vestige.models.layers import Layer
from vestige.training.events import LoopState
from vestige.training.interventions.penalty import ActivationPenalty

Estimator = Literal["mean", "running", "sum"]


class SelectivityPenalty(ActivationPenalty):
    """CSI = (mu_max - mu_rest) / (mu_max + mu_rest + 1e-6) of every neuron.

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: those penalised.
      alpha: below 0 suppresses selectivity, above 0 rewards it.
      labels: `true`, `permuted` or `partition`.
      share: of the cross-entropy's gradient norm; None: the gradient is not rescaled.
      estimator: `mean`: class means of the batch, classes absent from it left out; `running`: see `RunningMeans`;
        `sum`: class sums, absent classes counting as 0, as the paper's released code has it.
      momentum: of `running`.
    """

    def __init__(
        self,
        name: str,
        window: tuple[int, int],
        layers: Sequence[Layer],
        *,
        alpha: float,
        labels: LabelMode = "true",
        share: float | None = None,
        estimator: Estimator = "mean",
        momentum: float = 0.9,
    ):
        super().__init__(name, window, layers, alpha=alpha, labels=labels, share=share)
        self.estimator, self._running = estimator, RunningMeans(momentum)

    def index(self, activations_NU: Tensor, labels_N: Tensor, classes: int) -> Tensor:
        """CSI of every neuron (U)."""
        if self.estimator == "sum":
            sums_CU, _ = class_sums(activations_NU, labels_N, classes)
            return csi_from_sums(sums_CU)
        if self.estimator == "mean":
            return csi(class_means(activations_NU, labels_N, classes))
        return self._running.csi(*_present_means(activations_NU, labels_N, classes), classes)

    def learn(self, state: LoopState, labels_N: Tensor) -> None:
        """`running` remembers the means of a batch of one class."""
        if self.estimator == "running":
            with torch.no_grad(), torch.autocast(state.device.type, enabled=False):
                means = _present_means(self.activations(state), labels_N.to(state.labels.device), state.classes)
                self._running.add(*means, state.classes)

    def is_defined(self, labels_N: Tensor) -> bool:
        """Two classes must be in the batch, or with `running` in the batch and those before."""
        if self.estimator != "running":
            return super().is_defined(labels_N)
        return len(self._running.classes | set(labels_N.tolist())) > 1

    def keep(self) -> dict[str, Tensor]:
        """The dose and the running class means."""
        means_CU = self._running.means_CU
        return super().keep() | ({} if means_CU is None else {"class_means": means_CU.cpu()})

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """The dose and the running class means."""
        super().restore(kept)
        self._running.put(kept.get("class_means"))


def _present_means(activations_NU: Tensor, labels_N: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Class means of the classes in a batch (P, U), and which these are (P)."""
    sums_CU, counts_C = class_sums(activations_NU, labels_N, classes)
    present_P = counts_C.nonzero()[:, 0]
    return sums_CU[present_P] / counts_C[present_P, None], present_P


class RunningMeans:
    """Class means through training: mu = momentum * mu before + (1 - momentum) * mu of the batch.

    The gradient is that of mu: it goes through the batch, (1 - momentum) as large as that of the batch's means. A class
    that is not in a batch keeps its mean; at first sight it has the batch's.

    Args:
      momentum: 0 forgets all but the batch.
    """

    def __init__(self, momentum: float):
        self.momentum = momentum
        self.means_CU: Tensor | None = None
        self.classes: set[int] = set()

    def csi(self, batch_PU: Tensor, present_P: Tensor, classes: int) -> Tensor:
        """CSI of every neuron from the means with a batch in them (U); remembers them.

        Only the classes of the batch are worked on with gradients: there may be many more.

        Args:
          batch_PU: class means of the batch.
          present_P: which classes these are.
          classes: C.

        Raises:
          DataError: fewer than two classes are known.
        """
        means_PU = self.add(batch_PU, present_P, classes)
        assert self.means_CU is not None
        others = sorted(self.classes - set(present_P.tolist()))
        if not others:
            return csi(means_PU)
        others_KU = self.means_CU[others]
        highest_U = torch.maximum(means_PU.max(0).values, others_KU.amax(0))
        rest_U = (means_PU.sum(0) + others_KU.sum(0) - highest_U) / (len(means_PU) + len(others) - 1)
        return (highest_U - rest_U) / (highest_U + rest_U + EPSILON)

    def add(self, batch_PU: Tensor, present_P: Tensor, classes: int) -> Tensor:
        """Remember the means of a batch, of one class or more; arguments as in `csi`.

        A batch with a mean that is not finite (half precision overflows) is not remembered: it would stay for good.

        Returns:
          means_PU: of its classes with the batch in them, differentiable in the batch.
        """
        if self.means_CU is None:
            self.means_CU = batch_PU.new_full((classes, batch_PU.shape[1]), torch.nan)
        self.means_CU = self.means_CU.to(batch_PU)
        before_PU = self.means_CU[present_P]
        moved_PU = self.momentum * before_PU + (1 - self.momentum) * batch_PU
        means_PU = torch.where(before_PU.isnan(), batch_PU, moved_PU)
        if bool(means_PU.isfinite().all()):
            self.means_CU.index_copy_(0, present_P, means_PU.detach())
            self.classes = self.classes | set(present_P.tolist())
        return means_PU

    def put(self, means_CU: Tensor | None) -> None:
        """Go on from these; a class with a mean that is not finite has none."""
        self.means_CU, self.classes = None, set()
        if means_CU is not None:
            known_C = means_CU.isfinite().all(1)
            self.means_CU = torch.where(known_C[:, None], means_CU, torch.nan)
            self.classes = set(known_C.nonzero()[:, 0].tolist())
