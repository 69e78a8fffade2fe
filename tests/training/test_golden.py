"""Training gives the loss curves it gave before."""

import json

import pytest
from golden_curves import FILE, MODES, curve

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_intervention_has_a_curve():
    assert set(GOLDEN) == set(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_golden_curve(mode, tmp_path):
    found = curve(mode, tmp_path)
    assert set(found) == set(GOLDEN[mode])
    for name, values in GOLDEN[mode].items():
        assert found[name] == pytest.approx(values, rel=1e-4), (
            f"{name} has changed: if that is meant, run tests/training/golden_curves.py --write"
        )
