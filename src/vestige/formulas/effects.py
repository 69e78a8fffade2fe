"""What replacing neurons does to a classifier: changes of cross-entropy and of top-1, in all and by class.

Shapes: N images, C classes, U neurons (units), each ablated on the same images.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot


class Outcomes(NamedTuple):
    """How a classifier did on each image; any leading dimensions.

    Attributes:
      loss: cross-entropy, nats, float64, (N,).
      correct: whether the largest logit is the label's (of equal ones the first), bool, (N,).
    """

    loss: Tensor
    correct: Tensor


class Totals(NamedTuple):
    """Sums over images from which every effect follows; add those of further images with `+`.

    Attributes:
      loss: sum of the changes of loss (ablated minus intact) over the images of each class, nats; (U, C),
        as the next three; all are float64.
      squares: sum of their squares.
      lost: images right before and wrong after.
      gained: images wrong before and right after.
      counts: images, (C,).
    """

    loss: Tensor
    squares: Tensor
    lost: Tensor
    gained: Tensor
    counts: Tensor

    def __add__(self, other: "Totals") -> "Totals":  # type: ignore[override]
        return Totals(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def outcomes(logits_NC: Tensor, labels_N: Tensor) -> Outcomes:
    """Cross-entropy and correctness of each image.

    Args:
      logits_NC: floating point; the loss is computed in float64.
      labels_N: int64, 0..C-1.
    """
    loss_N = cross_entropy(logits_NC.double(), labels_N, reduction="none")
    return Outcomes(loss_N, logits_NC.argmax(1) == labels_N)


def totals(intact_N: Outcomes, ablated_UN: Outcomes, labels_N: Tensor, classes: int) -> Totals:
    """Sum the changes that each ablation makes on the images of each class.

    Args:
      intact_N: outcomes of the whole network.
      ablated_UN: outcomes with each neuron ablated, on the same images in the same order.
      labels_N: int64, 0..classes-1.
      classes: C.
    """
    members_NC = one_hot(labels_N, classes).double()
    change_UN = ablated_UN.loss - intact_N.loss
    lost_UN = intact_N.correct & ~ablated_UN.correct
    gained_UN = ~intact_N.correct & ablated_UN.correct
    by_class = (x.double() @ members_NC for x in (change_UN, change_UN.square(), lost_UN, gained_UN))
    return Totals(*by_class, counts=members_NC.sum(0))


def neuron_effects(sums: Totals, preferred_U: Tensor) -> dict[str, Tensor]:
    """The effects of each ablation over all images.

    Args:
      sums: over all images.
      preferred_U: each neuron's preferred class, int64.

    Returns:
      Vectors of U float64:
      - `loss_delta`: mean change of cross-entropy, nats; `loss_delta_se`: its paired standard error, the
        sample standard deviation of the images' changes over sqrt(N) (NaN for one image);
      - `right_to_wrong`, `wrong_to_right`: shares of all images; `top1_delta`: the second minus the first;
      - `preferred_delta`, `others_delta`: change of accuracy on the images of the preferred class, and on all
        others (NaN where there are none).
    """
    n = sums.counts.sum()
    change_U = sums.loss.sum(1)
    # Rounding can leave a tiny negative variance where all images change alike.
    variance_U = ((sums.squares.sum(1) - change_U.square() / n) / (n - 1)).clamp(min=0)
    lost_U, gained_U = sums.lost.sum(1), sums.gained.sum(1)
    net_UC = sums.gained - sums.lost
    preferred_net_U = net_UC.gather(1, preferred_U[:, None])[:, 0]
    preferred_n_U = sums.counts[preferred_U]
    return {
        "loss_delta": change_U / n,
        "loss_delta_se": (variance_U / n).sqrt(),
        "top1_delta": (gained_U - lost_U) / n,
        "right_to_wrong": lost_U / n,
        "wrong_to_right": gained_U / n,
        "preferred_delta": preferred_net_U / preferred_n_U,
        "others_delta": (net_UC.sum(1) - preferred_net_U) / (n - preferred_n_U),
    }


def class_effects(sums: Totals) -> dict[str, Tensor]:
    """The effects of each ablation on the images of each class.

    Returns:
      `class_n` (C,), images; `class_loss_delta` (U, C), mean change of cross-entropy, nats;
      `class_top1_delta` (U, C), change of accuracy. NaN where a class has no image.
    """
    return {
        "class_n": sums.counts.to(torch.int64),
        "class_loss_delta": sums.loss / sums.counts,
        "class_top1_delta": (sums.gained - sums.lost) / sums.counts,
    }
