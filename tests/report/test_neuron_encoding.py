import base64
import math

import numpy as np
import pytest

from vestige.report.neurons.encoding import classes, decimals, flags, places

EVERY = slice(None)


def unpacked(codes):
    assert codes
    kind, packed, width = codes.pack(EVERY, EVERY)
    types = {"d": "<u2", "f": "<f4", "i": "<u2", "w": "<u4", "b": "u1"}
    if isinstance(packed, int):
        return kind, np.full(codes.array.size, packed), width
    return kind, np.frombuffer(base64.b64decode(packed), types[kind]), width


def said(code):
    """A number from its code, by the words of the module and nothing of its code."""
    if code == 0:
        return math.nan
    if code == 1:
        return 0.0
    digits, rest = (code - 2) % 900 + 100, (code - 2) // 900
    return (-1 if rest >= 36 else 1) * float(f"{digits}e{rest % 36 - 24 - 2}")


def test_numbers_come_back_as_their_three_digits():
    rng = np.random.default_rng(0)
    random = rng.normal(size=(40, 50)) * 10.0 ** rng.integers(-20, 8, (40, 50))
    special = [
        0,
        -0.0,
        1,
        -1,
        0.1,
        0.9996,
        0.99949,
        999.4,
        999.5,
        1e-9,
        9.995e-5,
        -0.5,
        2.125,
        0.001,
        1e3,
        1e6,
        1e7,
        1e8,
    ]
    special += [np.nextafter(np.float32(10.0**e), np.float32(0)) for e in range(-12, 9)]
    values = np.concatenate([random.ravel(), special]).astype(np.float32)[None]
    kind, codes, width = unpacked(decimals(values))
    assert (kind, width) == ("d", 1)
    assert [said(int(code)) for code in codes] == [float(f"{float(value):.2e}") for value in values[0]]


def test_what_is_not_finite_is_missing():
    codes = unpacked(decimals(np.array([[0.25, np.nan, np.inf, -np.inf]])))[1]
    assert codes.tolist() == [2 + (24 - 1) * 900 + 150, 0, 0, 0]
    assert decimals(np.full((2, 3), np.nan)) is None


@pytest.mark.parametrize("far", [1e-30, -1e-27, 1e12, 3e38])
def test_a_number_out_of_range_leaves_its_column_as_it_is(far):
    kind, codes, _ = unpacked(decimals(np.array([[0.5, far, np.nan]], dtype=np.float32)))
    assert kind == "f"
    assert codes[:2].tolist() == [0.5, np.float32(far)]
    assert math.isnan(codes[2])


def test_classes_places_and_flags():
    assert unpacked(classes(np.array([[3, -1, 999]])))[1].tolist() == [3, 65535, 999]
    assert unpacked(places(np.array([[70_000, -1]])))[1].tolist() == [70_000, 2**32 - 1]
    assert unpacked(flags(np.array([[1, 0, -1]])))[1].tolist() == [1, 0, 255]
    assert classes(np.array([[-1]])) is flags(np.array([[-1]])) is None


def test_a_part_is_packed_alone_and_one_code_for_all():
    values = np.arange(24.0).reshape(2, 3, 4)
    codes, same = decimals(values), decimals(np.full((2, 2), 0.5))
    assert codes
    assert same
    kind, packed, width = codes.pack(slice(1, 2), slice(0, 2))
    assert (kind, width) == ("d", 4)
    assert [said(int(c)) for c in np.frombuffer(base64.b64decode(packed), "<u2")] == values[1, :2].ravel().tolist()
    assert same.pack(EVERY, EVERY) == ["d", 2 + 23 * 900 + 400, 1]
