"""The documentation builds without a warning, and its reference says all that there is."""

import re
import subprocess
import sys
from dataclasses import fields
from html import unescape
from pathlib import Path

import pytest
from page_blocks import ROOT

import vestige
from vestige import cli
from vestige.config import StudyConfig
from vestige.runs.tables import COLUMNS, SCHEMAS

pytest.importorskip("sphinx", reason="the documentation is built with the extra `docs`")
pytest.importorskip("myst_nb", reason="the documentation is built with the extra `docs`")


def build(out: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", *options]
    done = subprocess.run(
        [*command, "-d", str(out.parent / "doctrees"), str(ROOT / "docs"), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, its notebook not run."""
    return build(tmp_path_factory.mktemp("site") / "html", "-D", "nb_execution_mode=off")


def words_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_page_is_there(site: Path):
    for page in (ROOT / "docs").glob("**/*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()


def test_every_public_name_is_documented(site: Path):
    page = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in vestige.__all__:
        place = page.index(f'id="vestige.{name}"')
        assert "<p>" in page[place : place + 20_000], f"{name} has no docstring"
    assert "<strong>permutations</strong>" in page  # arguments are lists, not running text


def test_every_command_and_its_options_are_there(site: Path):
    text = words_of(site / "reference/command-line.html")
    for command in cli.COMMANDS:
        assert f"usage: vestige {command.__name__.lower()}" in text
        for field in fields(command):
            option = f"--{field.name.replace('_', '-')}"
            assert (field.name.upper() if field.name.startswith("study") else option) in text


def test_every_column_is_there_with_its_meaning(site: Path):
    text = re.sub(r"\W", "", words_of(site / "reference/tables.html"))
    for kind, columns in COLUMNS.items():
        assert list(columns) == list(SCHEMAS[kind])
        for name, (_, meaning) in columns.items():
            assert re.search(re.escape(name) + r"\w{1,60}" + re.escape(re.sub(r"\W", "", meaning)), text), name


def test_every_field_of_a_study_is_there(site: Path):
    text = words_of(site / "reference/study.html")
    for name, part in StudyConfig.model_fields.items():
        assert name in text
        for below in getattr(part.annotation, "model_fields", {}):
            assert below in text
    assert "<!-- generated" not in (site / "reference/study.html").read_text()


@pytest.mark.slow
def test_it_builds_with_its_notebook_run(tmp_path: Path):
    page = build(tmp_path / "html") / "tutorial/four-experiments.html"
    assert "anchor 0.000" in words_of(page)
    assert page.read_text().count("<img") >= 2
