"""One look for the page and the paper: colours that colour-blind readers can tell apart, dashes, and numbers.

References:
  Okabe & Ito 2008, Color Universal Design, https://jfly.uni-koeln.de/color/
"""

import math

LIGHT = ("#1f2328", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe-Ito on white, black softened and yellow left out: too faint for a line."""
DARK = ("#e6e8eb", "#4aa8e0", "#f0803c", "#2fc598", "#e29cc4", "#f0b429", "#8ccdf5")
"""The same hues, lighter, on a dark ground."""
DIVERGING = ("#56b4e9", "#f3f4f6", "#e8743b")
"""Below 0, 0, above 0: dark letters can be read on all."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""Plotly's names; `MPL_DASHES` are the same strokes in matplotlib."""
MPL_DASHES = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1, 1.5)),
    "dashdot": (0, (5, 2, 1, 2)),
    "longdash": (0, (9, 2)),
}
MARKERS = {
    "solid": ("circle", "o"),
    "dash": ("square", "s"),
    "dot": ("triangle-up", "^"),
    "dashdot": ("diamond", "D"),
    "longdash": ("triangle-down", "v"),
}
"""What single points are drawn as where lines have these dashes: Plotly's name and matplotlib's."""


def slot(index: int) -> tuple[int, str]:
    """Colour slot and dash of the index-th thing in a legend; dashes change once the colours are used up."""
    return index % len(LIGHT), DASHES[(index // len(LIGHT)) % len(DASHES)]


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits and a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    places = max(digits - 1 - math.floor(math.log10(size)), 0)
    return f"{value:,.{places}f}".replace("-", "\u2212").replace(",", "\u202f")


def count(value: int, word: str, plural: str | None = None) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{value:,} {word if value == 1 else plural or word + 's'}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """`48 s`, `12 min 5 s`, `3 h 20 min`."""
    total = round(seconds)
    if total < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def names(items: list[str], limit: int = 8) -> str:
    """`a`, `a and b`, `a, b and c`; the rest counted beyond `limit`."""
    if len(items) > limit:
        items = [*items[: limit - 1], f"{len(items) - limit + 1} more"]
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else "none"
