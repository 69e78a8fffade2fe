import pytest

from vestige.errors import ConfigError
from vestige.measurement.ablation.budget import memory_bytes
from vestige.measurement.keeping import free_memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (1234, 1234),
        ("1234", 1234),
        ("4GiB", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        ("500 MB", 5e8),
        ("1.5k", 1500),
        ("2TB", 2e12),
        ("7 b", 7),
        (2.5e9, 2.5e9),
        ("1e9", 1e9),
    ],
)
def test_what_users_write(text, expected):
    assert memory_bytes(text) == expected


def test_half_of_what_is_free():
    assert 0.3 < memory_bytes(None) / free_memory() < 0.7


@pytest.mark.parametrize("text", ["", "GiB", "4 XB", "-3", 0, -1, "1.2.3 MB", True, "4 G B", "nan"])
def test_what_is_no_amount(text):
    with pytest.raises(ConfigError, match=r"is no amount of memory\. Write bytes, '4GiB' or '500MB'"):
        memory_bytes(text)
