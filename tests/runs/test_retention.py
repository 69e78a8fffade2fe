import itertools

import pytest

from vestige.runs.retention import kept_steps

DIGITS = (0, 1, 2, 5, 10, 20, 30, 40, 80, 120, 160, 180, 190, 200)


@pytest.mark.parametrize(
    ("steps", "most", "kept"),
    [
        (DIGITS, 6, (0, 2, 10, 20, 80, 200)),
        (DIGITS, 2, (0, 200)),
        (DIGITS, 1, (200,)),
        (DIGITS, 14, DIGITS),
        (DIGITS, 99, DIGITS),
        ((7,), 3, (7,)),
        ((), 3, ()),
        ((0, 5), 6, (0, 5)),
        ((0, 5, 6), 2, (0, 6)),
    ],
)
def test_the_first_the_last_and_equal_ratios_between(steps, most, kept):
    assert kept_steps(steps, most) == kept


def test_as_many_as_asked_for_whatever_the_schedule():
    for most, stride in itertools.product(range(1, 12), (1, 3, 7)):
        steps = [0, 1, 2, 3, *range(10, 300, stride)]
        assert len(kept_steps(steps, most)) == most
