"""Early against the end by every measure of linearity, against scipy and statsmodels."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests
from synthetic import EARLY_WINDOW, LAST, STEPS, Effects, make_study

from vestige.claims.contrasts import NOT_SHOWN, contrasts
from vestige.claims.curves import Material

JUDGED_EARLY = [step for step in STEPS if 2 <= step < EARLY_WINDOW]  # before, accuracy is near chance


def compared(effects=None, change=None, seeds=(0, 1, 2, 3, 4)):
    study, tables = make_study(effects, seeds=seeds)
    tables["linearity"] = change(tables["linearity"]) if change else tables["linearity"]
    return {one.reading.title: one for one in contrasts(Material.of(study, tables, 10))}


def noisy(table, seed=0):
    """Every number of its own, anchors too, and layers enough to average over."""
    rng = np.random.default_rng(seed)
    layers = [table.filter(layer="layer1.0").with_columns(layer=pl.lit(name)) for name in ("layer2.0", "layer3.0")]
    table = pl.concat([table, *layers])
    values, anchors = rng.normal(0.5, 0.1, len(table)), rng.normal(0.6, 0.1, len(table))
    early = (table["step"] < EARLY_WINDOW).to_numpy()
    return table.with_columns(value=pl.Series(values + 0.15 * early), anchor=pl.Series(anchors))


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2, 3, 4), tuple(range(12))])
def test_contrasts_are_paired_t_tests_corrected_together(seeds):
    study, tables = make_study(seeds=seeds)
    tables["linearity"] = noisy(tables["linearity"])
    found = contrasts(Material.of(study, tables, 10))
    rows = tables["linearity"].to_dicts()
    p_values = []
    for one in found:
        sides = []
        for steps in (JUDGED_EARLY, [LAST]):
            of_seeds = []
            for seed in seeds:
                own = [
                    abs(row["value"] - row["anchor"]) if one.reading.linear == "nearer the anchor" else row["value"]
                    for row in rows
                    if (row["seed"], row["measure"], row["other"]) == (seed, one.reading.measure, one.reading.other)
                    and row["step"] in steps
                    and (row["layer"] == "logits") == (one.reading.layer == "logits")
                ]
                of_seeds.append(np.mean(own))
            sides.append(of_seeds)
        test = ttest_rel(*sides)
        assert one.interval.estimate == pytest.approx(np.mean(sides[0]) - np.mean(sides[1]), abs=1e-12)
        ends = test.confidence_interval(0.95)
        assert (one.interval.low, one.interval.high) == pytest.approx((ends.low, ends.high), abs=1e-9)
        assert list(one.early.values.values()) == pytest.approx(sides[0])
        assert list(one.final.values.values()) == pytest.approx(sides[1])
        p_values.append(test.pvalue)
    assert len(found) == 4
    assert [one.p_value for one in found] == pytest.approx(multipletests(p_values, method="fdr_bh")[1], abs=1e-12)
    for one in found:
        more = one.interval.estimate > 0
        side = "early" if more == (one.reading.linear == "higher") else "at the end"
        few = "fewer than 3 seeds"
        assert one.closer == (few if len(seeds) < 3 else side if one.p_value <= 0.05 else NOT_SHOWN)


def test_the_side_is_that_of_the_measure():
    found = compared()
    assert found["midpoint nonlinearity, logits"].closer == "early"  # 0.4, then 0.7: lower is more linear
    assert found["share that a linear model explains"].closer == "early"  # 0.9, then 0.6: higher is
    assert found["midpoint nonlinearity, layers"].closer == NOT_SHOWN  # 99 always
    assert found["midpoint nonlinearity, layers"].p_value == 1
    later = compared(Effects(midpoint=(0.9, 0.4), kalimeris=(0.3, 0.8)))
    assert later["midpoint nonlinearity, logits"].closer == "at the end"
    assert later["share that a linear model explains"].closer == "at the end"


def test_what_is_read_against_the_anchor_is_its_distance():
    def towards(table):
        """CKA rises away from the anchor, from below it to far above."""
        cka = 0.45 + pl.col("step") * (0.004 + 0.00001 * pl.col("seed"))
        return table.with_columns(
            value=pl.when(measure="cka").then(cka).otherwise("value"),
            anchor=pl.when(measure="cka").then(0.5).otherwise("anchor"),
        )

    one = compared(change=towards)["CKA of layers with the logits"]
    assert (one.reading.linear, one.closer) == ("nearer the anchor", "early")
    assert one.early.values[0] == pytest.approx(np.mean([abs(0.004 * step - 0.05) for step in JUDGED_EARLY]))
    assert one.final.values[0] == pytest.approx(0.35)


def test_a_step_that_lacks_a_layer_is_left_out_and_a_seed_without_an_end_is_named():
    def lacking(table):
        table = noisy(table)
        broken = (pl.col("measure") == "cka") & (pl.col("layer") == "layer2.0")
        at = ((pl.col("seed") == 1) & (pl.col("step") == 4)) | ((pl.col("seed") == 2) & (pl.col("step") == LAST))
        return table.with_columns(value=pl.when(broken & at).then(math.nan).otherwise("value"))

    whole, found = compared(change=noisy), compared(change=lacking)
    name = "CKA of layers with the logits"
    assert set(found[name].difference.values) == {0, 1, 3, 4}
    assert found[name].difference.left_out == {2: f"no value at the last step ({LAST})"}
    assert found[name].early.values[0] == whole[name].early.values[0]
    assert found[name].early.values[1] != whole[name].early.values[1]


def test_an_anchor_that_there_is_not_is_no_distance():
    def without(table):
        return noisy(table).with_columns(anchor=pl.lit(math.nan, pl.Float64))

    found = compared(change=without)
    assert found["CKA of layers with the logits"].closer == "not measured"
    assert math.isnan(found["CKA of layers with the logits"].p_value)
    assert found["midpoint nonlinearity, logits"].closer != "not measured"


def test_no_table_no_contrast():
    assert compared(change=lambda table: table.clear()) == {}


def test_correlations_are_those_of_the_fewest_channels():
    def correlated(table):
        rows = [
            table.filter(measure="midpoint", layer="logits").with_columns(layer=pl.lit("all"), measure=pl.lit(name))
            for name in ("correlation-top2", "correlation-csi2", "correlation-fixed2", "correlation-top10")
        ]
        return pl.concat([table, *rows])

    found = [one.reading.measure for one in contrasts_of(correlated) if one.reading.layer == "all"]
    assert found == ["correlation-top2", "correlation-top2", "correlation-csi2", "correlation-fixed2"]


def contrasts_of(change):
    return list(compared(change=change).values())
