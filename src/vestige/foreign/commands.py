"""What the commands on foreign models do with what the command line gave them. Imports no torch until one is called."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from vestige.errors import ConfigError
from vestige.foreign.request import AblationRequest, AnyRequest, LinearityRequest, Request

if TYPE_CHECKING:
    from vestige.foreign.turns import Outcome

_DOING = "reading the command line"
_REMEDIES = {"model": "Give a model: --model torchvision:NAME", "data": "Give images: --data folder:PATH"}
_Request = TypeVar("_Request", bound=AnyRequest)


def measure(command: Any) -> "Outcome":
    """Do what `vestige measure --model ...` asks; `command` is its options, those of studies among them.

    Raises:
      VestigeError: they do not make sense together, or nothing can be measured.
    """
    if command.study is not None or command.only:
        found = f"the study {command.study!r} and --model" if command.study else "--only and --model"
        raise ConfigError(_DOING, found=found, remedy="Give one of them")
    if command.data is None:
        raise ConfigError(_DOING, found="--model without --data", remedy=_REMEDIES["data"])
    from vestige.foreign.measuring import measure_foreign

    return measure_foreign(_as(Request, command), verify=command.verify)


def ablate(command: Any) -> "Outcome":
    """Do what `vestige ablate` asks.

    Raises:
      VestigeError: a model or data are missing, or nothing can be ablated.
    """
    _check_given(command)
    from vestige.foreign.ablating import ablate_foreign

    return ablate_foreign(_as(AblationRequest, command), verify=command.verify)


def linearity(command: Any) -> "Outcome":
    """Do what `vestige linearity` asks.

    Raises:
      VestigeError: a model or data are missing, or nothing can be measured.
    """
    _check_given(command)
    from vestige.foreign.linearising import linearise_foreign

    return linearise_foreign(_as(LinearityRequest, command), verify=command.verify)


def _check_given(command: Any) -> None:
    for option, remedy in _REMEDIES.items():
        if getattr(command, option) is None:
            raise ConfigError(_DOING, found=f"no --{option}", remedy=remedy)


def _as(kind: type[_Request], command: Any) -> _Request:
    return kind(**{field.name: getattr(command, field.name) for field in fields(kind)})
