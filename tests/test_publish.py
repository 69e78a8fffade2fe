"""The results page in the docs says what the tables say."""

import subprocess
import sys
from pathlib import Path

import polars as pl

SCRIPT = Path(__file__).parent.parent / "docs" / "results" / "publish.py"


def test_a_study_is_published_from_its_tables(finished: Path, tmp_path: Path):
    subprocess.run([sys.executable, SCRIPT, finished, tmp_path / "page", "vestige run tiny.yaml"], check=True)
    page = (tmp_path / "page" / "README.md").read_text()
    history = pl.read_parquet(finished / "runs/late/seed-1/history.parquet").filter(pl.col("split") == "test")
    late = next(line for line in page.splitlines() if line.startswith("| late |"))
    assert late.split(" | ")[2].rstrip(" |") == f"{history.sort('step')['top1'].tail(3).mean():.4f}"
    assert "### C1 Emergence: fewer than 3 seeds" in page
    assert "vestige run tiny.yaml" in page
    for figure in (finished / "report/figures").glob("*.png"):
        assert (tmp_path / "page" / figure.name).read_bytes() == figure.read_bytes()
        assert f"]({figure.name})" in page
