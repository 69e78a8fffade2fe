"""What is said of a study with gaps: measurements left out, seeds missing, NaN, training not finished."""

import json
import math

import polars as pl
import pytest
from synthetic import EARLY_WINDOW, LAST, WINDOWS, Effects, judged, make_study, verdicts

from vestige.claims.verdicts import judge_study


def test_nothing_measured_is_said_with_the_command_that_gives_it():
    claims = judged(change=dict.fromkeys(("selectivity", "cumulative", "linearity", "history"), pl.DataFrame.clear))
    assert {claim["verdict"] for claim in claims.values()} == {"not measured"}
    for claim in claims.values():
        for clause in claim["clauses"]:
            assert "is not there yet: run `vestige run`" in clause["note"]
            assert (clause["estimate"], clause["seeds"], clause["values"], clause["p_value"]) == (
                None,
                [],
                [],
                None,
            )
        assert (claim["p_value"], claim["p_holm"]) == (None, None)
    assert json.loads(json.dumps(claims, allow_nan=False)) == claims


ABSENT = [
    (
        {"measurements": {"selectivity": None}},
        "C1",
        "measurements.selectivity is null in the study: give it settings",
    ),
    (
        {"measurements": {"selectivity": {"conditions": ["early"]}}},
        "C1",
        "measurements.selectivity.conditions leaves out 'baseline': add it",
    ),
    (
        {"measurements": {"selectivity": {"protocols": ["faithful"]}}},
        "C1",
        "measurements.selectivity.protocols leaves out 'corrected': add it",
    ),
    ({"measurements": {"cumulative": None}}, "C2", "measurements.cumulative is null in the study"),
    ({"measurements": {"linearity": None}}, "C3", "measurements.linearity is null in the study"),
    (
        {"conditions": {"baseline": {}}},
        "C4",
        "the study has no condition 'early': add it to conditions, or name",
    ),
]


@pytest.mark.parametrize(("settings", "claim", "reason"), ABSENT)
def test_what_the_study_leaves_out_is_named_by_its_field(settings, claim, reason):
    gone = dict.fromkeys(("selectivity", "cumulative", "linearity"), pl.DataFrame.clear)
    baseline = {"history": lambda table: table.filter(pl.col("condition") == "baseline")}
    found = judged(change=gone | baseline, **settings)[claim]
    assert found["verdict"] == "not measured"
    assert reason in found["clauses"][0]["note"]


@pytest.mark.parametrize(
    ("settings", "clause", "reason"),
    [
        ({"values": ["zero"]}, "early.mean", "measurements.cumulative.values leaves out 'mean'"),
        ({"orders": ["csi-desc", "random"]}, "early.zero", "orders leaves out 'activity-matched'"),
    ],
)
def test_ablations_that_the_study_leaves_out_are_named(settings, clause, reason):
    claim = judged(measurements={"cumulative": settings})["C2"]
    assert reason in next(c["note"] for c in claim["clauses"] if c["id"] == f"C2.{clause}")
    assert claim["verdict"] in ("inconclusive", "not measured")


def test_a_missing_measure_is_named():
    notes = [clause["note"] for clause in judged(Effects(kalimeris=None))["C3"]["clauses"]]
    assert notes[0] == ""
    assert "no measure 'kalimeris' of the logits" in notes[1]


def test_a_seed_with_a_condition_missing_is_left_out_of_that_clause_and_named():
    def drop(table):
        return table.filter(~((pl.col("condition") == "late") & (pl.col("seed") == 3)))

    claim = judged(change={"history": drop})["C4"]
    a, b, c, d = claim["clauses"]
    assert b["seeds"] == [0, 1, 2, 4]
    assert b["note"] == "left out: seed 3: 'late' lacks the test accuracy of the last 3 checkpoints"
    assert a["seeds"] == c["seeds"] == d["seeds"] == [0, 1, 2, 3, 4]


def test_seeds_left_out_can_leave_too_few():
    def drop(table):
        return table.filter(~((pl.col("condition") == "late") & pl.col("seed").is_in([1, 2, 3])))

    claim = judged(change={"history": drop})["C4"]
    assert verdicts(claim) == {
        "a": "supported",
        "b": "fewer than 3 seeds",
        "c": "supported",
        "d": "supported",
    }
    assert claim["verdict"] == "fewer than 3 seeds"


def test_a_run_that_is_not_finished_has_no_final_accuracy():
    def stop(table):
        return table.filter(~((pl.col("condition") == "early") & (pl.col("seed") == 0) & (pl.col("step") > 96)))

    a = judged(change={"history": stop})["C4"]["clauses"][0]
    assert a["seeds"] == [1, 2, 3, 4]


def test_nan_is_left_out_and_named():
    def spoil(column, step, seed):
        at = (pl.col("step") == step) & (pl.col("seed") == seed) & (pl.col("condition") == "baseline")
        return lambda table: table.with_columns(pl.when(at).then(math.nan).otherwise(pl.col(column)).alias(column))

    claims = judged(
        change={
            "selectivity": spoil("csi_cv", LAST, 1),
            "linearity": spoil("value", LAST, 2),
            "cumulative": spoil("top1", LAST, 3),
            "history": spoil("top1", 96, 4),
        }
    )
    for name, seed, reason in [
        ("C1", 1, "no csi_cv at step 0 or at the last step (100)"),
        ("C3", 2, "no midpoint nonlinearity at the last step (100)"),
        ("C4", 4, "'baseline' lacks the test accuracy of the last 3 checkpoints"),
    ]:
        clause = claims[name]["clauses"][0]
        assert clause["seeds"] == [s for s in range(5) if s != seed]
        assert clause["note"] == f"left out: seed {seed}: {reason}"
    change = next(c for c in claims["C2"]["clauses"] if c["id"] == "C2.change.zero")
    assert change["note"].startswith("left out: seed 3: no judgeable curve at the last step (100); in layers of fewer")
    json.dumps(claims, allow_nan=False)


def test_selectivity_that_is_not_positive_has_no_logarithm():
    def negative(table):
        at = (pl.col("step") == 0) & (pl.col("seed") == 2)
        return table.with_columns(pl.when(at).then(-pl.col("csi_cv")).otherwise(pl.col("csi_cv")).alias("csi_cv"))

    rise, fall, *_ = judged(change={"selectivity": negative})["C1"]["clauses"]
    assert rise["note"].startswith("left out: seed 2: no logarithm of")
    assert fall["seeds"] == [0, 1, 2, 3, 4]


def test_no_checkpoint_above_chance_leaves_c2_unmeasured():
    claim = judged(change={"cumulative": lambda table: table.with_columns(top1=pl.lit(0.1, pl.Float32))})["C2"]
    assert claim["verdict"] == "not measured"
    assert "no judgeable curve before step 12" in claim["clauses"][0]["note"]


def test_no_checkpoint_above_chance_leaves_c3_unmeasured_but_the_number_of_all_checkpoints():
    flat = {kind: lambda table: table.with_columns(top1=pl.lit(0.1, pl.Float32)) for kind in ("cumulative", "history")}
    claim = judged(change=flat)["C3"]
    assert claim["verdict"] == "not measured"
    reason = "no midpoint nonlinearity at a judgeable checkpoint before step 12"
    assert reason in claim["clauses"][0]["note"]
    assert next(item for item in claim["beside"] if item["id"] == "C3.a.all")["estimate"] is not None


def test_a_linear_model_judged_on_its_own_images_is_said():
    change = {"linearity": lambda table: table.with_columns(split=pl.lit("train")).cast(table.schema)}
    of_training = judged(change=change, measurements={"linearity": {"split": "train"}})["C3"]
    for claim, said in ((of_training, True), (judged()["C3"], False)):
        notes = {item["id"]: item["note"] for item in (*claim["clauses"], *claim["beside"])}
        told = {name for name, note in notes.items() if "which the linear model may know by heart" in note}
        assert told == ({"C3.b.level", "C3.b.above-final", "C3.b.final"} if said else set())


def test_who_is_judgeable_is_not_known_without_any_accuracy():
    gone = dict.fromkeys(("cumulative", "history"), pl.DataFrame.clear)
    assert "history of 'baseline' is not there yet" in judged(change=gone)["C3"]["clauses"][0]["note"]
    unknown = judged(change={"selectivity": pl.DataFrame.clear})["C3"]["clauses"][0]["note"]
    assert "the number of classes is not known" in unknown


def test_a_network_of_one_stage_has_no_m():
    claim = judged(change={"selectivity": lambda table: table.with_columns(stage=pl.lit("all"))})["C1"]
    assert claim["verdict"] == "not measured"
    assert "all layers are of the last stage" in claim["clauses"][0]["note"]


def with_window(condition, **window):
    settings = make_study()[0].model_dump()["conditions"]
    settings[condition]["interventions"][0]["window"] |= window
    return judged(conditions=settings)["C4"]


@pytest.mark.parametrize(
    ("condition", "clause", "said"),
    [
        ("mid", "c", "'early' 12 steps, 'mid' 24 steps"),
        ("permuted-eta2-early", "d", "'eta2-early' 12 steps, 'permuted-eta2-early' 24 steps"),
    ],
)
def test_harm_of_windows_of_unequal_length_is_not_compared(condition, clause, said):
    """C4 is registered for windows of one length: another would decide it by the dose."""
    start = WINDOWS[condition][0]
    claim = with_window(condition, stop=start + 24)
    assert verdicts(claim)[clause] == "not measured"
    assert claim["verdict"] == "inconclusive"
    (note,) = [one["note"] for one in claim["clauses"] if one["id"] == f"C4.{clause}"]
    assert note == f"the windows differ in length: {said}, and the claim compares windows of one length"


@pytest.mark.parametrize(
    ("window", "said"),
    [
        ({"stop": 72}, "the windows differ in length: 'early' 12 steps, 'late' 4 steps"),
        ({"start": 80, "stop": 92}, "'late' acts in the last fifth of training (to step 92 of 100)"),
        (
            {"start": 64, "stop": 96},
            "the windows differ in length: 'early' 12 steps, 'late' 32 steps; 'late' acts in the last fifth of "
            "training (to step 96 of 100)",
        ),
    ],
)
def test_a_late_window_that_is_not_the_early_ones_counterpart_is_said_of_the_claim(window, said):
    claim = with_window("late", **window)
    assert claim["clauses"][1]["note"] == said
    assert said in claim["note"]
    assert said in claim["sentence"]
    assert said not in judged()["C4"]["sentence"]


def test_unfinished_training_is_said():
    study, tables = make_study(recipe={"epochs": 30})
    assert judge_study(study, tables)["note"] == (
        "training of the baseline is at epoch 25 of 30: T is not the end of training"
    )
    assert judge_study(*make_study())["note"] == ""


def test_an_early_window_that_was_not_chosen_well_is_said():
    study, tables = make_study(claims={"early_window": 26})
    assert judge_study(study, tables)["note"] == (
        "the early window was not taken from pilot seeds (claims.pilot_seeds is empty); "
        "the early window is 26% of training (26 of 100 steps): over a quarter"
    )
    study, tables = make_study(claims={"early_window": 25, "pilot_seeds": [90]})
    assert judge_study(study, tables)["note"] == ""
    # of the whole training, not of what is there of it
    half = {kind: table.filter(pl.col("step") <= 50) for kind, table in tables.items()}
    assert "quarter" not in judge_study(study, half)["note"]


def test_checkpoints_that_ablation_has_not_reached_are_judged_by_the_accuracy_in_training_and_that_is_said():
    """Some early checkpoints without cumulative ablation: which are judgeable there rests on stored statistics."""
    stored = "judgeable by the accuracy in training (stored batch-norm statistics)"

    def late_only(table):
        return table.filter(pl.col("step") >= EARLY_WINDOW)

    for change, said in (({}, False), ({"cumulative": late_only}, True), ({"cumulative": pl.DataFrame.clear}, True)):
        (note, *_) = [clause["note"] for clause in judged(change=change)["C3"]["clauses"]]
        assert (stored in note) == said


def test_a_history_without_learning_rates_has_harms_at_equal_lag_all_the_same():
    def without_rates(table):
        return table.with_columns(lr=pl.lit(None, pl.Float64))

    (lag,) = [one for one in judged(change={"history": without_rates})["C4"]["beside"] if one["id"] == "C4.lag.early"]
    assert lag["estimate"] is not None
    assert lag["note"].endswith("the last test up to step 32")
