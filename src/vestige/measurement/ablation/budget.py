"""How much memory may be taken, as users say it."""

import re

from vestige.errors import ConfigError
from vestige.measurement.keeping import free_memory

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}{ending}": 1000**power for power, letter in enumerate("kmgt", 1) for ending in ("", "b")}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}


def memory_bytes(memory: int | float | str | None) -> float:
    """Bytes of memory that may be taken.

    Args:
      memory: bytes, or text such as "4GiB" or "500 MB"; None: half of what is free.

    Raises:
      ConfigError: it is neither, or nothing.
    """
    if memory is None:
        return free_memory() / 2
    text = str(memory).strip()
    match = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)", text, flags=re.IGNORECASE)
    try:
        found = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    except (KeyError, ValueError):
        found = 0.0
    if found <= 0 or isinstance(memory, bool):
        raise ConfigError(
            "reading the memory limit",
            found=f"{text!r} is no amount of memory",
            remedy="Write bytes, '4GiB' or '500MB'",
        )
    return found
