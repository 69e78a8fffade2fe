"""vestige: a laboratory for single neurons through training.

Names are loaded on first use, so that the command line answers before torch is imported.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("vestige")
__all__ = [
    "ClassSelectivity",
    "SelectivityPenalty",
    "Study",
    "VestigeError",
    "ablate",
    "ablate_cumulatively",
    "layers",
    "linearity",
    "measure",
]

_HOMES = {
    "ClassSelectivity": "vestige.measurement.metric",
    "SelectivityPenalty": "vestige.training.penalising",
    "Study": "vestige.study.study",
    "VestigeError": "vestige.errors",
    "ablate": "vestige.measurement.ablation.ablating",
    "ablate_cumulatively": "vestige.measurement.ablation.cumulating",
    "layers": "vestige.models.listing",
    "linearity": "vestige.measurement.linearising",
    "measure": "vestige.measurement.measuring",
}

if TYPE_CHECKING:
    from vestige.errors import VestigeError
    from vestige.measurement.ablation.ablating import ablate
    from vestige.measurement.ablation.cumulating import ablate_cumulatively
    from vestige.measurement.linearising import linearity
    from vestige.measurement.measuring import measure
    from vestige.measurement.metric import ClassSelectivity
    from vestige.models.listing import layers
    from vestige.study.study import Study
    from vestige.training.penalising import SelectivityPenalty


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vestige' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
