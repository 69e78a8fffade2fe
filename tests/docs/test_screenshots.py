"""The script that takes the pictures of a report, on the report of a small study."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_blocks import ROOT
from PIL import Image

pytest.importorskip("playwright", reason="pictures are taken by playwright (pip install playwright)")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (apt-get install chromium)")


def test_it_takes_both_colours_at_a_width(finished: Path, tmp_path: Path):
    script, report = ROOT / "docs/images/screenshots.py", finished / "report/index.html"
    options = ["--widths", "380", "--sections", "verdicts", "F1", "--height", "500"]
    done = subprocess.run(
        [sys.executable, str(script), str(report), str(tmp_path), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    grounds = {}
    for scheme in ("light", "dark"):
        with Image.open(tmp_path / f"report-380-{scheme}.webp") as picture:
            assert (picture.width, picture.height) == (380, 1002)
            assert len(picture.convert("L").getcolors()) > 50
            grounds[scheme] = picture.convert("L").getpixel((2, 300))
    assert grounds["light"] > 200
    assert grounds["dark"] < 60
