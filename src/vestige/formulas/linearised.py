"""What linearised changes of the logits do to a classifier, worked out exactly in the softmax.

Change of loss: softplus(lse(odds + change)) - softplus(lse(odds)), odds being the logits minus the label's logit.

Shapes: T images, U neurons (units), C classes, Q opponents of the label: K rival classes, and all the rest as one.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Estimates(NamedTuple):
    """What replacing each neuron is predicted to do on each image; float32, (T, U).

    Attributes:
      loss: change of cross-entropy, nats.
      margin: the label's logit minus the highest other one, afterwards.
      size: how much the prediction could be off, nats: the changes of the log-odds summed over positions without
        their signs, weighted by the mean of the probabilities before and after. 0 exactly where the replacement
        changes nothing, and nowhere else.
    """

    loss: Tensor
    margin: Tensor
    size: Tensor


SMALLEST = 1e-30
"""`Estimates.size` where something changes and no logit is predicted to."""


def rivals(logits_TC: Tensor, labels_T: Tensor, most: int) -> Tensor:
    """The classes with the highest logits but for the label, (T, K), K being `most` or C - 1."""
    others_TC = logits_TC.scatter(1, labels_T[:, None], -torch.inf)
    return others_TC.topk(min(most, logits_TC.shape[1] - 1)).indices


def log_odds(logits_TC: Tensor, labels_T: Tensor, rivals_TK: Tensor) -> Tensor:
    """Log-odds of each rival, and of all other classes together where there are any, against the label: (T, Q).

    The cross-entropy is softplus(logsumexp(log-odds)). Differentiable.
    """
    label_T1 = logits_TC.gather(1, labels_T[:, None])
    odds_TK = logits_TC.gather(1, rivals_TK) - label_T1
    if rivals_TK.shape[1] == logits_TC.shape[1] - 1:
        return odds_TK
    known_TK = torch.cat([labels_T[:, None], rivals_TK], 1)
    rest_TC = logits_TC.scatter(1, known_TK, -torch.inf)
    return torch.cat([odds_TK, rest_TC.logsumexp(1, keepdim=True) - label_T1], 1)


def predicted(odds_TQ: Tensor, change_TUQ: Tensor, absolute_TUQ: Tensor, changed_TU: Tensor, single: int) -> Estimates:
    """What linearised changes of the log-odds do.

    Where they are not finite, as at an infinite gradient, nothing is predicted, and the size is the largest known.

    Args:
      odds_TQ: of the intact network.
      change_TUQ: of each, sums over positions.
      absolute_TUQ: the same sums without signs.
      changed_TU: bool, where the replacement changes anything.
      single: so many of the opponents, the first, are one class each: margins are to them.

    References:
      Molchanov et al. (2019), Importance estimation for neural network pruning (the first-order term).
    """
    odds_T1Q = odds_TQ[:, None].double()
    after_TUQ = odds_T1Q + change_TUQ
    loss_T1, loss_TU = (softplus(odds.logsumexp(-1)) for odds in (odds_T1Q, after_TUQ))
    # An opponent's probability; the mean of before and after.
    weight_TUQ = ((odds_T1Q - loss_T1[..., None]).exp() + (after_TUQ - loss_TU[..., None]).exp()) / 2
    size_TU = (weight_TUQ * absolute_TUQ).sum(-1).clamp(min=SMALLEST).float()
    changes_TU = (loss_TU - loss_T1).float()
    margin_TU = -after_TUQ[..., :single].amax(-1).float()
    known_TU = changes_TU.isfinite() & margin_TU.isfinite() & size_TU.isfinite()
    told_TU = known_TU & changed_TU
    largest = torch.where(told_TU, size_TU, 0).amax()
    largest = torch.where(largest > SMALLEST, largest, 1)  # 1 nat where nothing is known
    return Estimates(
        torch.where(told_TU, changes_TU, 0),
        torch.where(told_TU, margin_TU, -odds_T1Q[..., :single].amax(-1).float()),
        torch.where(known_TU, size_TU, largest) * changed_TU,
    )
