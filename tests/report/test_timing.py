"""F5, the heat map over onset and dose: its numbers are the history's, and it is drawn on page and paper."""

import polars as pl
import pytest

from vestige.config import parse_study
from vestige.report.figures import Source, build_figures
from vestige.report.interactive import figure_data
from vestige.report.page import write_report
from vestige.report.panels import Heat
from vestige.runs.manifest import Manifest
from vestige.runs.store import StudyFolder
from vestige.runs.tables import conform

GRID = {"name": "g", "intervention": {"kind": "selectivity"}, "onset": [4, 0], "length": [4], "dose": [-5, -20]}
HARM = {"g-on0-for4-alpha-5": 0.01, "g-on0-for4-alpha-20": 0.10, "g-on4-for4-alpha-5": -0.02}
"""The fourth is not trained; accuracies differ between seeds by far more than this."""


@pytest.fixture
def study():
    recipe = {"epochs": 3, "schedule": "constant"}
    return parse_study({"name": "x", "grid": GRID, "seeds": [0, 1], "recipe": recipe}, source="x")


@pytest.fixture
def history():
    rows = []
    for condition, harm in {"baseline": 0.0, **HARM}.items():
        for seed in (0, 1):
            for step, gained in ((0, 0.0), (8, 0.2), (10, 0.3), (12, 0.4)):
                top1 = gained + 0.3 * seed - (harm if step >= 8 else 0)
                row = {
                    "step": step,
                    "epoch": step / 4,
                    "split": "test",
                    "loss": 1.0,
                    "top1": top1,
                    "top5": 1.0,
                    "lr": 0.1,
                }
                rows.append(conform(pl.DataFrame([row]), "history", condition=condition, seed=seed))
    return pl.concat(rows)


def f5(study, history):
    manifests: dict[tuple[str, int], Manifest] = {}
    source = Source(study, {"history": history}, None, manifests)
    return source, {figure.id: figure for figure in build_figures(source)}["F5"]


def test_cells_are_the_mean_harm_over_seeds(study, history):
    _, figure = f5(study, history)
    (panel,) = figure.views[0].panels
    assert (panel.title, panel.x.names, panel.y.names) == ("4 steps long", ("0", "4"), ("−20", "−5"))
    (heat,) = panel.marks
    assert isinstance(heat, Heat)
    (strong, missing), weak = heat.values
    assert (strong, missing) == (pytest.approx(10.0), None)
    assert weak == pytest.approx((1.0, -2.0))
    assert heat.reach == pytest.approx(10.0)
    assert figure.missing == ("Not trained to the end beside baseline: g-on4-for4-alpha-20.",)
    assert panel.table.rows[0] == ("0", "−20", pytest.approx(10.0), 2)


def test_plotly_knows_it(study, history):
    from plotly import graph_objects

    source, figure = f5(study, history)
    for panels in figure_data(figure, source.scale):
        for panel in panels:
            drawn = graph_objects.Figure(data=panel["data"], layout=panel["layout"])
            assert "heatmap" in {trace.type for trace in drawn.data}


def test_it_stands_on_the_page_and_on_paper(study, history, tmp_path):
    folder = StudyFolder(tmp_path)
    page = write_report(folder, study, {"history": history}, None, {}).read_text()
    assert 'id="F5"' in page
    assert "When, and how much" in page
    assert (folder.report / "figures" / "F5-timing.pdf").stat().st_size > 1000


def test_without_a_grid_there_is_none(history):
    study = parse_study({"name": "x"}, source="x")
    source = Source(study, {"history": history}, None, {})
    assert "F5" not in [figure.id for figure in build_figures(source)]


def test_a_study_that_was_stopped_halfway_has_no_harm(study, history):
    """Step 10 of 12 is the last of all: what is missing there is not final accuracy."""
    _, figure = f5(study, history.filter(pl.col("step") <= 10))
    assert not figure.shown
    assert figure.missing[0] == (
        "Not at its end (step 10 of 12): baseline, seed 0 and 1. Harm is what it has more in the end."
    )
    one = (pl.col("condition") == "baseline") & (pl.col("seed") == 1) & (pl.col("step") == 12)
    _, figure = f5(study, history.filter(~one))
    assert figure.missing[0].startswith("Not at its end (step 10 of 12): baseline, seed 1.")
    assert figure.views[0].panels[0].table.rows[0] == ("0", "−20", pytest.approx(10.0), 1)


def test_a_grid_that_is_not_trained_yet_says_so(study, history):
    _, figure = f5(study, history.filter(condition="baseline"))
    assert not figure.shown
    assert figure.missing[0].startswith(
        "Not trained to the end beside baseline: g-on4-for4-alpha-5, g-on4-for4-alpha-20"
    )
