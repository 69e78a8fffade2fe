"""Two studies side by side: what the page says is what their tables and verdicts say."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from made_up_report import made_up_claims, made_up_manifests, made_up_study, made_up_tables
from reading_pages import as_number, cells, read_page
from scipy.stats import ttest_ind

from vestige.report.compare import render_comparison, write_comparison
from vestige.report.compare_figures import comparison_figures
from vestige.report.compare_settings import made_differently, setting_rows
from vestige.report.compare_side import Side
from vestige.report.compare_verdicts import pair_claims, summary, welch

STEPS = (0, 1, 4, 12, 64, 92, 96, 100)


def side(label, study, *, tables=None, claims=None, manifests=None, **more) -> Side:
    made = made_up_tables(study, STEPS) if tables is None else tables
    return Side(label, f"folder-{label}", study, made, claims, manifests or made_up_manifests(study), **more)


def other_claims(study):
    """C2 and its first clause are supported here, and C4.a costs 4 points more."""
    claims = made_up_claims(study)
    claims["claims"][1] = claims["claims"][1] | {"verdict": "supported"}
    claims["claims"][1]["clauses"][0] |= {"verdict": "supported"}
    first = claims["claims"][3]["clauses"][0]
    values = [value - 0.04 for value in first["values"]]
    first |= {"estimate": first["estimate"] - 0.04, "low": -0.08, "high": -0.062, "values": values}
    return claims


@pytest.fixture(scope="module")
def a():
    study = made_up_study((0, 1, 2))
    return side("A", study, claims=made_up_claims(study))


@pytest.fixture(scope="module")
def b():
    study = made_up_study((0, 1, 2, 3), name="other", recipe={"epochs": 25, "lr": 0.2})
    return side("B", study, claims=other_claims(study))


@pytest.fixture(scope="module")
def page(a, b):
    return read_page(render_comparison(a, b))


def test_every_clause_has_both_estimates_intervals_and_verdicts(page, a, b):
    for claim_a, claim_b in zip(a.claims["claims"], b.claims["claims"], strict=True):
        card = page.one("article", id=claim_a["id"])
        assert ("verdicts differ" in card.one(class_="card-head").text) == (claim_a["id"] == "C2")
        for first, second in zip(claim_a["clauses"], claim_b["clauses"], strict=True):
            shown = card.one("li", data_clause=first["id"])
            for label, clause in (("A", first), ("B", second)):
                line = shown.one("p", data_side=label)
                assert clause["verdict"] in line.text
                assert f"{len(clause['seeds'])} seeds" in line.text or not clause["seeds"]
            assert ("verdicts differ" in shown.text) == (first["verdict"] != second["verdict"])
    harm = page.one("li", data_clause="C4.a")
    assert "−3.10 points 95% interval −4.00 to −2.20" in harm.one("p", data_side="A").text
    assert "−7.10 points 95% interval −8.00 to −6.20" in harm.one("p", data_side="B").text
    assert "B − A −4.00 points" in harm.text
    assert "the estimates differ" in harm.text
    assert "it holds 0, so the verdicts differ where the estimates are not shown to" in page.one(
        data_clause="C2.early.zero"
    ).text  # fmt: skip


def test_the_page_begins_with_what_agrees_and_what_does_not(page):
    said = page.one("section", id="glance").text
    assert "3 of 4 claims judged in both have the same verdict in each." in said
    assert "C2 Importance: not supported in A, supported in B." in said
    assert "2 settings differ: recipe.lr and seeds." in said


def test_both_intervals_of_a_clause_are_drawn_on_one_scale(a, b):
    forest = {clause.id: clause.forest for pair in pair_claims(a, b) for clause in pair.clauses}["C4.a"]
    first, second = forest.places
    per_unit = (forest.zero - first.estimate) / 0.031
    assert (forest.zero - second.estimate) / 0.071 == pytest.approx(per_unit, rel=1e-3)
    assert (forest.zero - second.low) / 0.08 == pytest.approx(per_unit, rel=1e-3)
    assert len(first.seeds), len(second.seeds) == (3, 4)
    assert forest.smallest[0] is not None
    assert forest.smallest[1] is None, "both have the same smallest effect"


@pytest.mark.parametrize("sizes", [(3, 4), (2, 9), (5, 5)])
def test_welchs_interval_is_scipys(sizes):
    rng = np.random.default_rng(sum(sizes))
    x, y = rng.normal(0, 1, sizes[0]), rng.normal(0.7, 3, sizes[1])
    found = welch(x.tolist(), y.tolist())
    expected = ttest_ind(y, x, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.estimate == pytest.approx(y.mean() - x.mean())


def test_one_seed_has_a_difference_and_no_interval():
    found = welch([1.0], [3.0, 3.5])
    assert found.estimate == 2.25
    assert math.isnan(found.low)
    assert welch([1.0, 1.0], [2.0, 2.0]).high == 1.0


def test_settings_that_differ_are_named_with_both_values(a, b, page):
    assert setting_rows(a, b) == [("recipe.lr", "0.1", "0.2"), ("seeds", "[0, 1, 2]", "[0, 1, 2, 3]")]
    assert "recipe.lr 0.1 0.2" in page.one("section", id="settings").text
    assert setting_rows(a, a) == []
    conditions = {"baseline": {}, "early": {"interventions": [{"kind": "selectivity", "window": {"stop": 24}}]}}
    fewer = made_up_study((0, 1, 2), conditions=conditions, claims=None)
    rows = {field: (x, y) for field, x, y in setting_rows(a, side("B", fewer))}
    assert rows["conditions.late"][1] == "not there"
    assert rows["conditions.early.interventions"] == (
        "suppresses class selectivity (CSI), α = −20, from the start to step 12",
        "suppresses class selectivity (CSI), α = −20, from the start to step 24",
    )


def test_versions_that_differ_are_named(a):
    manifests = {
        run: replace(one, made=one.made | {"versions": one.made["versions"] | {"torch": "2.11.0"}})
        for run, one in a.manifests.items()
    }
    assert made_differently(a, replace(a, manifests=manifests)) == [("torch", "2.15.0", "2.11.0")]


def test_curves_are_the_tables(page, a, b):
    shown = cells(page, "selectivity", 0, "Cross-validated CSI, m(t)")
    for one in (a, b):
        rows = one.tables["selectivity"].filter(condition="baseline", step=4)
        seeds = []
        for seed in one.study.seeds:
            layers = []
            for stage in ("layer1", "layer2"):
                own = rows.filter(seed=seed, stage=stage).select("csi_cv", "dead").iter_rows()
                layers.append(np.mean([value for value, dead in own if not dead], dtype=np.float64))
            seeds.append(np.mean(layers))
        assert as_number(shown["4"][one.name]) == pytest.approx(np.mean(seeds), rel=6e-4)
    tests = b.tables["history"].filter(condition="baseline", split="test", step=100)
    assert as_number(cells(page, "accuracy", 0, "Test accuracy")["100"]["B · other"]) == pytest.approx(
        tests["top1"].mean(), rel=6e-4
    )
    at_epoch_1 = cells(page, "linearity", 1, "Midpoint nonlinearity of the logits")["1.000"]
    at_step_4 = cells(page, "linearity", 0, "Midpoint nonlinearity of the logits")["4"]
    assert at_epoch_1["A · made-up"] == at_step_4["A · made-up"]


def test_ablation_areas_are_the_claims(a, b):
    figure = {one.id: one for one in comparison_figures(a, b)}["ablation"]
    panel = next(p for p in figure.views[0].panels if p.title == "D(t), replaced by zero")
    area = next(p for p in figure.views[0].panels if p.title.startswith("Area, most selective first, replaced by zero"))
    rows = a.tables["cumulative"].filter(value="zero", step=64).filter(pl.col("scope") != "layer3")

    def mean_area(order: str) -> float:
        found = []
        for (_, _, _), curve in rows.filter(order=order).sort("fraction").group_by("seed", "scope", "draw"):
            top1 = curve["top1"].cast(pl.Float64).to_numpy()
            found.append(np.trapezoid((top1 - 0.1) / (top1[0] - 0.1), curve["fraction"].to_numpy()))
        return float(np.mean(found))

    at = {row[0]: row[1] for row in area.table.rows}
    assert at[64] == pytest.approx(mean_area("csi-desc"), rel=1e-5)
    advantage = {row[0]: row[1] for row in panel.table.rows}
    assert advantage[64] == pytest.approx(mean_area("activity-matched") - mean_area("csi-desc"), rel=1e-4)


def test_harm_is_compared_where_the_names_agree(a):
    conditions = {
        "baseline": {},
        "early": {"interventions": [{"kind": "selectivity", "window": {"stop": 24}}]},
        "mine": {"interventions": [{"kind": "noise"}]},
    }
    study = made_up_study((0, 1, 2), conditions=conditions, claims=None)
    other = side("B", study)
    harm = comparison_figures(a, other)[-1]
    (panel,) = harm.views[0].panels
    assert panel.y.names == ("early (A)", "early (B)")
    finals = [
        [
            np.mean(one.tables["history"].filter(condition=c, seed=s, split="test").sort("step")["top1"].to_list()[-3:])
            for c in ("baseline", "early")
        ]
        for one in (a, other)
        for s in (0, 1, 2)
    ]
    by_seed = [100 * (base - early) for base, early in finals]
    assert [row[2] for row in panel.table.rows] == pytest.approx([np.mean(by_seed[:3]), np.mean(by_seed[3:])])
    said = " ".join(harm.missing)
    assert "A alone has a harm of mid, late, always, eta2-early and permuted-eta2-early." in said
    assert "B alone has a harm of mine." in said
    assert "Of one name, and not the same intervention in both: early." in said


def test_what_is_missing_is_said_of_its_study(a):
    study = made_up_study((5,))
    tables = made_up_tables(study, STEPS)
    bad = pl.when(pl.col("neuron") == 3).then(math.nan).otherwise(pl.col("csi_cv")).alias("csi_cv")
    tables |= {"selectivity": tables["selectivity"].with_columns(bad), "cumulative": tables["cumulative"].clear()}
    manifests = made_up_manifests(study)
    manifests["early", 5] = replace(manifests["early", 5], complete=False, failed="loss is NaN at step 7")
    other = side(
        "B",
        study,
        tables=tables,
        manifests=manifests,
        note="judged now, for it has no claims.json",
        left_out={"linearity": 4},
    )
    page = read_page(render_comparison(a, other))
    said = page.one(aria_label="What is missing").text
    assert "B: 6 of 7 training runs complete." in said
    assert "B: Training of early, seed 5, stopped: loss is NaN at step 7." in said
    assert "B: 1 seed: fewer than 3 can support no claim." in said
    assert "B: Its verdicts were judged now, for it has no claims.json." in said
    assert "B: 4 tables of linearity of other settings, or by another version of vestige: left out." in said
    assert "A:" not in said
    assert "B: There is no cumulative ablation" in page.one("section", id="ablation").text
    selectivity = page.one("section", id="selectivity").text
    assert "B: Only one seed (5): its curves are no means." in selectivity
    assert "of the rows have no cross-validated CSI (NaN)" in selectivity
    assert "B has not judged it yet." in page.one("article", id="C1").text
    assert "No claim was judged in both studies." in page.one("section", id="glance").text


def test_studies_without_claims_are_compared_all_the_same():
    study = made_up_study((0, 1, 2), claims=None)
    pair = [side(label, study) for label in "AB"]
    assert pair_claims(*pair) == []
    assert summary([]) == ["No claim was judged in both studies."]
    page = read_page(render_comparison(*pair))
    assert "Neither study has judged a claim." in page.one("section", id="verdicts").text
    assert "both studies have the same settings" in page.one("section", id="settings").text


def test_markup_in_texts_is_shown_and_not_obeyed(a):
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
    study = made_up_study((0, 1, 2), description=evil)
    claims = made_up_claims(study)
    claims["claims"][0] |= {"title": evil, "sentence": evil, "note": evil}
    claims["claims"][0]["clauses"][0] |= {"statistic": evil, "note": evil}
    other = side("B", study, claims=claims, note=evil)
    page = read_page(render_comparison(replace(other, label="A"), other))
    assert not page.all("img")
    assert len(page.all("script")) == 4
    assert evil in page.one("header").text
    data = next(one for one in page.all("script") if one.attributes.get("id") == "figure-data").texts
    assert "<" not in "".join(data)


def test_nothing_is_loaded_and_each_name_is_used_once(page):
    for element in page:
        assert not element.attributes.get("src")
        if element.tag in ("a", "link"):
            assert element.attributes["href"].startswith(("#", "data:"))
    ids = [one.attributes["id"] for one in page if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert {a.attributes["href"][1:] for a in page.one("nav").all("a")} <= set(ids)


def test_the_same_studies_give_the_same_bytes(a, b, tmp_path):
    first = write_comparison(tmp_path, a, b).read_bytes()
    assert write_comparison(tmp_path / "again", a, b).read_bytes() == first
