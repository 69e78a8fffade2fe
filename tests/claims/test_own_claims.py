"""A study's own claims: their numbers against loops over rows and the registered claims, their gaps, their family."""

import math
from statistics import fmean, median

import polars as pl
import pytest
from synthetic import LAST, STEPS, Effects, judged, make_study, verdicts

from vestige.claims.curves import Material
from vestige.claims.own import evaluate
from vestige.claims.registry import own_claim, registered
from vestige.config import parse_study
from vestige.errors import ConfigError
from vestige.expressions.reading import parse

INNER = 'stage="layer[12]"'
SCOPE = 'scope="layer[12]"'
BASE = 'condition="baseline"'


@pytest.fixture(scope="module")
def material():
    study, tables = make_study()
    return Material.of(study, tables, None), tables


@pytest.fixture
def value(material):
    return lambda text: evaluate(parse(text), *material)


def own(*statistics, claim="mine", **settings):
    clauses = [{"statistic": one, "smallest_effect": 0.01, **settings} for one in statistics]
    return {claim: {"statement": "It is so.", "clauses": clauses}}


def claimed(claims, **settings):
    return {"early_window": 12, "pilot_seeds": [90, 91], "own": claims, **settings}


def rows(tables, kind, seed, condition="baseline", **wanted):
    wanted |= {"seed": seed, "condition": condition}
    return [row for row in tables[kind].rows(named=True) if all(row[name] == of for name, of in wanted.items())]


REGISTERED = {
    # clause of a registered claim: the same as a study's own expression
    "C1.rise": f"ln(mean(selectivity.csi_cv, {BASE}, step=peak, {INNER}, each='layer')"
    f" / mean(selectivity.csi_cv, {BASE}, step=first, {INNER}, each='layer'))",
    "C1.remains": f"mean(selectivity.csi_cv, {BASE}, step=last, {INNER}, each='layer')",
    "C2.early.zero": f"area(cumulative.top1, {BASE}, step=early, order='activity-matched', value='zero', {SCOPE})"
    f" - area(cumulative.top1, {BASE}, step=early, order='csi-desc', value='zero', {SCOPE})",
    "C2.final.mean": f"area(cumulative.top1, {BASE}, step=last, order='activity-matched', value='mean', {SCOPE})"
    f" - area(cumulative.top1, {BASE}, step=last, order='csi-desc', value='mean', {SCOPE})",
    "C3.a.all": f"ln(mean(linearity.value, {BASE}, step=last, measure='midpoint', layer='logits')"
    f" / mean(linearity.value, {BASE}, step=early, measure='midpoint', layer='logits'))",
    "C3.b.final": f"mean(linearity.value, {BASE}, step=last, measure='kalimeris', layer='logits')",
    "C4.a": f"mean(history.top1, {BASE}, step=final) - mean(history.top1, condition='early', step=final)",
    "C4.d": "mean(history.top1, condition='permuted-eta2-early', step=final)"
    " - mean(history.top1, condition='eta2-early', step=final)",
}


def test_what_is_registered_can_be_said_as_an_own_claim_and_is_the_same_number(value):
    claims = judged(Effects())
    found = {item["id"]: item for claim in claims.values() for item in (*claim["clauses"], *claim["beside"])}
    for name, text in REGISTERED.items():
        sample = value(text)
        assert list(sample.values) == found[name]["seeds"], (name, sample)
        assert list(sample.values.values()) == pytest.approx(found[name]["values"], rel=1e-9, abs=1e-12), name


def test_aggregates_are_those_of_a_loop_over_the_rows(material, value):
    _, tables = material
    alive = [[row["csi_cv"] for row in rows(tables, "selectivity", seed, step=8, dead=False)] for seed in range(5)]
    at = f"{BASE}, step=8"
    cases = {
        f"mean(selectivity.csi_cv, {at})": [fmean(one) for one in alive],
        f"median(selectivity.csi_cv, {at})": [median(one) for one in alive],
        f"quantile(selectivity.csi_cv, 0.25, {at})": [_quantile(one, 0.25) for one in alive],
        f"max(selectivity.csi_cv, {at})": [max(one) for one in alive],
        f"min(selectivity.csi_cv, {at})": [min(one) for one in alive],
        f"count(selectivity.csi_cv, {at})": [len(one) for one in alive],
        f"count(selectivity.csi_cv, {at}, dead=any)": [len(one) + 3 for one in alive],
        f"count(selectivity.csi_cv > 0.3, {at})": [sum(x > 0.3 for x in one) for one in alive],
        f"share(selectivity.csi_cv <= 0.3, {at})": [fmean(x <= 0.3 for x in one) for one in alive],
        f"share(selectivity.dead, {at})": [3 / 15] * 5,
        f"mean(selectivity.eta2, {at}, dead=true)": [0.0] * 5,
    }
    for text, expected in cases.items():
        assert list(value(text).values.values()) == pytest.approx(expected, rel=1e-6), text


def test_rows_are_counted_whatever_their_number_is_and_compared_only_where_it_is_one(material):
    """NaN is above every bound to polars, and null nothing to it."""
    _, tables = material
    first = pl.col("neuron") == 0
    holes = pl.when(first & (pl.col("layer") == "layer1.0")).then(None).when(first).then(math.nan).otherwise("csi_cv")
    broken = material[0], {**tables, "selectivity": tables["selectivity"].with_columns(csi_cv=holes)}
    kept = [row["csi_cv"] for row in rows(tables, "selectivity", 0, step=8, dead=False) if row["neuron"] != 0]
    for text, expected in {
        f"count(selectivity.csi_cv, {BASE}, step=8)": 12,
        f"count(selectivity.csi_cv > 0, {BASE}, step=8)": sum(x > 0 for x in kept),
        f"share(selectivity.csi_cv > 0, {BASE}, step=8)": 1.0,
        f"count(selectivity.csi_cv, {BASE}, step=8, dead=true)": 3,
    }.items():
        assert evaluate(parse(text), *broken).values[0] == expected, text


def test_each_layer_counts_the_same_where_that_is_said(material, value):
    _, tables = material
    some = tables["selectivity"].filter((pl.col("layer") != "layer1.0") | (pl.col("neuron") == 0))
    uneven = material[0], {**tables, "selectivity": some}
    one = evaluate(parse(f"mean(selectivity.csi, {BASE}, step=8, each='layer')"), *uneven).values[0]
    per_layer = [
        fmean(row["csi"] for row in rows({"selectivity": some}, "selectivity", 0, step=8, dead=False, layer=layer))
        for layer in ("layer1.0", "layer2.0", "layer3.0")
    ]
    assert one == pytest.approx(fmean(per_layer), rel=1e-6)
    assert one != pytest.approx(evaluate(parse(f"mean(selectivity.csi, {BASE}, step=8)"), *uneven).values[0], rel=1e-3)


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        ("step=8", [8]),
        ("step=first", [0]),
        ("step=last", [LAST]),
        ("step=final", [92, 96, 100]),
        ("step=early", [0, 1, 2, 4, 8]),
        ("step=peak", [4]),
        ("step=steps(4, 16)", [4, 8, 12]),
        ("step=epochs(1, 4)", [4, 8, 12]),
        ("epoch=epochs(1, 4)", [4, 8, 12]),
        ("epoch=3", [12]),
        ("epoch=0.25", [1]),
    ],
)
def test_checkpoints_are_those_that_are_said(material, value, when, steps):
    assert set(steps) <= set(STEPS)
    losses = [row["loss"] for step in steps for row in rows(material[1], "history", 3, step=step, split="test")]
    assert value(f"mean(history.loss, {BASE}, {when})").values[3] == pytest.approx(fmean(losses), rel=1e-9)


def test_arithmetic_is_that_of_a_calculator(value):
    top1 = f"mean(history.top1, {BASE}, step=last)"
    x = value(top1).values
    text = f"-2 ** 2 + 3 * {top1} / 2 - max(1, 2, 0.5) ** -1 + abs(-3) * ln(exp(2)) - sqrt(4)"
    expected = {seed: -(2**2) + 3 * one / 2 - 2**-1 + 3 * 2 - 2 for seed, one in x.items()}
    assert value(text).values == pytest.approx(expected, rel=1e-12)


def test_what_interventions_log_is_read_from_training(material):
    study, tables = make_study()
    history = tables["history"].with_columns(
        pl.when((pl.col("split") == "train") & (pl.col("condition") == "early"))
        .then(pl.col("step").cast(pl.Float64))
        .alias("selectivity.dose")
    )
    of = Material.of(study, {**tables, "history": history}, None), {**tables, "history": history}
    found = evaluate(parse('mean(history["selectivity.dose"], condition="early", step=steps(1, 5))'), *of)
    assert set(found.values.values()) == {(1 + 2 + 4) / 3}


GAPS = {
    f"mean(selectivity.csi, {BASE}, step=5)": "no selectivity.csi at step 5",
    "mean(selectivity.csi, condition='late', step=early)": "no checkpoint in the early window: its",
    "mean(selectivity.csi, condition='late', step=first)": "no selectivity.csi at step 0",
    f"mean(selectivity.selective, {BASE}, step=last)": "no finite selectivity.selective",
    f"mean(selectivity.csi, {BASE}, step=last, layer='layer9*')": "has layer 'layer9*'. There is 'layer1.0', ",
    f"mean(selectivity.csi, {BASE}, step=last, protocol='faithful')": "selectivity.protocols leaves out 'faithful'",
    f"mean(ablation.loss_delta, {BASE}, step=last, value='zero')": "ablation of 'baseline' is not there yet: run",
    "mean(ablation.loss_delta, condition='late', step=last, value='zero')": "ablation.conditions leaves out 'late'",
    f"mean(linearity.value, {BASE}, step=last, measure='midpiont', layer='logits')": "has measure 'midpiont'. There is",
    f"area(cumulative.top1, {BASE}, step=steps(0, 2), order='random', value='zero', scope='all')": "no judgeable curve",
    f"ln(mean(history.top1, {BASE}, step=last) - 1)": "is no number",
    f"1 / (mean(history.top1, {BASE}, step=last) - mean(history.top1, {BASE}, step=last))": "1 / 0 is no number",
}


@pytest.mark.parametrize(("text", "reason"), GAPS.items(), ids=range(len(GAPS)))
def test_why_there_is_no_number_is_said(value, text, reason):
    sample = value(text)
    assert not sample.values
    assert reason in sample.missing


HUGE = f"(mean(history.top1, {BASE}, step=last) * 1e200 * 1e200)"


@pytest.mark.parametrize("text", [f"1 / {HUGE}", f"max(1, {HUGE} - {HUGE})", f"min({HUGE}, 1)", f"{HUGE} ** -1"])
def test_what_is_too_large_for_a_number_does_not_become_one_again(value, text):
    """In floating point 1 / infinity is 0, and the larger of 1 and NaN is 1."""
    sample = value(text)
    assert not sample.values
    assert "* 1e+200 is no number" in sample.missing


def test_none_of_a_kind_counts_as_0_and_not_as_missing(material):
    """A seed, or a layer, without a neuron of a kind belongs into the mean of how many there are."""
    study, tables = material[0].study, material[1]
    first = (pl.col("neuron") == 0) & ~pl.col("dead") & (pl.col("seed") != 1) & (pl.col("layer") == "layer2.0")
    flagged = {**tables, "selectivity": tables["selectivity"].with_columns(selective=first)}

    def values(text):
        return evaluate(parse(text), Material.of(study, flagged, None), flagged).values

    at = f"{BASE}, step=8"
    assert values(f"count(selectivity.csi, {at}, selective=true)") == {0: 1, 1: 0, 2: 1, 3: 1, 4: 1}
    each = values(f"count(selectivity.csi, {at}, selective=true, each='layer')")
    assert each == pytest.approx({0: 1 / 3, 1: 0, 2: 1 / 3, 3: 1 / 3, 4: 1 / 3})
    assert values(f"count(selectivity.csi > 5, {at}, selective=false)") == dict.fromkeys(range(5), 0)
    assert values(f"count(selectivity.csi, {at}, dead=true)") == dict.fromkeys(range(5), 3)
    flagged["selectivity"] = flagged["selectivity"].filter(~pl.col("dead"))
    assert values(f"count(selectivity.csi, {at}, dead=true)") == dict.fromkeys(range(5), 0)


def test_a_seed_that_lacks_a_checkpoint_of_a_range_is_left_out_by_name(material):
    study, tables = make_study()
    lacking = tables["history"].filter(
        ~((pl.col("seed") == 3) & (pl.col("step") == 2) & (pl.col("condition") == "early"))
    )
    difference = (
        "mean(history.loss, condition='early', step=early) - mean(history.loss, condition='baseline', step=early)"
    )
    claim = judged(change={"history": lambda _: lacking}, claims=claimed(own(difference), judge=[]))["mine"]
    clause = claim["clauses"][0]
    assert clause["seeds"] == [0, 1, 2, 4]
    assert clause["note"] == "left out: seed 3: no history.loss at step 2"
    assert study.seeds == (0, 1, 2, 3, 4)


def test_differences_are_paired_by_seed(value):
    """Seeds that differ alike in both conditions differ in neither's difference."""
    tables = make_study()[1]
    shift = pl.col("top1") + pl.col("seed").cast(pl.Float64) / 10
    study, _ = make_study()
    shifted = {**tables, "history": tables["history"].with_columns(shift)}
    text = f"mean(history.top1, {BASE}, step=last) - mean(history.top1, condition='early', step=last)"
    assert evaluate(parse(text), Material.of(study, shifted, None), shifted).values == pytest.approx(value(text).values)


def test_every_verdict_and_direction_comes_out_of_an_own_claim():
    harm = f"mean(history.top1, {BASE}, step=final) - mean(history.top1, condition='early', step=final)"
    cases = [
        (0.06, "at least", 0.02, "supported"),
        (-0.06, "at least", 0.02, "contradicted"),
        (0.0, "at least", 0.02, "not supported"),
        (0.019, "at least", 0.02, "inconclusive"),
        (0.021, "surely at least", 0.02, "inconclusive"),
        (0.06, "surely at least", 0.02, "supported"),
        (0.0, "below", 0.02, "supported"),
        (0.06, "below", 0.02, "contradicted"),
    ]
    for effect, direction, d, verdict in cases:
        claims = claimed(own(harm, direction=direction), judge=[])
        claims["own"]["mine"]["clauses"][0]["smallest_effect"] = d
        claim = judged(Effects(harm={**Effects().harm, "early": effect}), claims=claims)["mine"]
        assert (verdicts(claim), claim["verdict"]) == ({"a": verdict}, verdict), (effect, direction)


def test_own_claims_and_the_registered_ones_are_corrected_apart():
    top1 = f"mean(history.top1, {BASE}, step=final) - mean(history.top1, condition='early', step=final)"
    # Half a point with a spread of half a point: p about 0.09.
    weak = f"{top1} - 0.055"
    both = own(top1) | own(weak, claim="weak")
    alone, among = judged(), judged(claims=claimed(both))
    assert [claim["own"] for claim in among.values()] == [False] * 4 + [True] * 2
    for name in alone:
        assert {**among[name], "beside": None} == {**alone[name], "beside": None}
    p = {name: (among[name]["p_value"], among[name]["p_holm"]) for name in ("mine", "weak")}
    assert p["mine"][1] == 2 * p["mine"][0]
    assert p["weak"][1] == p["weak"][0]
    single = judged(claims=claimed(own(top1), judge=[]))
    assert list(single) == ["mine"]
    assert single["mine"]["p_holm"] == p["mine"][0]


def test_sentences_units_and_ids_of_an_own_claim():
    text = f"mean( history.loss,{BASE},step=last )"
    clauses = [
        {"statistic": text, "smallest_effect": 0.1, "unit": "nats", "sentence": "the loss is {} in the end"},
        {"id": "raw", "statistic": text, "smallest_effect": 0.1},
        {"statistic": f"{text} - 1.4", "smallest_effect": 0.1, "unit": "accuracy", "direction": "below"},
    ]
    own_claims = [{"id": "loss", "statement": "Loss stays.", "title": "Loss  at the end", "clauses": clauses}]
    claim = judged(claims=claimed(own_claims, judge=[]))["loss"]
    assert (claim["title"], claim["statement"]) == ("Loss at the end", "Loss stays")
    assert [clause["id"] for clause in claim["clauses"]] == ["loss.a", "loss.raw", "loss.c"]
    assert [clause["unit"] for clause in claim["clauses"]] == ["nats", "", "accuracy"]
    assert claim["clauses"][0]["sentence"] == "the loss is 1.45 nats (95% CI 1.45 to 1.45, 5 seeds) in the end"
    assert claim["clauses"][1]["sentence"].startswith(f"mean(history.loss, {BASE}, step=last) is 1.45 (95% CI")
    assert claim["clauses"][2]["sentence"].endswith(
        "is 5.0 points (95% CI 5.0 to 5.0, one-sided upper end 5.0, 5 seeds)"
    )


WRONG = [
    (own("mean(history.top1, condition='basline', step=last)"), "clause 'a': the study has no condition 'basline'"),
    (own("mean(history['eta2.dose'], condition='early', step=last)"), "'early' has no intervention 'eta2' that would"),
    (own(f"mean(history.top1, {BASE}, step=last)", claim="C1"), "the id 'C1' could be taken for a registered claim's"),
    (own(f"mean(history.top1, {BASE}, step=last)", sentence="no place"), "its sentence has not exactly one {}"),
    (own(f"mean(history.top1, {BASE}, step=last)", sentence="{} {}"), "its sentence has not exactly one {}"),
    (own(f"mean(history.top1, {BASE}, step=last)", direction="above"), "direction is 'above'"),
    (own(f"mean(history.top1, {BASE}, step=last)", smallest_effect=-1), "smallest_effect is -1"),
    (own(f"mean(history.top1, {BASE}, step=last)", unit="<b>"), "unit is '<b>'"),
    (own(f"mean(history.top1, {BASE}, step=last)", id="a") | own(claim="empty"), "own.1.clauses is []"),
    (own(f"mean(history.top1, {BASE}, step=last)", id="b"), None),
    (own(*[f"mean(history.top1, {BASE}, step=last)"] * 2, id="b"), "claim 'mine' has two clauses of one id"),
    ([{"id": "x"}], "field 'claims.own.0.statement' is missing"),
    ({"mine": 3}, "claims.own.0 is 3"),
    ("mine", "claims.own is 'mine'"),
]


@pytest.mark.parametrize(("claims", "words"), WRONG, ids=range(len(WRONG)))
def test_claims_that_cannot_be_are_refused_when_the_study_is_read(claims, words):
    settings = make_study()[0].model_dump(mode="json") | {"claims": claimed(claims)}
    if words is None:
        assert parse_study(settings, source="x").claims
        return
    with pytest.raises(ConfigError) as caught:
        parse_study(settings, source="x")
    assert words in str(caught.value)


def test_two_claims_of_one_id_are_refused():
    twice = [{"id": "x", **one} for one in own(f"mean(history.top1, {BASE}, step=last)").values()] * 2
    with pytest.raises(ConfigError, match="two claims have the id 'x'"):
        make_study(claims=claimed(twice))


def test_own_claims_survive_yaml():
    study, _ = make_study(claims=claimed(own(f"mean(history.top1, {BASE}, step=last)")))
    again = parse_study(study.model_dump(mode="json"), source="itself")
    assert again == study
    assert again.claims is not None
    assert [own_claim(claim).id for claim in again.claims.own] == ["mine"]
    assert len(registered(again)) == 4


def _quantile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    low = math.floor(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])
