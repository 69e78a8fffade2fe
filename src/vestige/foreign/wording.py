"""What the functions of Python say, in the words of the command line. Imports no torch."""

import re
from dataclasses import fields

from vestige.errors import StoreError, VestigeError
from vestige.foreign.request import SPLITS, AblationRequest, AnyRequest, LinearityRequest, Request

_OPTIONS = {field.name for kind in (Request, AblationRequest, LinearityRequest) for field in fields(kind)}
_TELLING = "|".join(sorted(name for name in _OPTIONS if "_" in name))
"""Names that are no words of English; others are meant only where they stand in backquotes."""
_NAMED = re.compile(
    rf"(?<![\w./'-])({_TELLING})(?:=(?:'(\w+)'|(\w+)))?(?![\w/'-]|\.\w|=[({{\[])|`({'|'.join(_OPTIONS)})`"
)


def in_options(text: str) -> str:
    """A text whose arguments are written as options: `batch_norm='stored'` as `--batch-norm stored`."""
    return _NAMED.sub(_as_option, text)


def as_asked(error: VestigeError, request: AnyRequest) -> VestigeError:
    """An error in the words of the command that met it."""
    doing = in_options(error.doing)
    for role, split in SPLITS.items():
        spec = getattr(request, role, None)
        doing = doing.replace(f"data.{split} {spec!r}", f"--{role.replace('_', '-')} {spec!r}")
    # Settings that a folder was made by are named as its record names them.
    found = error.found if isinstance(error, StoreError) else in_options(error.found)
    said = type(error)(doing, found=found, remedy=in_options(error.remedy))
    return said.with_traceback(error.__traceback__)


def _as_option(match: re.Match[str]) -> str:
    name, text, value, quoted = match.groups()
    given = text or (value if value != "True" else None)
    return f"--{(name or quoted).replace('_', '-')}" + (f" {given}" if given else "")
