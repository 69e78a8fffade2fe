"""Ridge regression of the class-centred logits on each layer's pooled activations and whole maps, and on the input.

1 - SSE / SST on images held out, summed over the logits: 1 where they are affine in what the first half spans.
Shapes: N images, U neurons (units), C classes.
"""

from collections.abc import Iterable

from torch import Tensor

from vestige.formulas.linearity import class_centred
from vestige.formulas.ridge import held_out_r2, held_out_r2_of
from vestige.measurement.linearity.grams import Batch
from vestige.measurement.linearity.rows import LOGITS, Row


def targets(logits_NC: Tensor, rounding: float) -> Tensor:
    """What is predicted: the class-centred logits, float64; all 0 where they vary by no more than their rounding."""
    centred_NC = class_centred(logits_NC)
    variation = (centred_NC - centred_NC.mean(0)).square().sum()
    return centred_NC * (variation > rounding**2 * logits_NC.square().sum())


def flattened_rows(batch: Batch, targets_NC: Tensor) -> dict[Row, float]:
    """`ridge-flattened` of the input and each layer, from inner products of whole maps.

    Args:
      batch: the images; what is done with its matrices afterwards does not matter.
      targets_NC: of the same images, see `targets`.
    """
    return {
        ("ridge-flattened", name, ""): held_out_r2(gram_NN, targets_NC.to(gram_NN.device)).item()
        for name, gram_NN in batch.grams.items()
        if name != LOGITS
    }


def pooled_rows(pooled: Iterable[tuple[str, Tensor]], targets_NC: Tensor) -> dict[Row, float]:
    """`ridge-pooled` of each layer.

    Args:
      pooled: name and pooled activations of each layer, of the same images as the targets.
      targets_NC: see `targets`.
    """
    return {("ridge-pooled", name, ""): held_out_r2_of(values_NU, targets_NC).item() for name, values_NU in pooled}
