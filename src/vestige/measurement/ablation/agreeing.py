"""Whether a replay gives what a full forward does, compared as the loss sees it: by log-probabilities."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from vestige.measurement.network import Dtype

DISAGREEMENT: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.1, "float64": 1e-9}
"""Of the scale of log-probabilities: far above rounding, far below a wrong replay."""
LEAST_LOG = 30.0
"""Probabilities below exp(-30) are taken as that: a class masked by a logit of -1e9 hides nothing of the others."""


def agree(replayed_NC: Tensor, whole_NC: Tensor, dtype: Dtype) -> bool:
    """Whether two sets of logits, computed in a dtype, differ by no more than rounding."""
    found, expected = (log_softmax(logits.double(), 1).clamp(min=-LEAST_LOG) for logits in (replayed_NC, whole_NC))
    seen = expected[expected > -LEAST_LOG]
    atol = DISAGREEMENT[dtype] * float(seen.abs().max()) if len(seen) else 0.0
    return torch.allclose(found, expected, rtol=0, atol=atol, equal_nan=True)
