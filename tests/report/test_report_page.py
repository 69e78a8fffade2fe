import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from made_up_report import CLASSES, made_up_manifests, made_up_study, made_up_tables
from reading_pages import as_number, cells, read_page

from vestige.report.cards import cards
from vestige.report.figures import Source, build_figures
from vestige.report.page import render, write_report
from vestige.runs.store import StudyFolder


def page_of(study, tables, claims, manifests):
    source = Source(study, tables, claims, manifests, (claims or {}).get("classes"))
    return read_page(render(source, build_figures(source)))


@pytest.fixture(scope="module")
def page(written):
    return read_page((written / "index.html").read_text())


def test_the_page_has_every_section_once(page):
    ids = [one.attributes["id"] for one in page if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert {"verdicts", "F1", "F2", "F2b", "F2c", "F3", "F4", "F6", "accuracy", "made"} <= set(ids)
    order = [section.attributes["id"] for section in page.all("section")]
    assert order == ["verdicts", "F1", "F2", "F2b", "F2c", "F3", "F4", "F6", "accuracy", "neurons", "methods", "made"]
    linked = {a.attributes["href"] for a in page.one("nav").all("a")}
    assert linked == {f"#{name}" for name in order}


def test_nothing_is_loaded_from_anywhere(page, written):
    for element in page:
        for name in ("src", "srcset", "data", "poster", "action", "xlink:href"):
            assert not element.attributes.get(name), (element.tag, name)
        if element.tag == "link":
            assert element.attributes["href"].startswith("data:")
        if element.tag == "a":
            assert element.attributes["href"].startswith(("#", "../")), "only within the page and the study's folder"
        assert "url(" not in (element.attributes.get("style") or "")
    assert not {"iframe", "object", "embed", "base", "img"} & {one.tag for one in page}
    style = "".join(page.one("style").texts)
    assert "url(" not in style
    assert "@import" not in style
    own = [script for script in page.all("script") if len("".join(script.texts)) < 20_000]
    assert not re.search(r"https?://|fetch\(|XMLHttp|import\(", "".join("".join(script.texts) for script in own))
    assert 4_000_000 < (written / "index.html").stat().st_size < 15_000_000


@pytest.mark.parametrize("column", ["csi", "csi_cv", "eta2"])
def test_selectivity_on_the_page_is_the_tables(page, tables, column):
    title = {
        "csi": "Class selectivity (CSI)",
        "csi_cv": "Cross-validated CSI",
        "eta2": "Variance explained by class (η²)",
    }
    shown = cells(page, "F1", 0, title[column])
    rows = tables["selectivity"].filter(condition="baseline")
    assert set(shown) == {str(step) for step in rows["step"].unique()}
    for step, stage in ((0, "layer1"), (4, "layer2"), (100, "layer3")):
        seeds = []
        for seed in (0, 1, 2):
            own = rows.filter(seed=seed, step=step, stage=stage)
            seeds.append(
                np.mean([v for v, dead in own.select(column, "dead").iter_rows() if not dead], dtype=np.float64)
            )
        assert as_number(shown[str(step)][stage]) == pytest.approx(np.mean(seeds), rel=6e-4)


def test_closed_gates_count_dead_neurons_too(page, tables):
    shown = cells(page, "F1", 0, "Closed gates")
    own = tables["selectivity"].filter(condition="baseline", step=8, stage="layer1")
    assert own["dead"].any()
    assert as_number(shown["8"]["layer1"]) == pytest.approx(own["closed"].cast(pl.Float64).mean(), rel=6e-4)


def test_areas_on_the_page_are_the_tables(page, tables):
    shown = cells(page, "F2", 0, "Area, replaced by zero")
    rows = (
        tables["cumulative"].filter(value="zero", order="activity-matched", step=32).filter(pl.col("scope") != "layer3")
    )
    areas = []
    for seed in (0, 1, 2):
        for scope in ("layer1", "layer2"):
            for draw in range(5):
                curve = rows.filter(seed=seed, scope=scope, draw=draw).sort("fraction")
                top1 = curve["top1"].cast(pl.Float64).to_numpy()
                height = (top1 - 1 / CLASSES) / (top1[0] - 1 / CLASSES)
                areas.append(np.trapezoid(height, curve["fraction"].to_numpy()))
    assert as_number(shown["32"]["activity-matched"]) == pytest.approx(np.mean(areas), rel=6e-4)
    assert shown["0"]["activity-matched"] == "–", "at step 0 the network is at chance: there is no area"


def test_linearity_on_the_page_is_the_tables_with_its_anchor(page, tables):
    shown = cells(page, "F3", 0, "Linear CKA with the logits")
    own = tables["linearity"].filter(measure="cka", layer="layer2.0", other="logits", step=16)
    assert as_number(shown["16"]["layer2.0"]) == pytest.approx(own["value"].mean(), rel=6e-4)
    assert as_number(shown["16"]["layer2.0, anchor"]) == pytest.approx(0.9)
    assert set(cells(page, "F3", 1, "Cross-layer correlation, k = 2")["0"]) == {
        "step", "most active", "highest CSI", "fixed channels",
        "most active, anchor", "highest CSI, anchor", "fixed channels, anchor",
    }  # fmt: skip


def test_measures_by_linear_models_are_on_the_page(page, written, tables):
    shown = cells(page, "F3", 0, "Ridge R² from whole maps")
    assert as_number(shown["16"]["input"]) == pytest.approx(0.35)
    assert as_number(shown["16"]["layer2.0, anchor"]) == pytest.approx(1)
    share = tables["linearity"].filter(measure="kalimeris", step=16)["value"].mean()
    found = as_number(cells(page, "F3", 0, "Explained by a linear model")["16"]["logits"])
    assert found == pytest.approx(share, rel=6e-4)
    text = (written / "index.html").read_text()
    assert "right on 40.2% of the images; F, Y and L tell 6 classes or groups of classes apart." in text
    assert "kalimeris-groups" not in text, "a number that never changes needs no panel"


def test_accuracy_on_the_page_is_the_tables(page, tables):
    through, final = cells(page, "accuracy", 0, "Test accuracy"), cells(page, "accuracy", 0, "Final accuracy")
    test = tables["history"].filter(split="test")
    at_16 = test.filter(condition="early", step=16)["top1"].mean()
    assert as_number(through["16"]["early"]) == pytest.approx(at_16, rel=6e-4)
    last = [test.filter(condition="mid", seed=s).sort("step")["top1"].to_list()[-3:] for s in (0, 1, 2)]
    assert as_number(final["mid"]["final accuracy"]) == pytest.approx(np.mean(last), rel=6e-4)
    assert as_number(final["mid"]["SD over seeds"]) == pytest.approx(np.std(np.mean(last, 1), ddof=1), rel=6e-4)
    behind = cells(page, "accuracy", 0, "Behind baseline")
    base, late = (test.filter(condition=name, step=100)["top1"].mean() for name in ("baseline", "late"))
    assert as_number(behind["100"]["late"]) == pytest.approx(100 * (base - late), rel=2e-3)


def test_a_branch_starts_at_its_parents_point(page):
    through = cells(page, "accuracy", 0, "Test accuracy")
    assert through["32"]["mid"] == through["32"]["baseline"]
    assert through["16"]["mid"] == "–"
    assert through["64"]["late"] == through["64"]["baseline"]


def test_verdicts_stand_with_estimate_interval_and_smallest_effect(page, claims):
    for claim in claims["claims"]:
        card = page.one("article", id=claim["id"])
        assert claim["title"] in card.one("h3").text
        assert claim["sentence"] in card.text
        assert [pill.attributes["data-verdict"] for pill in card.all("span", class_="pill")] == [claim["verdict"]]
        for clause in claim["clauses"]:
            row = card.one("li", data_clause=clause["id"])
            assert clause["verdict"] in row.text
            assert len(row.all("svg")) == (clause["estimate"] is not None)
    numbers = page.one(data_clause="C4.a").one(class_="numbers").text
    assert "−3.10 points" in numbers
    assert "95% interval −4.00 to −2.20" in numbers
    assert "expected at least 2 points" in numbers
    assert "3 seeds: 0, 1, 2" in numbers
    assert "0.476 (× 1.61)" in page.one(data_clause="C1.rise").text


def test_forest_plots_place_zero_effect_and_interval_in_order(page):
    svg = page.one(data_clause="C4.d").one("svg")
    place = {
        name: as_number(svg.one("line", class_=name).attributes["x1"].rstrip("%"))
        for name in ("f-zero", "f-d", "f-bar")
    }
    estimate = as_number(svg.one("circle", class_="f-est").attributes["cx"].rstrip("%"))
    assert 0 < place["f-zero"] < place["f-d"] < place["f-bar"] < estimate < 100
    # 0, 0.01 and 0.043 on one scale
    ratio = (estimate - place["f-zero"]) / (place["f-d"] - place["f-zero"])
    assert ratio == pytest.approx(4.3, rel=2e-2)
    assert "smallest effect 0.0100" in svg.attributes["aria-label"]


def test_intervals_are_left_out_of_a_claims_sentence(study, tables, claims, manifests):
    sentence = "It rose 2.40 times (95% CI 2.26 to 2.55, 5 seeds) (ablated to zero)."
    told = claims | {"claims": [claims["claims"][0] | {"sentence": sentence}]}
    page = page_of(study, {}, told, manifests)
    assert page.one(class_="sentence").text == "It rose 2.40 times (ablated to zero)."


@pytest.mark.parametrize(("verdict", "tone"), [("not measured", "tone-none"), ("fewer than 3 seeds", "tone-few")])
def test_verdicts_that_judge_nothing_look_neutral(study, claims, verdict, tone):
    told = claims | {"claims": [claims["claims"][0] | {"verdict": verdict}]}
    card = page_of(study, {}, told, {}).one("article")
    assert tone in card.classes
    assert "p = " not in card.text


def test_markup_in_names_is_shown_and_not_obeyed(manifests, claims):
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>&amp;'
    study = made_up_study(seeds=(0, 1, 2), description=evil)
    tables = {
        kind: frame.with_columns(pl.col("layer", "stage").replace("layer1", evil))
        if "stage" in frame.columns
        else frame
        for kind, frame in made_up_tables(study, (0, 4, 100)).items()
    }
    noted = claims["claims"][2] | {"note": evil, "beside": [evil], "title": evil}
    clauses = [one | {"note": evil, "statistic": evil} for one in claims["claims"][3]["clauses"]]
    told = claims | {"claims": [noted, claims["claims"][3] | {"clauses": clauses}]}
    source = Source(study, tables, told, manifests)
    text = render(source, build_figures(source))
    page = read_page(text)
    assert not page.all("img")
    assert len(page.all("script")) == 4
    assert evil in page.one("header").text
    assert evil in [th.text for th in page.one("section", id="F1").all("th")]
    data = next(one for one in page.all("script") if one.attributes.get("id") == "figure-data").texts
    assert "<" not in "".join(data)


def test_a_study_without_any_table_says_so():
    study = made_up_study(seeds=(7,))
    page = page_of(study, {}, None, {})
    verdicts = page.one("section", id="verdicts").text
    assert "The claims have not been judged yet." in verdicts
    assert "0 of 7 training runs are complete (0 unfinished, 7 not begun)." in verdicts
    assert "1 seed: fewer than 3 can support no claim." in verdicts
    for name in ("selectivity", "single-neuron ablation", "cumulative ablation", "linearity", "accuracy"):
        assert f"There is no table of {name}." in verdicts
    for figure in ("F1", "F2", "F2b", "F2c", "F3", "accuracy"):
        assert "left out of the study, or has not been made yet" in page.one("section", id=figure).text
    assert "Claim C4 has not been judged yet." in page.one("section", id="F4").text
    assert not page.all("figure")
    assert "No run has recorded its versions yet." in page.one("section", id="made").text


def test_a_study_without_claims_says_so(tables, manifests):
    study = made_up_study(seeds=(0, 1, 2), claims=None)
    page = page_of(study, tables, None, manifests)
    assert "This study registers no claims" in page.one("section", id="verdicts").text
    assert "claims nothing" in page.one("section", id="F4").text


def test_missing_runs_seeds_and_conditions_are_named(study, tables, claims, manifests):
    part = dict(tables)
    part["selectivity"] = tables["selectivity"].filter(~((pl.col("condition") == "early") & (pl.col("seed") == 1)))
    part["history"] = tables["history"].filter(pl.col("condition") != "late")
    page = page_of(study, part, claims, manifests)
    assert "Condition “early” has no measurement of selectivity of seed 1." in page.one("section", id="F1").text
    assert "Condition “late” has no training yet." in page.one("section", id="accuracy").text


def test_nan_is_a_gap_that_is_said(study, tables, claims, manifests):
    broken = tables["selectivity"].with_columns(
        csi_cv=pl.when(pl.col("step") == 8).then(float("nan")).otherwise(pl.col("csi_cv")).cast(pl.Float32)
    )
    page = page_of(study, dict(tables) | {"selectivity": broken}, claims, manifests)
    shown = cells(page, "F1", 0, "Cross-validated CSI")
    assert shown["8"] == {"step": "8", "layer1": "–", "layer2": "–", "layer3": "–"}
    assert shown["4"]["layer1"] != "–"
    lost = broken.filter(~pl.col("dead"), pl.col("csi_cv").is_nan()).height / broken.height
    assert f"{lost:.1%} of the rows have no cross-validated CSI (NaN)" in page.one("section", id="F1").text
    assert "NaN" not in "".join(page.one("script", id="figure-data").texts)


def test_a_measure_without_any_value_says_so(study, tables, claims, manifests):
    blank = tables["selectivity"].with_columns(eta2=pl.lit(float("nan"), dtype=pl.Float32))
    page = page_of(study, dict(tables) | {"selectivity": blank}, claims, manifests)
    empty = page.one("section", id="F1").all(class_="empty")
    assert empty
    assert empty[0].text == "No value: every one is missing (NaN)."


def test_one_seed_is_no_mean(tables, manifests):
    study = made_up_study(seeds=(0,))
    one = {kind: frame.filter(seed=0) for kind, frame in tables.items()}
    page = page_of(study, one, None, {k: v for k, v in manifests.items() if k[1] == 0})
    assert "Only one seed (0)" in page.one("section", id="F1").text
    assert cells(page, "accuracy", 0, "Final accuracy")["baseline"]["SD over seeds"] == "–"


def test_how_it_was_made(page, study):
    made = page.one("section", id="made").text
    for said in (
        "resnet8, width 16",
        "torch 2.15.0",
        "A processor",
        "steps 0 to 12, from pilot seeds 100 and 101",
    ):
        assert said in made, said
    assert (
        "suppresses variance explained by class (η²), α = −20, labels permuted in every batch, "
        "from the start to step 12" in made
    )
    assert "2 min 38 s over all runs" in made, "21 runs of 7.5 s"
    assert re.search(r"early_window: start: 0\S* stop: 12", page.one("section", id="made").one("pre").text)
    runs = page.one(aria_label="Runs").all("tr")
    assert len(runs) == 1 + len(study.conditions) * 3
    assert any(row.text == "late 2 complete 100 baseline at step 64 7.5 s" for row in runs)


def test_an_early_window_in_epochs_is_shown_in_steps_as_judged_else_by_the_history(tables, manifests, claims):
    study = made_up_study((0, 1, 2), claims={"early_window": {"stop": 2.5, "unit": "epochs"}})
    said = "epochs 0 to 2.5 (steps 0 to {}), not taken from pilot seeds"
    for record, steps in ((claims | {"early_window": 12}, 12), (claims | {"early_window": None}, 10), (None, 10)):
        source = Source(study, tables, record, manifests)
        assert source.early == (0, steps)
        made = read_page(render(source, ())).one("section", id="made").text
        assert said.format(steps) in made
    young = tables["history"].filter(pl.col("epoch") < 1)
    source = Source(study, {"history": young}, None, manifests)
    assert source.early is None
    assert "epochs 0 to 2.5, not taken" in read_page(render(source, ())).one("section", id="made").text


def test_a_warning_of_the_verdicts_keeps_its_capitals(study, claims):
    warned = page_of(study, {}, claims | {"note": "training is at epoch 1 of 2: T is not the end"}, {})
    assert "Training is at epoch 1 of 2: T is not the end." in warned.one("section", id="verdicts").text


def test_runs_made_by_different_versions_are_told_apart(study):
    manifests = made_up_manifests(study)
    made = manifests["early", 1].made
    other = made | {"versions": made["versions"] | {"torch": "2.11.0"}}
    manifests["early", 1] = replace(manifests["early", 1], made=other)
    said = page_of(study, {}, None, manifests).one("section", id="made").text
    assert "Runs differ in torch: 2.11.0 / 2.15.0." in said


def test_the_same_tables_give_the_same_bytes(written, study, tables, claims, manifests, tmp_path):
    write_report(StudyFolder(tmp_path), study, tables, claims, manifests)
    files = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    again = sorted(
        path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report").rglob("*") if path.is_file()
    )
    assert files == again
    assert len(files) == 21
    for name in files:
        assert (written / name).read_bytes() == (tmp_path / "report" / name).read_bytes(), name
    before = {name: (tmp_path / "report" / name).stat().st_mtime_ns for name in files}
    write_report(StudyFolder(tmp_path), study, tables, claims, manifests)
    assert before == {name: (tmp_path / "report" / name).stat().st_mtime_ns for name in files}


def test_figures_of_an_earlier_report_do_not_stay(study, tmp_path):
    figures = tmp_path / "report" / "figures"
    figures.mkdir(parents=True)
    for name in ("F2-ablation.pdf", "my-own.pdf"):
        (figures / name).write_text("x")
    write_report(StudyFolder(tmp_path), study, {}, None, {})
    assert [path.name for path in figures.iterdir()] == ["my-own.pdf"]


def test_importing_the_report_is_light():
    heavy = ("torch", "matplotlib", "plotly", "jinja2")
    code = f"import sys, vestige.report.page; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_log_ratio_of_effect_is_shown_as_a_multiple(page):
    assert f"expected at least {math.log(1.2):.3g} (× 1.2)" in page.one(data_clause="C1.rise").text


def test_a_clause_says_how_many_seeds_would_decide_it(claims):
    records = [clause for claim in claims["claims"] for clause in claim["clauses"]]
    open_one = next(clause for clause in records if clause["verdict"] == "inconclusive")
    shown = {row.id: row.seeds for card in cards({"claims": claims["claims"]}) for row in card.clauses}
    assert shown[open_one["id"]] == "3 seeds: 0, 1, 2"
    told = {**claims["claims"][0], "clauses": [open_one | {"seeds_to_decide": 12}]}
    (card,) = cards({"claims": [told]})
    assert card.clauses[0].seeds == "3 seeds: 0, 1, 2; 12 would decide in 4 of 5 studies, if alike"


@pytest.mark.parametrize(
    ("verdict", "direction", "said"),
    [
        (
            "inconclusive",
            "at least",
            "; with this spread they support a true value of 3.10 points or more in 4 of 5 studies",
        ),
        (
            "not supported",
            "below",
            "; with this spread they support a true value of 3.10 points or less in 4 of 5 studies",
        ),
        ("supported", "at least", ""),
    ],
)
def test_a_clause_that_does_not_hold_says_what_its_seeds_could_have_shown(claims, verdict, direction, said):
    told = {"verdict": verdict, "direction": direction, "unit": "accuracy", "detectable": 0.031}
    record = claims["claims"][0]["clauses"][0] | told | {"seeds": [0, 1, 2], "seeds_to_decide": None}
    (card,) = cards({"claims": [claims["claims"][0] | {"clauses": [record]}]})
    assert card.clauses[0].seeds == "3 seeds: 0, 1, 2" + said
