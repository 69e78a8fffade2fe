"""The errors that a user of vestige can cause, each saying what to do about it."""

import difflib
from collections.abc import Iterable


class VestigeError(ValueError):
    """A problem that the user can mend; the command line prints it without a traceback and exits with code 2.

    Args:
      doing: what was being done, and on which file or argument: ``"reading data.train 'parquet:x.parquet'"``.
      found: what was found there.
      remedy: what to do about it, a full sentence without the final stop.
    """

    def __init__(self, doing: str, *, found: str, remedy: str):
        self.doing, self.found, self.remedy = doing, found, remedy
        super().__init__(doing, found, remedy)

    def __str__(self) -> str:
        stop = "" if self.remedy.endswith("?") else "."
        return f"{self.doing}: {self.found}. {self.remedy}{stop}"

    def __reduce__(self):
        return _rebuild, (type(self), self.doing, self.found, self.remedy)


class ConfigError(VestigeError):
    """A study, an override or an argument that does not make sense."""


class DataError(VestigeError):
    """Images or labels that cannot be used."""


class ModelError(VestigeError):
    """A model that cannot be built, traced or loaded."""


class StoreError(VestigeError):
    """A study folder that cannot be read or written, or is not what its name says."""


class TrainingError(VestigeError):
    """A training run that cannot go on."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A remedy that names the choices closest to `name`, or all of them where none is close."""
    choices = list(dict.fromkeys(choices))
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    shown = ", ".join(repr(c) for c in choices[:30])
    return f"Choose one of {shown}" + (" ..." if len(choices) > 30 else "")


def check_known(doing: str, name: str, value: str, choices: Iterable[str]) -> None:
    """Make sure that an argument is one of the words that it may be.

    Raises:
      ConfigError: it is not; the message names the nearest.
    """
    choices = list(choices)
    if value not in choices:
        raise ConfigError(doing, found=f"there is no {name} {value!r}", remedy=nearest(str(value), choices))


def _rebuild(kind: type[VestigeError], doing: str, found: str, remedy: str) -> VestigeError:
    return kind(doing, found=found, remedy=remedy)
