"""Columns as short texts for the page: three decimal digits are kept, so that what is shown is what the table says.

A number m * 10^(e - 2), m = 100..999, e = -24..11, is one of 64,800 codes; with 0 and "missing" they fit in 16 bits.
Rounding to a binary grid would show where it falls between two decimals; this never does.

Shapes: S steps, U neurons (units), D numbers a neuron.
"""

import base64
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

LOWEST, HIGHEST = -24, 11
"""Exponents of the first digit; a column with a number beyond them is kept as float32."""
MISSING, ZERO, FIRST = 0, 1, 2
SPAN = HIGHEST - LOWEST + 1
NO_CLASS, NO_FLAG, NO_PLACE = 2**16 - 1, 2**8 - 1, 2**32 - 1

Packed = list[Any]
"""Kind, base64 of the little-endian codes or the one code of all, numbers a neuron."""


@dataclass(frozen=True)
class Codes:
    """A column's codes, (S, U, D): `d` decimals, `f` float32 as it is, `i` classes, `w` places, `b` flags."""

    kind: Literal["d", "f", "i", "w", "b"]
    array: np.ndarray

    def pack(self, steps: slice, neurons: slice) -> Packed:
        """A part of them as text."""
        part = self.array[steps, neurons]
        width = part.shape[2]
        if part.size and self.kind != "f" and (part == part.flat[0]).all():
            return [self.kind, int(part.flat[0]), width]
        return [self.kind, base64.b64encode(np.ascontiguousarray(part).tobytes()).decode(), width]


def decimals(values: np.ndarray) -> Codes | None:
    """Numbers (S, U) or (S, U, D), rounded half to even at their third digit; None where none is finite."""
    exact = _wide(values).astype(np.float64)
    there = np.isfinite(exact)
    if not there.any():
        return None
    codes = _digits(exact, there)
    if codes is None:
        return Codes("f", np.where(there, exact, np.nan).astype("<f4"))
    return Codes("d", codes)


def classes(values: np.ndarray) -> Codes | None:
    """Whole numbers 0..65534, negative where missing; None where all are."""
    return _whole("i", values, "<u2", NO_CLASS)


def places(values: np.ndarray) -> Codes | None:
    """Whole numbers 0..2^32 - 2, negative where missing; None where all are."""
    return _whole("w", values, "<u4", NO_PLACE)


def flags(values: np.ndarray) -> Codes | None:
    """1 and 0, negative where missing; None where all are."""
    return _whole("b", values, "u1", NO_FLAG)


def _whole(kind: Literal["i", "w", "b"], values: np.ndarray, dtype: str, missing: int) -> Codes | None:
    wide = _wide(values)
    if not (wide >= 0).any():
        return None
    assert wide.max() < missing, "a number that has no code"
    return Codes(kind, np.where(wide >= 0, wide, missing).astype(dtype))


def _wide(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 3 else values[..., None]


def _digits(exact: np.ndarray, there: np.ndarray) -> np.ndarray | None:
    """The code of each number; None where one is out of range."""
    size = np.where(there, np.abs(exact), 0.0)
    some = size > 0
    exponent = np.floor(np.log10(size, where=some, out=np.zeros_like(size))).astype(np.int64)
    if some.any() and (exponent[some].min() <= LOWEST or exponent[some].max() >= HIGHEST):
        return None
    exponent -= some & (_mantissa(size, exponent) < 100)  # log10 of what lies just below a power of ten is that power
    mantissa = _mantissa(size, exponent)
    exponent += mantissa >= 1000
    mantissa[mantissa >= 1000] = 100
    codes = FIRST + ((exact < 0) * SPAN + exponent - LOWEST) * 900 + mantissa.astype(np.int64) - 100
    return np.where(there, np.where(some, codes, ZERO), MISSING).astype("<u2")


def _mantissa(size: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    shift = 2 - exponent  # powers of ten up to 22 are exact in float64: one correctly rounded operation a number
    return np.rint(np.where(shift >= 0, size * 10.0 ** np.maximum(shift, 0), size / 10.0 ** np.maximum(-shift, 0)))
