"""Synthetic studies that give every verdict there is to clauses and claims, and what is said of gaps."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import polars as pl
import pytest
from synthetic import LAST, Effects, judged, make_study, verdicts

from vestige.claims.sentences import (
    CLOSE_THROUGHOUT,
    INDEX_ONLY,
    MORE_LINEAR,
    MORE_LINEAR_ONLY,
    TIMING_MATTERS,
    UNCORRECTED,
)
from vestige.claims.verdicts import judge_study

HARM = Effects().harm


def at_end(**corners):
    return {0: 0.10, 4: 0.24, 24: 0.14, LAST: 0.12} | {int(k.strip("_")): v for k, v in corners.items()}


CASES = {
    # claim, effects -> clause verdicts that differ from "supported", claim verdict, finding
    "C1 as published": ("C1", Effects(), {}, "supported", ""),
    "C1 class information stays": (
        "C1",
        Effects(eta2={0: 0.1, 4: 0.3, LAST: 0.3}),
        {},
        "supported",
        INDEX_ONLY,
    ),
    "C1 class information grows": (
        "C1",
        Effects(eta2={0: 0.1, 4: 0.3, LAST: 0.5}),
        {},
        "supported",
        INDEX_ONLY,
    ),
    "C1 no rise": (
        "C1",
        Effects(csi=at_end(_0=0.24)),
        {"rise": "not supported"},
        "not supported",
        "",
    ),
    "C1 falls from the start": (
        "C1",
        # The untrained network is on top in every seed, but one step: t* is 0 and nothing rises.
        Effects(csi={0: 0.30, 4: 0.20, 24: 0.14, LAST: 0.12}, spread={"csi": 0.0}),
        {"rise": "not supported"},
        "not supported",
        "",
    ),
    "C1 rises to the end": (
        "C1",
        Effects(csi={0: 0.1, LAST: 0.3}, spread={"csi": 0.0}),
        {"fall": "not supported", "rapid": "inconclusive"},
        "not supported",
        "",
    ),
    "C1 slow recession": (
        "C1",
        Effects(csi=at_end(_24=0.22)),
        {"rapid": "contradicted"},
        "contradicted",
        "",
    ),
    "C1 recedes completely": (
        "C1",
        Effects(csi=at_end(_24=0.03, _100=0.01)),
        {"remains": "not supported"},
        "not supported",
        "",
    ),
    "C1 seeds disagree": (
        "C1",
        Effects(spread={"csi": 1.2}),
        {"rise": "inconclusive", "fall": "inconclusive", "rapid": "inconclusive"},
        "inconclusive",
        "",
    ),
    "C1 index alone falls, and never rose": (
        "C1",
        Effects(csi=at_end(_0=0.24), eta2={0: 0.1, 4: 0.3, LAST: 0.3}),
        {"rise": "not supported"},
        "not supported",
        INDEX_ONLY,
    ),
    "C1 both stay": (
        "C1",
        Effects(csi=at_end(_24=0.235, _100=0.23), eta2={0: 0.1, 4: 0.3, LAST: 0.3}),
        {"fall": "not supported", "rapid": "inconclusive"},
        "not supported",
        "",
    ),
    "C2 as published": ("C2", Effects(), {}, "supported", ""),
    "C2 only when zeroed": (
        "C2",
        Effects(advantage={"zero": (0.12, 0.02), "mean": (0.01, 0.0)}),
        {"early.mean": "not supported", "change.mean": "not supported"},
        "not supported",
        "",
    ),
    "C2 as important later": (
        "C2",
        Effects(advantage={"zero": (0.12, 0.12), "mean": (0.12, 0.12)}),
        {"change.zero": "not supported", "change.mean": "not supported"},
        "not supported",
        "",
    ),
    "C2 selective neurons matter less": (
        "C2",
        Effects(advantage={"zero": (-0.12, 0.02), "mean": (-0.12, 0.02)}),
        dict.fromkeys(("early.zero", "early.mean", "change.zero", "change.mean"), "contradicted"),
        "contradicted",
        "",
    ),
    "C2 seeds disagree": (
        "C2",
        Effects(spread={"advantage": 0.2}),
        dict.fromkeys(("early.zero", "early.mean", "change.zero", "change.mean"), "inconclusive"),
        "inconclusive",
        "",
    ),
    "C2 only when replaced by the mean": (
        "C2",
        Effects(advantage={"zero": (0.01, 0.0), "mean": (0.12, 0.02)}),
        {"early.zero": "not supported", "change.zero": "not supported"},
        "not supported",
        "",
    ),
    "C2 matters later, and more": (
        "C2",
        Effects(advantage={"zero": (0.06, 0.15), "mean": (0.06, 0.15)}),
        {"change.zero": "contradicted", "change.mean": "contradicted"},
        "contradicted",
        "",
    ),
    "C3 as published": ("C3", Effects(), {}, "supported", ""),
    "C3 more linear only": (
        "C3",
        Effects(kalimeris=(0.6, 0.4)),
        {"b.level": "not supported"},
        "not supported",
        MORE_LINEAR,
    ),
    "C3 as linear later": (
        "C3",
        Effects(kalimeris=(0.9, 0.88)),
        {"b.above-final": "not supported"},
        "not supported",
        CLOSE_THROUGHOUT,
    ),
    "C3 seeds disagree on the share": (
        "C3",
        Effects(kalimeris=(0.82, 0.5), spread={"kalimeris": 0.1}),
        {"b.level": "inconclusive"},
        "inconclusive",
        MORE_LINEAR_ONLY,
    ),
    "C3 without the share": (
        "C3",
        Effects(kalimeris=None),
        {"b.level": "not measured", "b.above-final": "not measured"},
        "inconclusive",
        MORE_LINEAR_ONLY,
    ),
    "C3 neither close to linear nor closer than later": (
        "C3",
        Effects(kalimeris=(0.6, 0.58)),
        {"b.level": "not supported", "b.above-final": "not supported"},
        "not supported",
        MORE_LINEAR,
    ),
    "C3 a linear model explains more of the trained network": (
        "C3",
        Effects(kalimeris=(0.86, 0.99)),
        {"b.above-final": "contradicted"},
        "contradicted",
        CLOSE_THROUGHOUT,
    ),
    "C3 as explained, no more linear": (
        "C3",
        Effects(midpoint=(0.5, 0.5)),
        {"a": "not supported"},
        "not supported",
        "",
    ),
    "C3 seeds disagree on the midpoint": (
        "C3",
        Effects(spread={"midpoint": 0.8}),
        {"a": "inconclusive"},
        "inconclusive",
        "",
    ),
    "C3 less linear early": (
        "C3",
        Effects(midpoint=(0.7, 0.4)),
        {"a": "contradicted"},
        "contradicted",
        "",
    ),
    "C4 as published": ("C4", Effects(), {}, "supported", ""),
    "C4 not by selectivity": (
        "C4",
        Effects(harm=HARM | {"eta2-early": 0.01}),
        {"d": "not supported"},
        "not supported",
        TIMING_MATTERS,
    ),
    "C4 the placebo harms more": (
        "C4",
        Effects(harm=HARM | {"permuted-eta2-early": 0.2}),
        {"d": "contradicted"},
        "contradicted",
        TIMING_MATTERS,
    ),
    "C4 cause unclear": (
        "C4",
        Effects(harm=HARM | {"permuted-eta2-early": 0.063}),
        {"d": "inconclusive"},
        "inconclusive",
        TIMING_MATTERS,
    ),
    "C4 early unclear": (
        "C4",
        Effects(harm=HARM | {"early": 0.019, "mid": -0.03}),
        {"a": "inconclusive"},
        "inconclusive",
        "",
    ),
    "C4 early against mid unclear": (
        "C4",
        Effects(harm=HARM | {"mid": 0.041}),
        {"c": "inconclusive"},
        "inconclusive",
        "",
    ),
    "C4 mid harms more": (
        "C4",
        Effects(harm=HARM | {"mid": 0.1}),
        {"c": "contradicted"},
        "contradicted",
        "",
    ),
    "C4 early does no harm": (
        "C4",
        Effects(harm=HARM | {"early": 0.0, "mid": 0.0}),
        {"a": "not supported", "c": "not supported"},
        "not supported",
        "",
    ),
    "C4 early suppression helps": (
        "C4",
        Effects(harm=HARM | {"early": -0.05, "mid": 0.0}),
        {"a": "contradicted", "c": "contradicted"},
        "contradicted",
        "",
    ),
    "C4 late harms too": (
        "C4",
        Effects(harm=HARM | {"late": 0.05}),
        {"b": "contradicted"},
        "contradicted",
        "",
    ),
    "C4 late unclear": (
        "C4",
        Effects(harm=HARM | {"late": 0.019}),
        {"b": "inconclusive"},
        "inconclusive",
        "",
    ),
    "C4 any time harms": (
        "C4",
        Effects(harm=HARM | {"mid": 0.06}),
        {"c": "not supported"},
        "not supported",
        "",
    ),
}


@pytest.mark.parametrize(("claim", "effects", "differing", "verdict", "finding"), CASES.values(), ids=CASES)
def test_synthetic_study_gets_the_verdict_its_truth_deserves(claim, effects, differing, verdict, finding):
    found = judged(effects)[claim]
    assert {k: v for k, v in verdicts(found).items() if v != "supported"} == differing
    assert (found["verdict"], found["finding"]) == (verdict, finding)
    assert finding in found["sentence"]


def test_the_cases_give_every_verdict_to_every_claim_and_every_finding_to_whom_it_may_belong():
    words = {"supported", "contradicted", "not supported", "inconclusive"}
    refuted = words - {"supported"}
    found = {(claim, verdict) for claim, _, _, verdict, _ in CASES.values()}
    assert found == {(claim, word) for claim in ("C1", "C2", "C3", "C4") for word in words}
    assert {word for *_, differing, _, _ in CASES.values() for word in differing.values()} >= refuted
    findings = {(finding, verdict) for *_, verdict, finding in CASES.values() if finding}
    assert findings >= {(TIMING_MATTERS, word) for word in refuted}
    assert findings >= {(INDEX_ONLY, "supported"), (INDEX_ONLY, "not supported")}
    assert findings >= {
        (MORE_LINEAR, "not supported"),
        (MORE_LINEAR_ONLY, "inconclusive"),
        (CLOSE_THROUGHOUT, "not supported"),
        (CLOSE_THROUGHOUT, "contradicted"),
    }


def test_timing_matters_where_the_cause_was_not_measured():
    def without_eta2(table):
        return table.filter(~pl.col("condition").str.contains("eta2"))

    claim = judged(change={"history": without_eta2})["C4"]
    assert verdicts(claim) == {"a": "supported", "b": "supported", "c": "supported", "d": "not measured"}
    assert (claim["verdict"], claim["finding"]) == ("inconclusive", TIMING_MATTERS)
    assert "not measured: C4.d" in claim["note"]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_fewer_than_three_seeds_never_support_nor_refute(seeds):
    for effects in (Effects(), Effects(harm=HARM | {"early": -0.05, "late": 0.2}, midpoint=(0.9, 0.2))):
        for claim in judged(effects, seeds=seeds).values():
            assert claim["verdict"] == "fewer than 3 seeds"
            assert set(verdicts(claim).values()) == {"fewer than 3 seeds"}
            assert "Fewer than 3 seeds" in claim["sentence"]


def test_three_seeds_are_enough():
    effects = Effects(spread=dict.fromkeys(("csi", "advantage", "midpoint", "kalimeris", "harm"), 0.001))
    assert {claim["verdict"] for claim in judged(effects, seeds=(4, 7, 9)).values()} == {"supported"}


def test_holm_can_take_a_claim_away_that_each_clause_supports():
    # C1's worst clause has p 0.03: enough alone, not among four claims of which the others are open.
    # Of ln 2 +- t SD / sqrt(5): p = 0.03 two-sided at t(4) = 3.298, so SD = ln 2 * sqrt(5) / 3.298 = 0.47.
    wide = Effects(
        spread={"csi": 0.47, "advantage": 1.0, "midpoint": 1.5, "harm": 0.5},
        csi={0: 0.05, 4: 0.24, 12: 0.05, LAST: 0.12},
    )
    alone = judged(wide, claims={"early_window": 12, "judge": ["C1"]})["C1"]
    among = judged(wide)["C1"]
    assert alone["p_value"] == among["p_value"] == alone["p_holm"]
    assert 0.0125 < alone["p_value"] < 0.05
    assert among["p_holm"] == pytest.approx(4 * alone["p_value"])
    assert alone["verdict"] == "supported"
    assert set(verdicts(among).values()) == {"supported"}
    assert among["verdict"] == "inconclusive"
    assert "not after Holm's correction" in among["note"]


def test_interval_of_a_clause_is_the_one_worked_out_by_hand():
    rise = judged(Effects(spread={"csi": 0.05}))["C1"]["clauses"][0]
    half = 2.776445 * 0.05 / math.sqrt(5)
    assert rise["estimate"] == pytest.approx(math.log(2.4), abs=1e-6)
    assert (rise["low"], rise["high"]) == pytest.approx((math.log(2.4) - half, math.log(2.4) + half), abs=1e-6)
    assert rise["seeds"] == [0, 1, 2, 3, 4]
    late = judged(Effects(spread={"harm": 0.005}))["C4"]["clauses"][1]
    assert late["upper"] == pytest.approx(0.002 + 2.131847 * 0.005 / math.sqrt(5), abs=1e-8)
    assert late["sentence"] == (
        "'late' costs 0.2 points (95% CI -0.4 to 0.8, one-sided upper end 0.7, 5 seeds) of final accuracy"
    )


def test_a_finding_that_the_correction_takes_away_says_so():
    """C3.a alone has p 0.04: a finding among one claim, not among four of which none has a smaller p."""
    # Of ln(0.7 / 0.4) +- t SD / sqrt(5): p = 0.04 two-sided at t(4) = 2.999, so SD = 0.5596 * sqrt(5) / 2.999 = 0.417.
    wide = Effects(
        kalimeris=(0.6, 0.58), spread={"midpoint": 0.417, "csi": 1.5, "advantage": 1.0, "harm": 0.5, "kalimeris": 0.02}
    )
    alone = judged(wide, claims={"early_window": 12, "judge": ["C3"]})["C3"]
    among = judged(wide)["C3"]
    assert alone["clauses"][0]["p_value"] == pytest.approx(0.04, abs=0.001)
    assert alone["finding"] == MORE_LINEAR
    assert among["finding"] == f"{MORE_LINEAR}{UNCORRECTED}"
    assert f"({MORE_LINEAR}{UNCORRECTED})" in among["sentence"]


def test_a_finding_is_as_sure_as_each_clause_that_it_says_to_hold():
    """'Close to linear' rests on the share's level too, whose lower end is barely above 0.8: p 0.03 of four claims."""
    barely = Effects(kalimeris=(0.85, 0.849), spread={"kalimeris": 0.036, "midpoint": 0.001})
    found = judged(barely)["C3"]
    assert verdicts(found) == {"a": "supported", "b.level": "supported", "b.above-final": "not supported"}
    assert 0.0125 < found["clauses"][1]["p_value"] < 0.05
    wide = judged(replace(barely, spread=barely.spread | {"csi": 1.5, "advantage": 1.0, "harm": 0.5}))["C3"]
    assert wide["finding"] == f"{CLOSE_THROUGHOUT}{UNCORRECTED}"
    sure = judged(replace(barely, spread={"kalimeris": 0.005}))["C3"]
    assert sure["finding"] == CLOSE_THROUGHOUT


def test_only_the_registered_claims_are_judged_and_corrected_for():
    claims = judged(claims={"early_window": 12, "judge": ["C4", "C1"]})
    assert list(claims) == ["C1", "C4"]
    assert claims["C4"]["p_holm"] == max(claims["C4"]["p_value"], 2 * claims["C1"]["p_value"])


def test_a_study_without_claims_judges_none():
    study, tables = make_study(claims=None)
    assert judge_study(study, tables)["claims"] == []


def test_order_of_rows_and_of_seeds_changes_nothing():
    study, tables = make_study()
    turned = {
        kind: pl.concat(list(reversed(table.partition_by("condition", "seed", maintain_order=True))))
        for kind, table in tables.items()
    }
    assert json.dumps(judge_study(study, turned)) == json.dumps(judge_study(study, tables))


def test_pilot_seeds_in_the_tables_are_not_judged():
    study, _ = make_study()
    _, more = make_study(seeds=(0, 1, 2, 3, 4, 90, 91), claims=None)
    for claim in judge_study(study, more)["claims"]:
        assert all(set(clause["seeds"]) <= set(study.seeds) for clause in claim["clauses"])


def test_roles_may_have_any_name():
    study, tables = make_study()
    roles = {"early": "first {days}", "late": "late"}
    renamed = {
        kind: table.with_columns(pl.col("condition").replace({"early": "first {days}"}))
        for kind, table in tables.items()
    }
    claims = study.model_dump()["claims"] | {"roles": roles}
    study, _ = make_study(claims=claims)
    sentence = judge_study(study, renamed)["claims"][3]["clauses"][0]["sentence"]
    assert sentence.startswith("'first {days}' costs 6.0 points (95% CI")


def test_record_has_the_shape_that_the_report_reads():
    study, tables = make_study()
    record = judge_study(study, tables)
    assert {"version", "note", "early_window", "last_step", "classes", "seeds", "claims"} == set(record)
    assert (record["last_step"], record["classes"], record["early_window"]) == (LAST, 10, 12)
    epochs, _ = make_study(claims={"early_window": {"stop": 2.5, "unit": "epochs"}})
    assert judge_study(epochs, tables)["early_window"] == 10
    for claim in record["claims"]:
        assert {
            "id",
            "title",
            "statement",
            "sentence",
            "verdict",
            "finding",
            "p_value",
            "p_holm",
            "note",
        } <= set(claim)
        assert re.search(r"^[A-Z].*[^.]\.$", claim["sentence"])
        for item in (*claim["clauses"], *claim["beside"]):
            assert {
                "id",
                "statistic",
                "unit",
                "estimate",
                "low",
                "high",
                "seeds",
                "values",
                "sentence",
            } <= set(item)
            assert len(item["seeds"]) == len(item["values"])
            assert "{" not in item["sentence"]
        for clause in claim["clauses"]:
            assert {"direction", "smallest_effect", "upper", "verdict", "note", "p_value"} <= set(clause)


def test_claims_need_no_torch_and_no_scipy_stats():
    heavy = "import sys, vestige.claims.verdicts; print({'torch', 'scipy.stats'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
