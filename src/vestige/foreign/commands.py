"""What the commands on foreign models do with what the command line gave them. Imports no torch until one is called."""

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from vestige.errors import ConfigError, VestigeError
from vestige.foreign.request import AblationRequest, AnyRequest, LinearityRequest, Request
from vestige.foreign.wording import as_asked

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

    return _done(measure_foreign, _as(Request, command), command)


def ablate(command: Any) -> "Outcome":
    """Do what `vestige ablate` asks.

    Raises:
      VestigeError: a model or data are missing, or nothing can be ablated.
    """
    _check_given(command)
    from vestige.foreign.ablating import ablate_foreign

    return _done(ablate_foreign, _as(AblationRequest, command), command)


def linearity(command: Any) -> "Outcome":
    """Do what `vestige linearity` asks.

    Raises:
      VestigeError: a model or data are missing, or nothing can be measured.
    """
    _check_given(command)
    from vestige.foreign.linearising import linearise_foreign

    return _done(linearise_foreign, _as(LinearityRequest, command), command)


def _done(work: Callable[..., "Outcome"], request: AnyRequest, command: Any) -> "Outcome":
    """What came of it, errors in the command's words."""
    try:
        outcome = work(request, verify=command.verify)
    except VestigeError as error:
        raise as_asked(error, request) from error
    outcome.errors = [as_asked(error, request) for error in outcome.errors]
    return outcome


def _check_given(command: Any) -> None:
    for option, remedy in _REMEDIES.items():
        if getattr(command, option) is None:
            raise ConfigError(_DOING, found=f"no --{option}", remedy=remedy)


def _as(kind: type[_Request], command: Any) -> _Request:
    return kind(**{field.name: getattr(command, field.name) for field in fields(kind)})
