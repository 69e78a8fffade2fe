"""`vestige compare` and `vestige report --figures` on real, tiny studies: what they write, leave alone, and refuse."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from vestige.errors import ConfigError, StoreError
from vestige.study.comparing import compare


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts}


@pytest.fixture
def pair(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A whole study, and the same with one seed less and no verdicts."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("checkpoints", "state", "report"))
    settings = yaml.safe_load((second / "study.yaml").read_text())
    settings["seeds"] = settings["seeds"][:1]
    settings["measurements"]["linearity"]["pairs"] = 41
    (second / "study.yaml").write_text(yaml.safe_dump(settings))
    (second / "claims.json").unlink(missing_ok=True)
    return first, second


def test_two_studies_are_compared_and_neither_is_touched(vestige, pair, tmp_path: Path):
    before = [contents(folder) for folder in pair]
    done = vestige("compare", "first", "second")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "comparison: compared/first-and-second/index.html\n"
    page = (tmp_path / "compared/first-and-second/index.html").read_text()
    assert "2 settings differ: seeds and measurements.linearity.pairs." in page
    old = len(list(pair[1].glob("runs/baseline/seed-0/linearity-*/*.parquet")))
    assert f"B: {old} tables of linearity of other settings" in page
    assert "B: Only one seed (0): its curves are no means." in page
    assert "B: Its verdicts were judged now, for it has no claims.json." in page
    assert "A: Its verdicts were judged now" not in page
    assert [contents(folder) for folder in pair] == before


def test_the_images_and_weights_of_a_study_need_not_be_there(pair, tmp_path: Path):
    facts = json.loads((pair[1] / "facts.json").read_text())
    (pair[1] / "facts.json").write_text(json.dumps(facts | {"key": "of data that are not here"}))
    page = compare(*pair, out=tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    assert "Cross-validated CSI, m(t)" in page.read_text()


def test_what_cannot_be_compared_is_refused(pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"both are the same folder\. Give the folders of two studies"):
        compare("first", tmp_path / "first")
    with pytest.raises(ConfigError, match="opening the study 'nowhere': neither a study that ships"):
        compare("first", "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"a folder without study\.yaml"):
        compare("empty", "first")
    with pytest.raises(StoreError, match=r"opening the study 'digits': it was not begun in .*studies/digits"):
        compare("first", "digits")
    shutil.copy("first/study.yaml", "empty")
    with pytest.raises(StoreError, match="nothing of it is trained or measured with its settings"):
        compare("first", "empty")
    Path("second/facts.json").write_text("{}")
    with pytest.raises(StoreError, match=r"reading .*facts\.json: it is damaged"):
        compare("first", "second")
    assert not Path("compared").exists()


def test_some_figures_are_written_without_the_page(vestige, pair, tmp_path: Path):
    done = vestige("report", "first", "--figures", "f1,F3", "--columns", "1")
    assert done.returncode == 0, done.stderr
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert {"F1-selectivity-1col.pdf", "F1-selectivity-1col.png", "F3-linearity-1col.pdf"} <= set(names)
    assert all(name.startswith(("F1-", "F3-")) for name in names)
    assert sorted(path.name for path in (tmp_path / "first/report").rglob("*.*")) == sorted(names)
    assert not (tmp_path / "first/report/index.html").exists()


def test_a_figure_that_there_is_not_is_refused(vestige, pair, tmp_path: Path):
    done = vestige("report", "first", "--figures", "F1,F8")
    assert done.returncode == 2
    assert "this study has no figure 'F8'. Choose of F1, F2," in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "first/report").exists()


def test_options_of_other_commands_are_refused(vestige):
    done = vestige("compare", "a", "b", "--figures", "F1")
    assert done.returncode == 2
    assert "unknown option --figures" in done.stderr
    done = vestige("run", "--figures", "F1")
    assert done.returncode == 2
    assert "figures" in done.stderr
