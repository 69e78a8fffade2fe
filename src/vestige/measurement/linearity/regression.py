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


def flattened_rows(batch: Batch, logits_NC: Tensor) -> dict[Row, float]:
    """`ridge-flattened` of the input and each layer, from inner products of whole maps.

    Args:
      batch: the images; what is done with its matrices afterwards does not matter.
      logits_NC: of the same images, float64.
    """
    targets_NC = class_centred(logits_NC)
    return {
        ("ridge-flattened", name, ""): held_out_r2(gram_NN, targets_NC.to(gram_NN.device)).item()
        for name, gram_NN in batch.grams.items()
        if name != LOGITS
    }


def pooled_rows(pooled: Iterable[tuple[str, Tensor]], logits_NC: Tensor) -> dict[Row, float]:
    """`ridge-pooled` of each layer.

    Args:
      pooled: name and pooled activations of each layer, of the same images as the logits.
      logits_NC: float64.
    """
    targets_NC = class_centred(logits_NC)
    return {("ridge-pooled", name, ""): held_out_r2_of(values_NU, targets_NC).item() for name, values_NU in pooled}
