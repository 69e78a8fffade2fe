"""Penalty on eta squared: loss = CE - alpha * mean over stages of (mean over neurons of eta2).

eta2 is the between-class over the total sum of squares of a neuron's activation; unlike CSI it cannot be
lowered by an offset, so it is the penalty that removes class information.
"""

from torch import Tensor

from vestige.formulas.selectivity import eta2
from vestige.training.interventions.penalty import ActivationPenalty


class Eta2Penalty(ActivationPenalty):
    """eta2 = between-class / total sum of squares of every neuron, from the batch alone."""

    def index(self, activations_NU: Tensor, labels_N: Tensor, classes: int) -> Tensor:
        """eta2 of every neuron (U)."""
        return eta2(activations_NU, labels_N, classes)
