import re

import numpy as np
import polars as pl
import pytest
from scipy.stats import rankdata

from vestige.report.figures import Source, build_figures
from vestige.report.figures.ablation import areas
from vestige.report.figures.importance import correlations
from vestige.report.interactive import figure_data
from vestige.report.panels import Curve, Interval, StepScale
from vestige.report.style import DARK, LIGHT, count, duration, names, number, slot

OKABE_ITO = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}


@pytest.fixture(scope="module")
def source(study, tables, claims, manifests):
    return Source(study, tables, claims, manifests)


@pytest.fixture(scope="module")
def figures(source):
    return {figure.id: figure for figure in build_figures(source)}


def test_step_zero_has_its_place_and_decades_are_equal():
    scale = StepScale.of([0, 1, 10, 100, 1000])
    places = [scale(step) for step in (0, 1, 10, 100, 1000)]
    assert places == pytest.approx([0, 0.4, 1.4, 2.4, 3.4])
    assert scale(0.5) == pytest.approx(0.2)
    late = StepScale.of([0, 391, 3910])
    assert [late(step) for step in (0, 391, 3910)] == pytest.approx([0, 0.4, 1.4])
    assert late.ticks()[0] == 0
    assert all(391 <= tick <= 3910 for tick in late.ticks()[1:])
    assert len(late.ticks()) >= 3


def test_a_study_of_step_zero_alone_has_an_axis():
    scale = StepScale.of([0])
    assert scale(0) == 0
    assert scale.ticks()[0] == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"),
        (-0.5, "−0.500"),
        (0, "0"),
        (1234.6, "1\u202f235"),
        (2e-7, "2.00e−7"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_numbers_are_written_for_readers(value, shown):
    assert number(value) == shown


def test_counts_durations_and_lists_are_written_for_readers():
    assert [count(1, "seed"), count(5, "seed"), count(12345, "step")] == [
        "1 seed",
        "5 seeds",
        "12\u202f345 steps",
    ]
    assert [duration(4.21), duration(59), duration(125), duration(3720)] == [
        "4.2 s",
        "59 s",
        "2 min 5 s",
        "1 h 2 min",
    ]
    assert [names([]), names(["a"]), names(["a", "b", "c"])] == ["none", "a", "a, b and c"]
    assert names(list("abcdefghij"), limit=3) == "a, b and 8 more"


def test_colours_are_okabe_and_ito_and_never_the_only_difference():
    assert set(LIGHT[1:]) == OKABE_ITO
    assert len(LIGHT) == len(DARK)
    assert len({slot(index) for index in range(20)}) == 20


def test_areas_of_curves_drawn_by_hand():
    rows = [("a", 0, f, t) for f, t in ((0.0, 0.9), (0.5, 0.5), (1.0, 0.1))]
    rows += [("b", 0, f, t) for f, t in ((0.0, 0.12), (0.5, 0.11), (1.0, 0.1))]
    rows += [("c", 0, f, t) for f, t in ((0.0, 0.9), (1.0, None))]
    frame = pl.DataFrame(rows, schema=["order", "draw", "fraction", "top1"], orient="row").with_columns(
        condition=pl.lit("x"),
        protocol=pl.lit("corrected"),
        seed=0,
        step=1,
        scope=pl.lit("layer1"),
        value=pl.lit("zero"),
    )
    found = dict(areas(frame, 10).select("order", "area").iter_rows())
    assert found == {"a": pytest.approx(0.5), "b": None, "c": None}
    assert areas(frame, None).is_empty()


def test_every_figure_has_views_a_caption_and_words_for_those_who_cannot_see_it(figures):
    assert list(figures) == ["F1", "F2", "F2b", "F2c", "F3", "F4", "F6", "accuracy"]
    for figure in figures.values():
        assert figure.shown
        assert figure.caption
        assert figure.alternative
        assert figure.sources
        assert all(panel.table for view in figure.views for panel in view.panels)


def test_the_first_view_is_the_baselines(figures):
    for name in ("F1", "F2", "F2b", "F2c", "F3"):
        assert figures[name].views[0].name.startswith("baseline")
        assert figures[name].views[0].file


def test_each_seed_has_a_thin_line_and_the_mean_a_thick_one(figures):
    panel = figures["F1"].views[0].panels[0]
    curves = [mark for mark in panel.marks if isinstance(mark, Curve) and mark.key == "layer2"]
    assert [curve.weight for curve in curves] == ["seed"] * 3 + ["mean"]
    middle = [sum(values) / 3 for values in zip(*(curve.y for curve in curves[:3]), strict=True)]
    assert curves[3].y == pytest.approx(middle)


def test_the_early_neurons_are_of_the_checkpoint_of_highest_selectivity(figures):
    assert [panel.title for panel in figures["F2b"].views[0].panels] == ["Early: step 4", "Late: step 100"]


def test_forest_rows_are_the_clauses_in_points(figures, claims):
    marks = [mark for mark in figures["F4"].views[0].panels[0].marks if isinstance(mark, Interval)]
    clauses = claims["claims"][3]["clauses"]
    assert [mark.estimate for mark in marks] == pytest.approx([100 * clause["estimate"] for clause in clauses])
    assert [mark.key for mark in marks] == ["contradicted", "supported", "neither", "supported"]


def test_a_clause_that_was_not_measured_is_named_below_the_forest(study, tables, claims, manifests):
    causality = claims["claims"][3]
    blank = causality["clauses"][0] | {
        "estimate": None,
        "low": None,
        "high": None,
        "verdict": "not measured",
        "note": "no runs",
    }
    told = claims | {"claims": [causality | {"clauses": [blank, *causality["clauses"][1:]]}]}
    figure = {one.id: one for one in build_figures(Source(study, {}, told, manifests))}["F4"]
    assert figure.missing == ("H(early): no runs",)
    assert len(figure.views[0].panels[0].marks) == 3


def test_many_layers_are_told_apart_by_stage_and_dash(study, tables, claims, manifests):
    deep = pl.concat(
        [
            tables["selectivity"].filter(pl.col("step") < 3).with_columns(layer=pl.col("stage") + f".{block}")
            for block in range(3)
        ]
    )
    figure = build_figures(Source(study, {"selectivity": deep}, None, {}))[0]
    layered = next(view for view in figure.views if view.name == "baseline · by layer")
    assert len(layered.keys) == 9
    assert len({(key.slot, key.dash) for key in layered.keys}) == 9
    assert len({key.slot for key in layered.keys}) == 3


def test_both_protocols_have_a_view_and_a_file(study, tables):
    both = pl.concat([tables["selectivity"], tables["selectivity"].with_columns(protocol=pl.lit("faithful"))])
    figure = build_figures(Source(study, {"selectivity": both}, None, {}))[0]
    assert "class sums in place of class means, and stored batch-norm statistics" in figure.caption
    views = figure.views
    assert {view.file for view in views if view.file} == {
        "F1-selectivity", "F1-selectivity-faithful", "F1-conditions", "F1-conditions-faithful",
    }  # fmt: skip


def test_captions_say_what_their_numbers_are_of(figures, study, tables):
    assert "stored batch-norm statistics, the recipe’s precision" in figures["accuracy"].caption
    assert "CSI is from all images of the selectivity measurement, those of the ablation" in figures["F2b"].caption
    assert not any("Faithful" in figure.caption for figure in figures.values())
    faithful = tables | {"selectivity": tables["selectivity"].with_columns(protocol=pl.lit("faithful"))}
    alone = {figure.id: figure for figure in build_figures(Source(study, faithful, None, {}))}
    assert alone["F2b"].shown
    assert all("Faithful differs from corrected in two things" in alone[name].caption for name in ("F1", "F2b"))


def test_plotly_knows_every_field(source, figures):
    from plotly import graph_objects

    for figure in figures.values():
        for panels in figure_data(figure, source.scale):
            for panel in panels:
                graph_objects.Figure(data=panel["data"], layout=panel["layout"])  # raises on what it does not know
                assert all("slot" in trace["meta"] for trace in panel["data"])


def test_paper_figures_embed_their_fonts_and_carry_no_date(written):
    pdfs = sorted((written / "figures").glob("*.pdf"))
    assert [path.stem for path in pdfs] == [
        "F1-conditions", "F1-selectivity", "F2-ablation", "F2-importance", "F2-single-neurons",
        "F3-correlation", "F3-linearity", "F4-causality", "F6-mediators", "accuracy",
    ]  # fmt: skip
    for path in pdfs:
        content = path.read_bytes()
        assert b"/CIDFontType2" in content
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
        assert b"CreationDate" not in content
        picture = path.with_suffix(".png").read_bytes()
        assert not re.search(rb"Software|matplotlib|tIME", picture[:300])


def test_importance_is_the_partial_rank_correlation_of_each_layer_averaged():
    rng = np.random.default_rng(0)
    rows = {"seed": 0, "step": 5, "condition": "baseline"}
    layers, expected = [], []
    for layer in ("a", "b"):
        mean, csi = rng.random((2, 30))
        loss = csi + 0.5 * mean + 0.3 * rng.random(30)
        layers.append((layer, mean, csi, loss))
        ranks = [rankdata(values) for values in (csi, loss, mean)]
        left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
        expected.append(np.arctanh(np.corrcoef(*left)[0, 1]))
    selectivity, ablation = [], []
    for layer, mean, csi, loss in layers:
        named = {**rows, "stage": "s", "layer": layer, "neuron": np.arange(30, dtype=np.int32)}
        measures = {"mean": mean, "csi": csi, "csi_cv": csi, "eta2": -csi, "dead": False, "protocol": "corrected"}
        selectivity.append(pl.DataFrame(named | measures))
        ablation.append(pl.DataFrame(named | {"value": "zero", "loss_delta": loss}))
    found = correlations(pl.concat(ablation), pl.concat(selectivity))
    rho = dict(found.select("measure", "rho").iter_rows())
    assert rho["csi"] == rho["csi_cv"] == pytest.approx(np.tanh(np.mean(expected)), abs=1e-9)
    assert rho["eta2"] == pytest.approx(-rho["csi"])
