"""Penalty on the class selectivity index: loss = CE - alpha * mean over stages of (mean over neurons of CSI).

References:
  Leavitt & Morcos 2020, Selectivity considered harmful, https://arxiv.org/abs/2003.01262; Ranadive et al.
  2023, On the special role of class-selective neurons in early training, TMLR.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from vestige.formulas.selectivity import class_means, class_sums, csi, csi_from_sums
from vestige.models.layers import Layer
from vestige.training.interventions.penalty import ActivationPenalty


class SelectivityPenalty(ActivationPenalty):
    """CSI = (mu_max - mu_rest) / (mu_max + mu_rest + 1e-6) of every neuron, from the batch alone.

    Args:
      name: unique in the run.
      window: steps [start, stop) in which it acts.
      layers: those penalised.
      alpha: below 0 suppresses selectivity, above 0 rewards it.
      labels: `true` or `permuted`.
      estimator: `mean`: class means, classes absent from the batch left out; `sum`: class sums, absent
        classes counting as 0, as the paper's released code has it.
    """

    def __init__(
        self,
        name: str,
        window: tuple[int, int],
        layers: Sequence[Layer],
        *,
        alpha: float,
        labels: Literal["true", "permuted"] = "true",
        estimator: Literal["mean", "sum"] = "mean",
    ):
        super().__init__(name, window, layers, alpha=alpha, labels=labels)
        self.estimator = estimator

    def index(self, activations_NU: Tensor, labels_N: Tensor, classes: int) -> Tensor:
        """CSI of every neuron (U)."""
        if self.estimator == "sum":
            sums_CU, _ = class_sums(activations_NU, labels_N, classes)
            return csi_from_sums(sums_CU)
        return csi(class_means(activations_NU, labels_N, classes))
