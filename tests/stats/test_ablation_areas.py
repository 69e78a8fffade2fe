"""Areas under ablation curves against areas computed by hand."""

import math

import pytest

from vestige.errors import VestigeError
from vestige.stats.effects import judgeable, normalised_area

# C = 10, intact 0.6: heights are (acc - 0.1) / 0.5.
AREAS = [
    ([0, 1], [0.6, 0.1], 0.5),
    ([0, 0.5, 1], [0.6, 0.6, 0.6], 1.0),
    ([0, 0.5, 1], [0.6, 0.35, 0.1], 0.5),  # heights 1, 0.5, 0
    ([0, 0.25, 1], [0.6, 0.1, 0.1], 0.125),  # a triangle of base 0.25
    (
        [0, 0.25, 0.5, 1],
        [0.6, 0.5, 0.2, 0.05],
        0.25 * 0.9 + 0.25 * 0.5 + 0.5 * 0.05,
    ),  # heights 1, .8, .2, -.1
    ([1, 0, 0.5], [0.1, 0.6, 0.35], 0.5),  # order does not matter
]


@pytest.mark.parametrize(("fractions", "top1", "area"), AREAS)
def test_area_is_the_one_computed_by_hand(fractions, top1, area):
    assert normalised_area(fractions, top1, classes=10) == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize(
    ("top1", "classes", "expected"),
    [
        (0.2, 10, True),  # 2/C
        (0.199, 10, False),
        (0.06, 100, True),  # 1/C + 0.05, which floating point puts above 0.06
        (0.059, 100, False),
        (1.0, 2, True),
        (0.99, 2, False),
        (math.nan, 10, False),
    ],
)
def test_judgeable_needs_enough_above_chance(top1, classes, expected):
    assert judgeable(top1, classes) is expected


def test_area_of_a_network_near_chance_is_nan():
    assert math.isnan(normalised_area([0, 1], [0.15, 0.1], classes=10))
    assert math.isnan(normalised_area([0, 0.5, 1], [0.6, math.nan, 0.1], classes=10))


@pytest.mark.parametrize("fractions", [[0, 0.5], [0.1, 1], [0, 0], [0, 0.5, 1]])
def test_a_curve_that_is_not_whole_is_refused(fractions):
    with pytest.raises(VestigeError, match="each fraction once, 0 and 1 among them"):
        normalised_area(fractions, [0.6, 0.1], classes=10)
