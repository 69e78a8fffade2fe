"""C4 needs its manipulation: both windows must have cut selectivity, on the seeds that harm is measured on."""

import polars as pl
import pytest
from synthetic import Effects, judged, verdicts

from vestige.claims.sentences import TIMING_MATTERS

HARM = Effects().harm


@pytest.mark.parametrize("arm", ["early", "late"])
def test_a_window_that_does_not_cut_selectivity_leaves_c4_open(arm):
    claim = judged(Effects(cut={"early": 0.9, "late": 0.9} | {arm: 0.6}))["C4"]
    assert set(verdicts(claim).values()) == {"supported"}
    assert claim["verdict"] == "inconclusive"
    assert f"C4.cut.{arm}: fails" in claim["note"]
    check = next(item for item in claim["beside"] if item["id"] == f"C4.cut.{arm}")
    assert (check["verdict"], check["estimate"]) == ("fails", pytest.approx(0.6, abs=1e-6))


def test_without_its_check_c4_finds_nothing_by_name():
    not_by_selectivity = HARM | {"eta2-early": 0.01}
    checked = judged(Effects(harm=not_by_selectivity))["C4"]
    assert checked["finding"] == TIMING_MATTERS
    uncut = judged(Effects(harm=not_by_selectivity, cut={"early": 0.9, "late": 0.6}))["C4"]
    assert verdicts(uncut) == verdicts(checked)
    assert uncut["finding"] == ""
    assert TIMING_MATTERS not in uncut["sentence"]


def test_a_failed_check_leaves_even_a_contradiction_open():
    assert (
        judged(Effects(cut={"early": 0.1, "late": 0.9}, harm=HARM | {"late": 0.1}))["C4"]["verdict"] == "inconclusive"
    )


def test_a_check_that_could_not_be_made_leaves_c4_open():
    def without_late(table):
        return table.filter(pl.col("condition") != "late")

    claim = judged(change={"selectivity": without_late})["C4"]
    assert claim["verdict"] == "inconclusive"
    assert "C4.cut.late: not measured" in claim["note"]


@pytest.mark.parametrize("measured", [[3], [0, 1, 2, 3]])
def test_a_check_must_have_been_made_on_every_seed_that_c4_rests_on(measured):
    def of_some(table):
        arms = pl.col("condition").is_in(["early", "late"])
        return table.filter(~arms | pl.col("seed").is_in(measured))

    claim = judged(change={"selectivity": of_some})["C4"]
    assert set(verdicts(claim).values()) == {"supported"}
    assert claim["verdict"] == "inconclusive"
    assert "C4.cut.early: not measured, C4.cut.late: not measured" in claim["note"]
    assert {one["verdict"] for one in claim["beside"] if one["id"] in ("C4.cut.early", "C4.cut.late")} == {
        "not measured"
    }


def test_a_check_is_of_the_seeds_that_c4_rests_on():
    """Seed 4, of which the window failed, has no harm: what is judged are the others."""

    def failed(table):
        early = (pl.col("condition") == "early") & (pl.col("seed") == 4) & (pl.col("step") <= 12)
        return table.with_columns(csi_cv=pl.when(early).then(9.0).otherwise("csi_cv").cast(pl.Float32))

    def without_4(table):
        return table.filter(~pl.col("condition").is_in(["early", "late", "mid"]) | (pl.col("seed") != 4))

    assert judged(change={"selectivity": failed})["C4"]["verdict"] == "inconclusive"
    claim = judged(change={"selectivity": failed, "history": without_4})["C4"]
    assert (claim["verdict"], claim["clauses"][0]["seeds"]) == ("supported", [0, 1, 2, 3])


def test_a_cut_of_exactly_four_fifths_holds_though_tables_are_rounded():
    claim = judged(Effects(cut={"early": 0.8, "mid": 0.8, "late": 0.8}))["C4"]
    assert claim["verdict"] == "supported"
    assert judged(Effects(cut={"early": 0.7999, "late": 0.8}))["C4"]["verdict"] == "inconclusive"
