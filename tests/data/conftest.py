"""Real images: scikit-learn's digits, and the Parquet files of `../shared/data` where they lie."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

SHARED = Path(os.environ.get("VESTIGE_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    # torchvision's JPEG decoder has its end announced; vestige goes on with Pillow's then.
    config.addinivalue_line("filterwarnings", "ignore:The image decoding and encoding:DeprecationWarning")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images (N, 8, 8), uint8 0..255, and their labels."""
    bunch = load_digits()
    return np.round(bunch.images / 16 * 255).astype(np.uint8), bunch.target


@pytest.fixture
def real() -> Callable[[str], Path]:
    """A Parquet file of real images by name; skips where it is not on this machine."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"{path} is not here (set VESTIGE_DATA to the folder of real images)")
        return path

    return find
