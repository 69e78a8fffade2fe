"""Numbers in sentences."""

import pytest

from vestige.claims.sentences import amount
from vestige.claims.terms import Unit
from vestige.stats.intervals import Interval


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        (Unit.AREA, "0.000 (95% CI 0.000 to 0.000, 5 seeds)"),
        (Unit.CSI, "0.000 (95% CI 0.000 to 0.000, 5 seeds)"),
        (Unit.SHARE, "0.00 (95% CI 0.00 to 0.00, 5 seeds)"),
        (Unit.ACCURACY, "0.0 points (95% CI 0.0 to 0.0, 5 seeds)"),
        (Unit.STEPS, "0 (95% CI 0 to 0, 5 seeds)"),
    ],
)
def test_what_rounds_to_zero_has_no_sign(unit, expected):
    assert amount(Interval(-0.0001, -0.0004, 0.0002, 5), unit) == expected


def test_what_does_not_keeps_its_sign():
    assert amount(Interval(-0.01, -0.02, 0.001, 3), Unit.AREA) == "-0.010 (95% CI -0.020 to 0.001, 3 seeds)"
