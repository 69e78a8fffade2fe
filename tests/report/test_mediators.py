"""F6: harm against what an intervention changed, from hand-made tables."""

import polars as pl
import pytest

from vestige.config import parse_study
from vestige.report.figures import Source, build_figures
from vestige.report.figures.mediators import changes
from vestige.report.panels import Panel, Points
from vestige.runs.manifest import Manifest
from vestige.runs.tables import SCHEMAS, conform

WINDOWS = {"early": (0, 4), "late": (8, 10), "always": (0, None)}
HARM = {"baseline": 0.0, "early": 0.04, "late": 0.01, "always": 0.1}
CSI = {"baseline": 0.3, "early": 0.1, "late": 0.2, "always": 0.05}
STEPS = (0, 5, 12)
FIRST_AFTER = {"early": 5, "late": 12, "always": 12}
ONSET = 8


@pytest.fixture
def study():
    conditions = {"baseline": {}} | {
        name: {"interventions": [{"kind": "selectivity", "window": {"start": start, "stop": stop}}]}
        for name, (start, stop) in WINDOWS.items()
    }
    recipe = {"epochs": 3, "schedule": "constant"}
    return parse_study({"name": "x", "conditions": conditions, "seeds": [0, 1], "recipe": recipe}, source="x")


def rows(condition, seed):
    """A dead neuron, the last stage and the faithful protocol hold numbers that must not count."""
    for step in STEPS:
        if condition == "late" and step <= ONSET:
            continue
        for protocol, stage, neuron, dead, csi in (
            ("corrected", "a", 0, False, CSI[condition] + 0.01 * step + seed),
            ("corrected", "a", 1, True, 9.0),
            ("corrected", "b", 0, False, 9.0),
            ("faithful", "a", 0, False, 9.0),
        ):
            own = {"protocol": protocol, "stage": stage, "layer": f"{stage}.0", "neuron": neuron, "dead": dead}
            yield own | {"condition": condition, "seed": seed, "step": step, "csi": csi, "eta2": csi / 2, "closed": 0.5}


@pytest.fixture
def tables():
    runs = [(condition, seed) for condition in CSI for seed in (0, 1)]
    measured = pl.DataFrame([row for run in runs for row in rows(*run)])
    constant = {"epoch": 0.0, "dataset": "d", "split": "test", "n": 10}
    missing = {name: None for name in SCHEMAS["selectivity"] if name not in (*measured.columns, *constant)}
    selectivity = conform(measured, "selectivity", **constant, **missing)
    final = [
        {
            "condition": condition,
            "seed": seed,
            "step": step,
            "epoch": step / 4,
            "top1": 0.6 + 0.1 * seed - HARM[condition],
        }
        for condition, seed in runs
        for step in (10, 11, 12)
    ]
    lacking = {"split": "test", "loss": 1.0, "top5": None, "lr": 0.1}
    return {"selectivity": selectivity, "history": conform(pl.DataFrame(final), "history", **lacking)}


def f6(study, tables, manifests=None):
    source = Source(study, tables, None, manifests or {})
    return source, {figure.id: figure for figure in build_figures(source)}["F6"]


def test_harm_and_changes_are_the_conditions_less_the_baselines(study, tables):
    source, _ = f6(study, tables)
    found = {(row["condition"], row["seed"]): row for row in changes(source).iter_rows(named=True)}
    assert found.keys() == {(condition, seed) for condition in WINDOWS for seed in (0, 1)}
    for (condition, _), row in found.items():
        assert row["step"] == FIRST_AFTER[condition]
        assert row["harm"] == pytest.approx(HARM[condition])
        assert row["csi"] == pytest.approx(CSI[condition] - CSI["baseline"], abs=1e-6)
        assert row["eta2"] == pytest.approx((CSI[condition] - CSI["baseline"]) / 2, abs=1e-6)
        assert row["closed"] == pytest.approx(0)


def test_a_rewind_is_compared_after_its_only_step(study, tables):
    """Its window has no stop: at the end of training what it changed has long been made up for."""
    rewind = {"kind": "rewind", "modules": ["fc"], "to": 0, "window": {"start": 4}}
    conditions = {"baseline": {}, "always": {"interventions": [rewind]}}
    source, _ = f6(study.model_copy(update={"conditions": parse_conditions(conditions)}), tables)
    assert changes(source)["step"].to_list() == [5, 5]


def parse_conditions(conditions):
    return parse_study({"name": "x", "conditions": conditions}, source="x").conditions


def test_the_baseline_is_the_first_condition_without_interventions(study, tables):
    """As the plan has it, wherever it stands."""
    conditions = dict(sorted(study.conditions.items(), key=lambda item: item[0] == "baseline"))
    assert list(conditions)[-1] == "baseline"
    source, figure = f6(study.model_copy(update={"conditions": conditions}), tables)
    assert source.baseline == "baseline"
    assert figure.shown
    assert set(changes(source)["condition"]) == set(WINDOWS)


def test_a_study_that_was_stopped_halfway_has_no_harm(study, tables):
    stopped = tables | {"history": tables["history"].filter(pl.col("step") <= 11)}
    _, figure = f6(study, stopped)
    assert not figure.shown
    assert figure.missing == (
        "Not at its end (step 11 of 12): baseline, seed 0 and 1. Harm is what it has more in the end.",
        "Not trained and measured to the end beside baseline: early, late, always.",
    )


def points(panel: Panel, condition: str) -> list[Points]:
    return [mark for mark in panel.marks if isinstance(mark, Points) and mark.key == condition]


def test_points_are_seeds_and_their_mean(study, tables):
    _, figure = f6(study, tables)
    csi, eta2, closed = figure.views[0].panels
    seeds, mean = points(csi, "early")
    assert len(seeds.x) == 2
    assert (mean.x, mean.y) == (pytest.approx([-0.2], abs=1e-6), pytest.approx([4.0]))
    assert points(eta2, "early")[1].x == pytest.approx([-0.1], abs=1e-6)
    assert closed.table is not None
    assert closed.table.rows[0] == ("early", 5, 2, pytest.approx(0), pytest.approx(4.0))
    assert figure.missing == ()


def test_what_is_not_there_yet_is_said(study, tables):
    unfinished = tables | {"history": tables["history"].filter(pl.col("condition") != "late")}
    _, figure = f6(study, unfinished)
    assert figure.missing == ("Not trained and measured to the end beside baseline: late.",)
    _, figure = f6(study, {})
    assert not figure.shown


def test_a_branch_is_compared_after_its_window(study, tables):
    parent = {"condition": "baseline", "seed": 0, "step": ONSET, "sha256": "0"}
    manifest = Manifest(key="k", complete=True, seconds=1.0, made={}, checkpoints={}, artifacts={}, parent=parent)
    source, _ = f6(study, tables, {("late", 0): manifest})
    assert changes(source).filter(condition="late")["step"].to_list() == [12, 12]
