"""What went wrong or is not there yet is said on the page; names that look like markup are shown as they are."""

from dataclasses import replace

import polars as pl
import pytest
from made_up_report import made_up_manifests, made_up_study, made_up_tables
from reading_pages import read_page

from vestige.report import page as page_module
from vestige.report.figures import Source, build_figures
from vestige.report.page import render

STEPS = (0, 4, 100)
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def _without_plotly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "plotly_source", lambda: "")
        yield


def page_of(study, tables, manifests):
    source = Source(study, tables, None, manifests)
    return read_page(render(source, build_figures(source)))


def test_a_run_that_failed_is_named_with_its_reason():
    study = made_up_study((0, 1, 2))
    manifests = made_up_manifests(study)
    broken = replace(manifests["early", 1], complete=False, failed="the loss is NaN at step 7")
    page = page_of(study, made_up_tables(study, STEPS), manifests | {("early", 1): broken})
    made = page.one("section", id="made").text
    assert "Training of early, seed 1, stopped: the loss is NaN at step 7." in made
    assert "early 1 stopped 100" in made
    assert "20 of 21 training runs are complete (1 unfinished, 0 not begun)." in page.one("section", id="verdicts").text


def test_a_study_without_ablation_says_so_and_its_methods_are_silent():
    study = made_up_study((0, 1, 2), measurements={"ablation": None, "cumulative": None})
    tables = made_up_tables(study, STEPS)
    kept = {kind: tables[kind] for kind in ("selectivity", "linearity", "history")}
    page = page_of(study, kept, made_up_manifests(study))
    for figure in ("F2", "F2b", "F2c"):
        assert "it was left out of the study, or has not been made yet" in page.one("section", id=figure).text
    assert "ablat" not in page.one("section", id="methods").text


def test_a_condition_that_looks_like_markup_is_shown():
    study = made_up_study((0, 1, 2))
    renamed = {
        kind: table.with_columns(pl.col("condition").replace("late", HOSTILE))
        for kind, table in made_up_tables(study, STEPS).items()
    }
    page = page_of(study, renamed, made_up_manifests(study))
    assert not page.all("img")
    assert any(HOSTILE in option.text for option in page.one("section", id="F1").all("option"))


def test_tables_and_manifests_are_linked_within_the_studys_folder():
    study = made_up_study((0, 1))
    page = page_of(study, made_up_tables(study, STEPS), made_up_manifests(study))
    made = page.one("section", id="made")
    links = {a.attributes["href"] for a in made.all("a")}
    assert {"../runs/", "../study.yaml", "../runs/late/seed-1/manifest.json"} <= links
    assert len([link for link in links if link.endswith("manifest.json")]) == 14
    rows = [row.text for row in made.one(aria_label="Tables").all("tr")]
    assert rows[1:] == [
        "history 14 – runs/*/*/history.parquet",
        "selectivity-corrected-test 14 14 B runs/*/*/selectivity-corrected-test/*.parquet",
    ]


def test_the_methods_and_their_bibtex_stand_on_the_page():
    study = made_up_study((0, 1, 2))
    section = page_of(study, made_up_tables(study, STEPS), made_up_manifests(study)).one("section", id="methods")
    first = section.one(id="methods-text").all("p")[0]
    assert first.one("b").text == "Training."
    assert first.text.startswith("resnet8 (width 16; He et al. 2016) was trained on")
    bib = section.one("pre", id="methods-bibtex").text
    assert "@inproceedings{morcos2018importance," in bib
    assert "St{\\'e}phane" in bib
    assert [button.attributes["data-copy"] for button in section.all("button")] == ["methods-text", "methods-bibtex"]
