"""Statistics of the clauses against numbers worked out by hand."""

import math
from itertools import product

import numpy as np
import polars as pl
import pytest
from synthetic import Effects, make_study

from vestige.claims.causality import cut, harm_at_lag, window_steps
from vestige.claims.curves import Material, advantage_curves, inner_stages, selectivity_curves
from vestige.claims.evidence import (
    emergence,
    importance,
    peak_steps,
    quarter_step,
    suggest_early_window,
)
from vestige.claims.linearity import linearity


def neurons(values, *, seed=0, step=0):
    """Rows of (layer, stage, csi_cv, dead)."""
    return pl.DataFrame(
        [
            {"seed": seed, "step": step, "layer": layer, "stage": stage, "csi_cv": csi, "dead": dead}
            for layer, stage, csi, dead in values
        ],
        schema_overrides={"csi_cv": pl.Float32},
    )


def test_m_is_the_mean_over_layers_of_living_neurons_outside_the_last_stage():
    table = neurons(
        [
            ("layer1.0", "layer1", 0.1, False),
            ("layer1.0", "layer1", 0.3, False),  # layer mean 0.2
            ("layer1.0", "layer1", 0.0, True),
            ("layer1.1", "layer1", 0.5, False),  # one neuron counts as much as its layer: 0.5
            ("layer2.0", "layer2", 0.8, False),
            ("layer2.0", "layer2", math.nan, False),  # 0.8
            ("layer2.1", "layer2", 0.0, True),  # a dead layer has no mean
            ("layer3.0", "layer3", 9.0, False),
            ("layer3.1", "layer3", 9.0, False),
        ]
    )
    assert inner_stages(table) == ("layer1", "layer2")
    assert selectivity_curves(table)[0][0] == pytest.approx((0.2 + 0.5 + 0.8) / 3)


def test_a_step_without_a_living_neuron_has_no_m():
    table = neurons([("a.0", "a", 0.0, True), ("b.0", "b", 1.0, False)])
    assert selectivity_curves(table) == {}


def test_peak_is_taken_from_the_other_seeds():
    curves = {0: {0: 0.1, 4: 0.9, 8: 0.2}, 1: {0: 0.1, 4: 0.3, 8: 0.4}, 2: {0: 0.1, 4: 0.3, 8: 0.5}}
    # Seed 0's own peak is at 4; the others' means at steps 4 and 8: (.3, .45), (.6, .35), (.6, .3).
    assert peak_steps(curves) == {0: 8, 1: 4, 2: 4}


def test_peak_of_equals_is_the_first_and_only_shared_steps_are_compared():
    assert peak_steps({0: {0: 0.1, 4: 0.3, 8: 0.3}, 1: {0: 0.1, 4: 0.3, 8: 0.3}}) == {0: 4, 1: 4}
    assert peak_steps({0: {0: 0.1, 4: 0.9, 8: 0.3}, 1: {0: 0.1, 8: 0.3}}) == {0: 8, 1: 8}
    assert peak_steps({5: {0: 0.1, 4: 0.9}}) == {5: 4}
    assert peak_steps({}) == {}


def test_quarter_of_training_is_the_last_checkpoint_by_then_but_not_before_the_peak():
    curve = dict.fromkeys([0, 4, 24, 26, 100], 0.1)
    assert quarter_step(curve, 4, 100) == 24
    assert quarter_step(curve, 26, 100) == 26


def ablation_rows(areas, *, seed=0, step=4, value="zero"):
    """Straight curves from (0, intact 0.6) to (1, chance) through a height at 1/2 that gives the area."""
    return pl.DataFrame(
        [
            {
                "seed": seed,
                "step": step,
                "value": value,
                "scope": scope,
                "order": order,
                "draw": draw,
                "fraction": fraction,
                "top1": 0.1 + height * 0.5,
            }
            for (scope, order, draw), area in areas.items()
            for fraction, height in zip((0.0, 0.5, 1.0), (1.0, 2 * area - 0.5, 0.0), strict=True)
        ]
    )


def test_advantage_is_averaged_over_draws_then_over_stages():
    table = ablation_rows(
        {
            ("layer1", "csi-desc", 0): 0.30,
            ("layer1", "activity-matched", 0): 0.40,
            ("layer1", "activity-matched", 1): 0.50,  # D 0.15
            ("layer2", "csi-desc", 0): 0.45,
            ("layer2", "activity-matched", 0): 0.50,  # D 0.05
            ("layer1", "random", 0): 0.90,
            ("layer3", "csi-desc", 0): 0.10,
            ("layer3", "activity-matched", 0): 0.90,
            ("all", "csi-desc", 0): 0.10,
            ("all", "activity-matched", 0): 0.90,
        }
    )
    assert advantage_curves(table, "zero", ("layer1", "layer2"), 10)[0][4] == pytest.approx(0.10)
    assert advantage_curves(table, "mean", ("layer1", "layer2"), 10) == {}


def test_advantage_needs_both_orders_and_a_network_above_chance():
    assert advantage_curves(ablation_rows({("layer1", "csi-desc", 0): 0.3}), "zero", ("layer1",), 10) == {}
    areas = {("layer1", "csi-desc", 0): 0.3, ("layer1", "activity-matched", 0): 0.4}
    assert advantage_curves(ablation_rows(areas), "zero", ("layer1",), 2) == {}  # 0.6 is not 2/C of two classes


def material(effects=None, **settings):
    study, tables = make_study(effects, **settings)
    return Material.of(study, tables, None)


def test_statistics_of_c1_are_the_synthetic_studys():
    samples = emergence(material(Effects(spread={"csi": 0.0})))
    by_hand = {
        "C1.rise": math.log(0.24 / 0.10),
        "C1.fall": math.log(0.24 / 0.12),
        "C1.rapid": 0.18 - 0.14,
        "C1.remains": 0.12,
        "C1.peak": 4.0,
        "C1.recession": 0.10 / 0.12,
        "C1.eta2-fall": math.log(2),
        "C1.eta2-rise": math.log(3),
    }
    assert set(by_hand) == set(samples)
    for name, expected in by_hand.items():
        assert list(samples[name].values.values()) == pytest.approx([expected] * 5, rel=1e-6), name


def test_statistics_of_c2_are_the_synthetic_studys():
    samples = importance(material(Effects(advantage={"zero": (0.12, 0.02), "mean": (0.08, 0.05)})))
    for name, expected in {
        "C2.early.zero": 0.12,
        "C2.change.zero": 0.10,
        "C2.final.zero": 0.02,
        "C2.early.mean": 0.08,
        "C2.change.mean": 0.03,
        "C2.final.mean": 0.05,
    }.items():
        assert np.mean(list(samples[name].values.values())) == pytest.approx(expected, abs=1e-6), name


def test_early_window_ends_before_its_last_step():
    study, tables = make_study(claims={"early_window": 13})  # one checkpoint more, at 12, which holds the final D
    early = importance(Material.of(study, tables, None))["C2.early.zero"]
    # judgeable checkpoints in [0, 13): 2, 4, 8 with D 0.12 and 12 with D 0.02
    assert np.mean(list(early.values.values())) == pytest.approx((3 * 0.12 + 0.02) / 4, abs=1e-6)


@pytest.mark.parametrize(
    ("window", "steps"), [(12, 12), ({"stop": 3, "unit": "epochs"}, 12), ({"stop": 0.5, "unit": "epochs"}, 2)]
)
def test_early_window_is_placed_in_steps(window, steps):
    assert material(claims={"early_window": window}).early_window == steps


def test_early_window_in_epochs_is_not_known_before_the_first_is_over():
    study, tables = make_study(claims={"early_window": {"stop": 3, "unit": "epochs"}})
    tables["history"] = tables["history"].filter(pl.col("epoch") < 1)
    young = Material.of(study, tables, None)
    assert young.early_window is None
    for sample in (importance(young)["C2.early.zero"], linearity(young)["C3.a"], linearity(young)["C3.b.level"]):
        assert "the early window is in epochs, and no epoch is over yet: run `vestige run`" in sample.missing
    assert importance(young)["C2.final.zero"].values


def with_midpoint_at_initialisation(tables, value):
    untrained = (pl.col("measure") == "midpoint") & (pl.col("layer") == "logits") & (pl.col("step") == 0)
    return tables["linearity"].with_columns(pl.when(untrained).then(value).otherwise(pl.col("value")).alias("value"))


def test_early_midpoint_is_of_judgeable_checkpoints_and_beside_it_of_all():
    study, tables = make_study(Effects(spread={"midpoint": 0.0}))
    tables["linearity"] = with_midpoint_at_initialisation(tables, 1.4)
    samples = linearity(Material.of(study, tables, None))
    early = (1.4 + 4 * 0.4) / 5  # steps 0, 1, 2, 4, 8
    assert samples["C3.a"].values[0] == pytest.approx(math.log(0.7 / 0.4))
    assert samples["C3.a"].note == ""
    assert samples["C3.a.all"].values[0] == pytest.approx(math.log(0.7 / early))


def test_what_is_judgeable_is_decided_by_the_intact_network_of_c2():
    """Its statistics are recomputed, as those of the network whose linearity is measured; training's lag behind."""
    study, tables = make_study(Effects(spread={"midpoint": 0.0}))
    tables["linearity"] = with_midpoint_at_initialisation(tables, 1.4)
    first = (pl.col("step") == 0) & (pl.col("fraction") == 0)
    tables["cumulative"] = tables["cumulative"].with_columns(
        pl.when(first).then(0.7).otherwise(pl.col("top1")).alias("top1")
    )
    in_ablation = linearity(Material.of(study, tables, None))["C3.a"]
    early = (1.4 + 3 * 0.4) / 4  # steps 0, 2, 4, 8
    assert in_ablation.values[0] == pytest.approx(math.log(0.7 / early))
    in_training = linearity(Material.of(study, tables | {"cumulative": tables["cumulative"].clear()}, None))["C3.a"]
    assert in_training.values[0] == pytest.approx(math.log(0.7 / 0.4))
    assert "for want of cumulative ablation" in in_training.note


def test_share_of_a_linear_model_is_of_judgeable_checkpoints_too():
    study, tables = make_study(Effects(spread={"kalimeris": 0.0}))
    second = (pl.col("measure") == "kalimeris") & (pl.col("step") == 1)
    tables["linearity"] = tables["linearity"].with_columns(
        pl.when(second).then(0.1).otherwise(pl.col("value")).alias("value")
    )
    level = linearity(Material.of(study, tables, None))["C3.b.level"]
    assert list(level.values.values()) == pytest.approx([0.9] * 5)


def test_small_layers_are_named_beside_the_areas():
    study, tables = make_study()
    sizes = {"layer1": 31, "layer2": 32, "layer3": 4}
    wide = [
        tables["selectivity"].filter(pl.col("stage") == stage, pl.col("neuron") == 0).with_columns(neuron=n)
        for stage, size in sizes.items()
        for n in range(size)
    ]
    found = pl.concat([frame.with_columns(pl.col("neuron").cast(pl.Int32)) for frame in wide])
    notes = [s.note for s in importance(Material.of(study, tables | {"selectivity": found}, None)).values()]
    assert (
        notes
        == [
            "in layers of fewer than 32 neurons (layer1: 31) activity-matched hardly differs from csi-desc "
            "(deciles of one to three neurons): the effect is squeezed towards 0"
        ]
        * 6
    )
    without = tables | {"selectivity": found.filter(pl.col("stage") != "layer1")}
    assert {s.note for s in importance(Material.of(study, without, None)).values()} == {""}


def test_cut_weighs_checkpoints_by_the_steps_before_them():
    effects = Effects(csi={0: 0.1, 100: 0.1}, spread={"csi": 0.0}, cut={"early": 0.0})
    study, tables = make_study(effects)
    # In (0, 12]: 1, 2, 4, 8, 12 with weights 1, 1, 2, 4, 4; nothing is cut at 1 and 2, half at 4, then all.
    left = pl.col("step").replace_strict({0: 1.0, 1: 1.0, 2: 1.0, 4: 0.5, 8: 0.0, 12: 0.0}, default=1.0)
    arm = pl.col("condition") == "early"
    tables["selectivity"] = tables["selectivity"].with_columns(
        pl.when(arm).then(pl.col("csi_cv") * left).otherwise(pl.col("csi_cv")).alias("csi_cv")
    )
    sample = cut(Material.of(study, tables, None), "early")
    assert sample.values[0] == pytest.approx(1 - (1 + 1 + 2 * 0.5) / 12)


def test_harm_is_taken_as_long_after_each_window():
    harm = {"early": 0.06, "mid": 0.03, "late": 0.02}
    study, tables = make_study(Effects(harm=harm, spread={"harm": 0.0}))
    material = Material.of(study, tables, None)
    # The last window ends 20 steps before T: 20 after the others' ends at 12 and 28 are 32 and 48, both tested.
    for condition, step in (("early", 32), ("mid", 48), ("late", 100)):
        sample = harm_at_lag(material, condition)
        grown = math.sqrt(step / 100)  # as accuracy grows in these tables
        assert list(sample.values.values()) == pytest.approx([harm[condition] * grown] * 5)
        assert sample.note == f"20 steps after the window: the last test up to step {step}, at learning rate 0.1"
    untested = tables | {"history": tables["history"].filter(~pl.col("step").is_between(12, 32))}
    missing = harm_at_lag(Material.of(study, untested, None), "early")
    assert missing.values == {}
    assert set(missing.left_out.values()) == {"not tested in steps [12, 32]"}


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"start": 3, "stop": 9}, (3, 9)),
        ({"start": 1, "stop": 3, "unit": "epochs"}, (4, 12)),
        ({"start": 0.25, "stop": 0.5, "unit": "epochs"}, (1, 2)),
        ({"start": 5}, (5, 100)),
    ],
)
def test_windows_are_placed_in_steps(window, expected):
    conditions = {"baseline": {}, "early": {"interventions": [{"kind": "eta2", "window": window}]}}
    assert window_steps(material(conditions=conditions), "early") == expected


def test_windows_of_several_interventions_are_joined():
    interventions = [{"kind": "eta2", "window": {"start": a, "stop": b}} for a, b in ((8, 12), (4, 10))]
    conditions = {"baseline": {}, "early": {"interventions": interventions}}
    assert window_steps(material(conditions=conditions), "early") == (4, 12)
    assert window_steps(material(conditions=conditions), "baseline") is None


@pytest.mark.parametrize(
    ("intervention", "expected"),
    [
        ({"kind": "rewind", "modules": ["fc"], "window": {"start": 8}}, (8, 9)),
        ({"kind": "offset-sham", "window": {"stop": 8}}, (7, 8)),
    ],
)
def test_what_acts_in_one_step_of_its_window_has_that_step(intervention, expected):
    conditions = {"baseline": {}, "early": {"interventions": [intervention]}}
    assert window_steps(material(conditions=conditions), "early") == expected


def test_pilot_rule_finds_the_first_checkpoint_halfway_down():
    # From 0.24 at step 4 to 0.12 at the end: halfway is 0.18; m is 0.199 at 12, 0.179 at 16.
    _, tables = make_study(Effects(spread={"csi": 0.0}, csi={0: 0.1, 4: 0.24, 16: 0.179, 24: 0.14, 100: 0.12}))
    assert suggest_early_window(tables["selectivity"]) == 16
    assert suggest_early_window(tables["selectivity"].filter(pl.col("step") != 16)) == 24
    assert suggest_early_window(tables["selectivity"], "nobody") is None


def test_pilot_rule_finds_nothing_where_m_never_falls():
    _, tables = make_study(Effects(csi={0: 0.1, 100: 0.3}, spread={"csi": 0.0}))
    assert suggest_early_window(tables["selectivity"]) is None
    assert suggest_early_window(tables["selectivity"].clear()) is None


def test_faithful_rows_and_the_other_split_are_not_counted():
    study, tables = make_study()
    wild = [
        table.with_columns(pl.lit(protocol).alias("protocol"), pl.lit(split).alias("split"))
        for table, (protocol, split) in product(
            [tables["selectivity"].with_columns(csi_cv=pl.lit(5.0, pl.Float32))],
            [("faithful", "test"), ("corrected", "train")],
        )
    ]
    mixed = tables | {"selectivity": pl.concat([*wild, tables["selectivity"]])}
    assert emergence(Material.of(study, mixed, None)) == emergence(Material.of(study, tables, None))
