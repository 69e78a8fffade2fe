"""Faithful against corrected: each departure of the released code, where it changes a verdict and where it does not."""

import json
import math
from statistics import mean, stdev

import polars as pl
import pytest
from synthetic import LAST, WINDOWS, Effects, make_study, pattern

from vestige.claims.curves import Material
from vestige.claims.departures import SCHEMA, departures_table, judge_departures
from vestige.claims.departures.known import KNOWN
from vestige.claims.departures.numbers import own_peaks, pooled, released_advantages
from vestige.claims.departures.terms import CORRECTED
from vestige.claims.verdicts import judge_study
from vestige.runs.tables import conform
from vestige.stats.released import released_area, released_sizes

SUPPORTED, NOT_SUPPORTED = "supported", "not supported"


def departures(made, *judge):
    """Of a study and its tables, by claim and departure; and its claims by id. `judge`: those claims alone."""
    study, tables = made
    if judge:
        study = study.model_copy(update={"claims": study.claims.model_copy(update={"judge": judge})})
    claims = judge_study(study, tables)
    records = judge_departures(study, tables, claims)
    return {(one["claim"], one["id"]): one for one in records}, {one["id"]: one for one in claims["claims"]}


def changed(effects=None, kind="selectivity", of=lambda table: table, **settings):
    study, tables = make_study(effects, **settings)
    return study, tables | {kind: of(tables[kind])}


def also(protocol, of=lambda table: table):
    """The table with its rows once more, changed, as if made by another protocol."""
    return lambda table: pl.concat(
        [table, of(table).with_columns(pl.lit(protocol).alias("protocol")).select(table.columns)]
    )


def column(**values):
    return lambda table: table.with_columns(**values).cast(table.schema)


def true_index(factor=1.0):
    """csi is `factor` times what the class means say."""
    means = ((1 - pl.col("csi")) / (1 + pl.col("csi"))).alias("mu_rest")
    return lambda table: (
        table.with_columns(means, pl.lit(1.0).alias("mu_max"))
        .with_columns(csi=pl.col("csi") * factor)
        .cast(table.schema)
    )


def own_spikes(table):
    """A flat curve, but for one step at which each seed, and no other, is higher by half."""
    steps = dict(zip(range(5), (1, 2, 4, 8, 12), strict=True))
    spiked = pl.any_horizontal((pl.col("seed") == seed) & (pl.col("step") == step) for seed, step in steps.items())
    return table.with_columns(csi_cv=pl.when(spiked).then(0.15).otherwise(0.10).cast(pl.Float32))


def more_curves(protocol, effects=None, of=lambda table: table):
    """Cumulative ablation of another protocol, with its own truth."""
    _, other = make_study(effects)
    return lambda table: pl.concat([table, of(other["cumulative"]).with_columns(pl.lit(protocol).alias("protocol"))])


def no_advantage(protocol):
    return changed(
        kind="cumulative", of=more_curves(protocol, Effects(advantage={"zero": (0.02, 0.02), "mean": (0.02, 0.02)}))
    )


def weak_random(table):
    low = (pl.col("order") == "random") & (pl.col("fraction") == 0.5)
    return table.with_columns(top1=pl.when(low).then(0.2).otherwise(pl.col("top1")).cast(pl.Float32))


def correlated(top=(0.8, 0.5), csi=(0.8, 0.5), anchor=(0.9, 0.9)):
    """A study with correlations between layers, early and at the end."""

    def of(table):
        identity = table.filter(measure="midpoint", layer="logits").drop("measure", "layer", "value", "anchor")
        early = pl.col("step") < 12
        z = pl.col("seed").replace_strict(dict(enumerate(pattern(5))), return_dtype=pl.Float64) * 0.01
        rows = [
            identity.with_columns(
                measure=pl.lit(f"correlation-{kind}{k}"),
                layer=pl.lit("all"),
                value=pl.when(early).then(before).otherwise(after) * z.exp(),
                anchor=pl.when(early).then(anchor[0]).otherwise(anchor[1]),
            ).select(table.columns)
            for kind, (before, after) in (("top", top), ("csi", csi))
            for k in (1, 2)
        ]
        return pl.concat([table, *rows])

    return changed(kind="linearity", of=of)


def with_arms(harms, arms):
    """A study with further penalties on selectivity, each with the harm and the cut given."""
    conditions = {"baseline": {}}
    for name, (start, stop) in WINDOWS.items():
        kind = "eta2" if "eta2" in name else "selectivity"
        labels = "permuted" if "permuted" in name else "true"
        conditions[name] = {
            "interventions": [{"kind": kind, "labels": labels, "window": {"start": start, "stop": stop}}]
        }
    conditions |= {name: {"interventions": [{"kind": "selectivity", **arm}]} for name, arm in arms.items()}
    study, tables = make_study(conditions=conditions)
    for name, harm in harms.items():
        like = "late" if name == "later" else "early"
        rows = {kind: tables[kind].filter(condition=like) for kind in ("selectivity", "history")}
        rows["history"] = rows["history"].with_columns(top1=pl.col("top1") + Effects().harm[like] - harm)
        if arms[name]["window"].get("stop") is None:  # suppressed to the end
            rows["selectivity"] = rows["selectivity"].with_columns(csi_cv=pl.lit(0.005, pl.Float32))
        for kind, own in rows.items():
            tables[kind] = pl.concat([tables[kind], own.with_columns(pl.lit(name).alias("condition"))])
    return study, tables


SUM = {"sum-early": {"estimator": "sum", "window": {"start": 0, "stop": 12}}}
OPEN = {"always": {"window": {"start": 0}}, "later": {"window": {"start": 64}}}
FLAT = column(csi=pl.lit(0.3), csi_cv=pl.lit(0.3))
CASES = {
    ("C1", "class-sums"): (
        lambda: changed(of=also("faithful")),  # the class means say 1/3 at every step
        lambda: changed(of=also("faithful", true_index(1.01))),
    ),
    ("C1", "stored-batch-norm"): (
        lambda: changed(of=also("faithful", FLAT)),
        lambda: changed(of=also("faithful")),
    ),
    ("C1", "raw-csi"): (lambda: changed(Effects(csi={0: 0.01, 4: 0.024, LAST: 0.012})), changed),
    ("C1", "dead-neurons"): (lambda: changed(Effects(csi={0: 0.01, 4: 0.06, 24: 0.03, LAST: 0.0225})), changed),
    ("C1", "own-peak"): (lambda: changed(of=own_spikes), changed),
    ("C1", "epochs-only"): (
        changed,  # the peak is at the end of epoch 1
        lambda: changed(Effects(csi={0: 0.10, 4: 0.11, 12: 0.24, 24: 0.14, LAST: 0.12})),
    ),
    ("C1", "pooled-neurons"): (lambda: changed(Effects(spread={"csi": 1.0})), changed),
    ("C1", "whole"): (lambda: changed(of=also("faithful", FLAT)), lambda: changed(of=also("faithful"))),
    ("C2", "class-sums"): (
        lambda: no_advantage("class-sums"),
        lambda: changed(kind="cumulative", of=more_curves("class-sums")),
    ),
    ("C2", "stored-batch-norm"): (
        lambda: no_advantage("stored-batch-norm"),
        lambda: changed(kind="cumulative", of=more_curves("stored-batch-norm")),
    ),
    ("C2", "same-images"): (
        lambda: no_advantage("same-images"),
        lambda: changed(kind="cumulative", of=more_curves("same-images")),
    ),
    ("C2", "random-control"): (lambda: changed(Effects(advantage={"zero": (0.0, 0.0), "mean": (0.0, 0.0)})), changed),
    ("C2", "redrawn-control"): (
        lambda: changed(kind="cumulative", of=also("redrawn", weak_random)),
        lambda: changed(kind="cumulative", of=also("redrawn")),
    ),
    ("C2", "uneven-grid"): (lambda: changed(Effects(advantage={"zero": (0.06, 0.0), "mean": (0.06, 0.0)})), changed),
    ("C2", "zero-alone"): (lambda: changed(Effects(advantage={"zero": (0.12, 0.02), "mean": (0.02, 0.0)})), changed),
    ("C2", "whole"): (
        lambda: changed(kind="cumulative", of=also("faithful", weak_random)),
        lambda: changed(
            Effects(advantage={"zero": (0.12, -0.05), "mean": (0.11, 0.0)}), "cumulative", also("faithful")
        ),
    ),
    ("C3", "correlation"): (lambda: correlated(top=(0.5, 0.5)), correlated),
    ("C3", "active-channels"): (lambda: correlated(csi=(0.5, 0.5)), correlated),
    ("C3", "no-anchor"): (lambda: correlated(anchor=(0.8, 0.5)), correlated),
    ("C3", "whole"): (lambda: correlated(top=(0.5, 0.5)), correlated),
    ("C4", "sum-penalty"): (
        lambda: with_arms({"sum-early": 0.0}, SUM),
        lambda: with_arms({"sum-early": 0.07}, SUM),
    ),
    ("C4", "open-windows"): (
        lambda: with_arms({"always": 0.07, "later": 0.05}, OPEN),
        lambda: with_arms({"always": 0.07, "later": 0.0}, OPEN),
    ),
    ("C4", "no-placebo"): (lambda: changed(Effects(harm={**Effects().harm, "eta2-early": 0.01})), changed),
}
"""A study whose verdict the departure changes, and one whose verdict it does not."""


def test_every_departure_has_its_cases():
    assert set(CASES) == {(departure.claim, departure.id) for departure in KNOWN}
    assert len(CASES) == len(KNOWN)


@pytest.mark.parametrize(("claim", "departure"), CASES)
def test_it_changes_a_verdict_where_it_matters_and_nowhere_else(claim, departure):
    for make, expected in zip(CASES[claim, departure], (True, False), strict=True):
        records, claims = departures(make(), claim)
        record = records[claim, departure]
        told = [(c["id"], c["reference"]["verdict"], c["departed"]["verdict"]) for c in record["clauses"]]
        assert record["changes"] is expected, (record["verdicts"], told)
        assert [c["changes"] for c in record["clauses"]] == [before != after for _, before, after in told]
        if record["against"] == CORRECTED:
            assert record["verdicts"][0] == claims[claim]["verdict"]
            of_study = {clause["id"]: clause for clause in claims[claim]["clauses"]}
            for clause in record["clauses"]:
                same = ("estimate", "low", "high", "verdict")
                assert [clause["reference"][n] for n in same] == [of_study[clause["id"]][n] for n in same]


def only(made, claim, departure, clause):
    records, _ = departures(made, claim)
    return next(c for c in records[claim, departure]["clauses"] if c["id"] == f"{claim}.{clause}")


def test_what_a_departure_is_compared_with():
    records, _ = departures(changed(of=also("faithful")))
    assert records["C1", "class-sums"]["against"] == "raw csi with stored batch norm"
    assert records["C1", "class-sums"]["verdicts"] == [NOT_SUPPORTED, SUPPORTED]
    balanced, _ = departures(changed(of=also("faithful", true_index())))
    assert balanced["C1", "class-sums"]["against"] == CORRECTED
    assert balanced["C1", "class-sums"]["note"].startswith("classes have as many images: sums and means give the same")
    fixed = departures(changed(kind="cumulative", of=also("redrawn")))[0]["C2", "redrawn-control"]
    assert fixed["against"] == "a random control in fixed orders"
    assert [c["reference"]["estimate"] for c in fixed["clauses"]] == [
        c["departed"]["estimate"] for c in fixed["clauses"]
    ]


def test_the_corrected_index_of_stored_statistics_is_of_class_means():
    doubled = also("faithful", column(csi_cv=pl.col("csi_cv") * 2, csi=pl.lit(0.9)))
    found = only(changed(of=doubled), "C1", "stored-batch-norm", "remains")
    assert (found["reference"]["estimate"], found["departed"]["estimate"]) == (pytest.approx(0.12), pytest.approx(0.24))


def test_dead_neurons_count_as_zero():
    """One of five neurons of every layer is dead."""
    found = only(changed(), "C1", "dead-neurons", "remains")
    assert found["departed"]["estimate"] == pytest.approx(0.12 * 4 / 5)


def test_an_own_peak_is_the_highest_of_noise():
    found = only(changed(of=own_spikes), "C1", "own-peak", "rise")
    assert found["reference"]["estimate"] == pytest.approx(0.0)
    assert found["departed"]["estimate"] == pytest.approx(math.log(1.5))
    assert found["departed"]["n"] == 5


def test_the_first_epoch_stands_for_step_0():
    found = only(changed(Effects(csi={0: 0.10, 4: 0.12, 12: 0.24, 24: 0.14, LAST: 0.12})), "C1", "epochs-only", "rise")
    assert found["reference"]["estimate"] == pytest.approx(math.log(2.4))
    # Step 4 is the end of epoch 1; only what lies up to step 8 differs between seeds, by a factor of mean log 0.
    assert found["departed"]["estimate"] == pytest.approx(math.log(2.0))


def tiny_selectivity():
    """Two seeds, two neurons before the last stage: csi_cv at steps 0, 2, 4, 10; a third neuron dies."""
    values = {
        (0, 0): (0.1, 0.4, 0.3, 0.2),
        (0, 1): (0.2, 0.3, 0.2, 0.1),
        (1, 0): (0.1, 0.2, 0.5, 0.3),
        (1, 1): (0.2, 0.2, 0.4, 0.1),
    }
    rows = [
        {"seed": seed, "step": step, "layer": layer, "stage": stage, "neuron": neuron, "csi_cv": value, "dead": False}
        for (seed, neuron), curve in values.items()
        for step, value in zip((0, 2, 4, 10), curve, strict=True)
        for layer, stage in (("a", "first"), ("b", "last"))
    ]
    dying = [
        {"seed": 0, "step": step, "layer": "a", "stage": "first", "neuron": 2, "csi_cv": 0.9, "dead": step == 10}
        for step in (0, 2, 4, 10)
    ]
    frame = pl.DataFrame([*rows, *dying]).with_columns(
        condition=pl.lit("baseline"), epoch=pl.col("step") / 4, protocol=pl.lit("corrected"),
        dataset=pl.lit("x"), split=pl.lit("test"), n=pl.lit(10),
    )  # fmt: skip
    template = make_study()[1]["selectivity"].head(0)
    lacking = [name for name in template.columns if name not in frame.columns]
    return conform(frame.with_columns(pl.lit(None).alias(name) for name in lacking), "selectivity")


def test_pooling_by_hand():
    """n = 4 neurons; the peaks of the other seed: step 2 of seed 1's curve stands for seed 0, and the reverse."""
    study, tables = make_study(seeds=(0, 1))
    history = tables["history"].clear()
    material = Material.of(study, {"selectivity": tiny_selectivity(), "history": history}, 10)
    # Seed 0 (its dying neuron counts while it lives) is highest at step 2, seed 1 at step 4: t* crosses.
    peaks = [0.3, 0.2, 0.2, 0.2]  # seed 0 at step 4, seed 1 at step 2
    starts, ends, quarters = [0.1, 0.2, 0.1, 0.2], [0.2, 0.1, 0.3, 0.1], [0.3, 0.2, 0.2, 0.2]
    found = pooled(material)
    ratios = [
        math.log(mean(peaks) / mean(starts)) + a / mean(peaks) - b / mean(starts)
        for a, b in zip(peaks, starts, strict=True)
    ]
    assert list(found["C1.rise"].values.values()) == pytest.approx(ratios, abs=1e-6)
    assert mean(found["C1.rise"].values.values()) == pytest.approx(math.log(0.225 / 0.15), abs=1e-6)
    assert stdev(found["C1.rise"].values.values()) == pytest.approx(stdev(ratios), abs=1e-6)
    assert list(found["C1.remains"].values.values()) == pytest.approx(ends)
    rapid = [(a + c) / 2 - q for a, c, q in zip(peaks, ends, quarters, strict=True)]
    assert list(found["C1.rapid"].values.values()) == pytest.approx(rapid, abs=1e-6)
    assert found["C1.rise"].note == "n counts 4 neurons of 2 seeds, as if each were a training of its own"
    own = pooled(material, own_peaks)
    assert mean(own["C1.rise"].values.values()) == pytest.approx(math.log(0.4 / 0.15), abs=1e-6)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_neurons_of_fewer_than_three_seeds_support_nothing(seeds):
    """Eight neurons and more, whose interval alone would support every clause."""
    study, tables = make_study(seeds=seeds)
    found = judge_departures(study, tables, judge_study(study, tables))
    (pooled_neurons,) = [one for one in found if one["id"] == "pooled-neurons"]
    assert {clause["departed"]["verdict"] for clause in pooled_neurons["clauses"]} == {"fewer than 3 seeds"}
    assert all(clause["departed"]["low"] > 0 for clause in pooled_neurons["clauses"])
    assert not any(SUPPORTED in one["verdicts"] for one in found)


def test_pooling_makes_an_interval_of_neurons():
    found = only(changed(Effects(spread={"csi": 1.0})), "C1", "pooled-neurons", "rise")
    assert (found["reference"]["n"], found["departed"]["n"]) == (5, 40)  # 2 layers of 4 living neurons
    assert (found["reference"]["verdict"], found["departed"]["verdict"]) == ("inconclusive", SUPPORTED)
    whole = [found[side]["high"] - found[side]["low"] for side in ("reference", "departed")]
    assert whole[1] < whole[0] / 2


def test_the_points_and_areas_of_the_released_code():
    assert released_sizes(64) == [0, 15, 30, 32]
    assert released_area([0.5, 0.25, 0.1]) == pytest.approx(100 * (1 + 0.5 + 0.2))
    assert math.isnan(released_area([0.5, None]))
    assert math.isnan(released_area([0.0, 0.0]))


def test_the_uneven_grid_by_hand():
    """A stage of 64: points 0, 15, 30, 32 of it. Accuracy falls by straight lines: csi-desc to 0.1 at a quarter."""
    curves = {"csi-desc": (0.9, 0.1, 0.1, 0.1), "activity-matched": (0.9, 0.7, 0.5, 0.1)}
    fractions = (0.0, 0.25, 0.5, 1.0)
    frame = pl.DataFrame(
        [
            {"seed": 0, "step": 8, "scope": "s", "order": order, "draw": 0, "value": "zero", "fraction": f, "top1": y}
            for order, ys in curves.items()
            for f, y in zip(fractions, ys, strict=True)
        ]
    )
    falling = 0.9 - 0.8 * (15 / 64) / 0.25  # the point 15 / 64
    ranked = (0.9 + falling + 0.1 + 0.1) / 0.9
    matched = (0.9 + (0.9 - 0.2 * (15 / 64) / 0.25) + (0.7 - 0.2 * (30 / 64 - 0.25) / 0.25) + 0.5) / 0.9
    found = released_advantages(frame, "zero", ["s"], {"s": 64}, classes=10)
    assert found[0][8] == pytest.approx((matched - ranked) / 4)
    assert released_advantages(frame, "zero", ["s"], {"s": 64}, classes=4)[0][8] == found[0][8]
    near_chance = frame.with_columns(top1=pl.col("top1") / 9)
    assert released_advantages(near_chance, "zero", ["s"], {"s": 64}, classes=10) == {}
    assert released_advantages(near_chance, "zero", ["s"], {"s": 64})[0][8] == pytest.approx(found[0][8])
    assert released_advantages(frame, "mean", ["s"], {"s": 64}) == {}


def test_the_uneven_grid_of_a_study():
    """Layers of 5: points 0 and 0.4. There D is 0.8 of the difference of heights at 0.5, in accuracy over 0.7."""
    found = only(changed(), "C2", "uneven-grid", "early.zero")
    assert found["reference"]["estimate"] == pytest.approx(0.12, abs=1e-6)
    assert found["departed"]["estimate"] == pytest.approx(0.12 * 0.8 * 0.6 / 0.7, abs=1e-6)


def test_the_whole_faithful_protocol_counts_checkpoints_near_chance():
    made = changed(kind="cumulative", of=also("faithful"))
    found = only(made, "C2", "whole", "early.zero")
    lead = 0.72 - (0.6 - 2 * 0.12)  # heights at 0.5 of random and csi-desc
    at = [lead * 0.8 * (top1 - 0.1) / top1 / 2 for top1 in (0.15, 0.7, 0.7, 0.7)]  # steps 1, 2, 4, 8
    assert found["departed"]["estimate"] == pytest.approx(mean(at), abs=1e-6)
    records, _ = departures(made, "C2")
    assert [clause["id"] for clause in records["C2", "whole"]["clauses"]] == ["C2.early.zero", "C2.change.zero"]


def test_correlation_is_judged_as_evidence_of_linearity():
    record = departures(correlated())[0]["C3", "correlation"]
    (clause,) = record["clauses"]
    assert clause["reference"]["statistic"] == "ln midpoint-logit(T)/midpoint-logit(early)"
    assert clause["departed"]["statistic"] == "ln correlation(early)/correlation(T)"
    assert clause["departed"]["estimate"] == pytest.approx(math.log(0.8 / 0.5))
    anchored = only(correlated(anchor=(0.8, 0.5)), "C3", "no-anchor", "a")
    assert anchored["reference"]["estimate"] == pytest.approx(0.0, abs=1e-9)


def test_a_claim_without_close_to_linear_is_judged_on_correlation_alone():
    study, tables = correlated()
    below = pl.col("measure") == "kalimeris"
    tables["linearity"] = tables["linearity"].with_columns(
        pl.when(below).then(0.3).otherwise(pl.col("value")).alias("value")
    )
    record = departures((study, tables))[0]["C3", "correlation"]
    assert record["verdicts"] == [NOT_SUPPORTED, SUPPORTED]
    assert record["changes"] is True


def test_the_sum_arm_stands_for_early():
    record = departures(with_arms({"sum-early": 0.0}, SUM))[0]["C4", "sum-penalty"]
    assert record["note"] == "'sum-early' stands for 'early'"
    estimates = {c["id"]: c["departed"]["estimate"] for c in record["clauses"]}
    assert set(estimates) == {"C4.a", "C4.c"}  # there is no such arm in the place of late
    assert estimates["C4.a"] == pytest.approx(0.0, abs=1e-6)


def test_an_arm_that_does_not_suppress_leaves_the_claim_open():
    """The manipulation check is the arm's own."""
    study, tables = with_arms({"sum-early": 0.07}, SUM)
    idle = (pl.col("condition") == "sum-early") & (pl.col("csi_cv") < 0.05) & ~pl.col("dead")
    tables["selectivity"] = tables["selectivity"].with_columns(
        csi_cv=pl.when(idle).then(0.2).otherwise(pl.col("csi_cv")).cast(pl.Float32)
    )
    record = departures((study, tables))[0]["C4", "sum-penalty"]
    assert record["verdicts"] == [SUPPORTED, "inconclusive"]


MISSING = {
    ("C1", "class-sums"): "set measurements.selectivity.protocols to [corrected, faithful]",
    ("C1", "stored-batch-norm"): "set measurements.selectivity.protocols to [corrected, faithful]",
    ("C1", "whole"): "set measurements.selectivity.protocols to [corrected, faithful]",
    ("C2", "class-sums"): "add class-sums to measurements.cumulative.protocols",
    ("C2", "stored-batch-norm"): "add stored-batch-norm to measurements.cumulative.protocols",
    ("C2", "same-images"): "add same-images to measurements.cumulative.protocols",
    ("C2", "redrawn-control"): "add redrawn to measurements.cumulative.protocols",
    ("C2", "whole"): "add faithful to measurements.cumulative.protocols",
    ("C3", "correlation"): "the linearity table has no correlation-top<k>",
    ("C4", "sum-penalty"): "add a condition like 'early' with estimator: sum",
    ("C4", "open-windows"): "add conditions like 'early' that never stop",
}


@pytest.fixture(scope="module", name="plain")
def _plain():
    return departures(changed())[0]


@pytest.mark.parametrize(("claim", "departure"), MISSING)
def test_what_a_study_has_not_asked_for_is_said_and_not_hidden(plain, claim, departure):
    record = plain[claim, departure]
    assert MISSING[claim, departure] in record["note"]
    assert record["changes"] is None
    assert record["verdicts"][1] == "not measured"
    assert {clause["departed"]["verdict"] for clause in record["clauses"]} == {"not measured"}
    assert record["clauses"]


def test_a_study_without_any_table_has_all_rows():
    study, tables = make_study()
    records, _ = departures((study, {kind: table.clear() for kind, table in tables.items()}))
    assert set(records) == set(CASES)
    assert {record["changes"] for record in records.values()} == {None}


def test_the_table_has_a_row_for_each_departure_and_clause():
    study, tables = correlated()
    records = judge_departures(study, tables, judge_study(study, tables))
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    table = departures_table(records)
    assert dict(table.schema) == SCHEMA
    assert table.select("claim", "departure", "clause").is_unique().all()
    row = table.row(
        by_predicate=(pl.col("departure") == "dead-neurons") & (pl.col("clause") == "C1.remains"), named=True
    )
    assert (row["reference_estimate"], row["estimate"]) == (pytest.approx(0.12), pytest.approx(0.096))
    assert (row["reference_verdict"], row["verdict"], row["changes"]) == (SUPPORTED, SUPPORTED, False)
    assert (row["reference_claim_verdict"], row["claim_verdict"], row["claim_changes"]) == (SUPPORTED, SUPPORTED, False)
    assert departures_table([]).schema == table.schema


def test_only_the_claims_of_a_study_have_departures():
    judged = {"early_window": 12, "judge": ["C1"]}
    records, _ = departures(changed(claims=judged))
    assert {claim for claim, _ in records} == {"C1"}
    study, tables = make_study(claims=None)
    assert judge_departures(study, tables, {"claims": []}) == []


def test_a_vision_transformer_has_its_own():
    records, _ = departures(changed(model={"name": "timm:vit_tiny_patch16_224"}))
    assert "tokens" in records["C1", "token-axis"]["note"]
