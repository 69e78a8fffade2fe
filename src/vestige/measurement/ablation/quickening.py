"""bfloat16 is asked for to be quicker: where a processor is slower in it, float32 is quicker and finer."""

from dataclasses import replace

import torch
from torch import nn

from vestige.measurement.preparing import Preparation

MATRIX_UNITS = ("amx_bf16", "bf16", "sve_bf16")
"""Names of what multiplies matrices in bfloat16 in x86 and Arm processors, of `torch.cpu.get_capabilities`."""
SAID = (
    "bfloat16 was asked for: this processor has no matrix units for it and is slower in it than in float32, "
    "which was used."
)


def quickest(how: Preparation) -> tuple[Preparation, tuple[str, ...]]:
    """The same, in float32 where bfloat16 is asked for in vain, and what must be said of that."""
    if how.dtype != "bfloat16" or not isinstance(how.model, nn.Module) or multiplies_bfloat16(_device(how)):
        return how, ()
    return replace(how, dtype="float32"), (SAID,)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has units that multiply matrices in bfloat16; of processors that cannot be asked: yes."""
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in MATRIX_UNITS)


def _device(how: Preparation) -> torch.device:
    own = next((tensor.device for tensor in how.model.state_dict().values()), torch.device("cpu"))
    return own if how.device is None else torch.device(how.device)
