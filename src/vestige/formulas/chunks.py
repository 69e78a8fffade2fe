"""A few neurons at a time, so that temporary memory does not grow with the layer.

Shapes: N images, U neurons (units).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def over_neurons(work: Callable[[np.ndarray, slice], T], activations_NU: Tensor, width: int) -> list[T]:
    """Call `work(activations, neurons)` for every `width` neurons, on as many threads as torch uses.

    Args:
      work: takes a view (N, <= width) of the activations and the slice of U that it is; numpy, which lets go
        of the interpreter, does its computing.
      activations_NU: floating point; float32 and float64 are not copied.
      width: neurons at a time.

    Returns:
      What `work` returned, in the order of the neurons.
    """
    if activations_NU.dtype not in (torch.float32, torch.float64):
        activations_NU = activations_NU.float()
    a_NU = activations_NU.detach().cpu().numpy()
    parts = [slice(start, min(start + width, a_NU.shape[1])) for start in range(0, a_NU.shape[1], width)]
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
        return list(threads.map(lambda part: work(a_NU[:, part], part), parts))
