"""What interventions ask of other runs: what is done first, what is refused, and grids of conditions."""

import pytest
import yaml
from test_keys import facts

from vestige.config import dump_study, parse_study
from vestige.errors import ConfigError
from vestige.study.plan import Unit, make_plan

EARLY = {"interventions": [{"kind": "selectivity", "window": {"stop": 4}}]}
SHAM = {"interventions": [{"kind": "offset-sham", "window": {"stop": 4}}]}
CLAMP = {"interventions": [{"kind": "clamp", "window": {"start": 6, "stop": 8}}]}
REWIND = {"interventions": [{"kind": "rewind", "of": "baseline", "to": 4, "modules": ["fc"], "window": {"start": 8}}]}


def plan(conditions, only=(), **settings):
    """500 images, batches of 128: 4 steps an epoch, a checkpoint after each."""
    stated = {
        "name": "x",
        "conditions": {"baseline": {}, **conditions},
        "recipe": {"epochs": 5},
        "checkpoints": {"log_spaced": None, "young_epochs": 0},
        "seeds": [0],
        **settings,
    }
    return make_plan(parse_study(stated, source="x"), facts(500), only)


def needed(plan, unit):
    return [need.name for need in plan.needs(unit)]


def test_tables_are_made_before_what_asks_for_them():
    laid = plan({"sham": SHAM, "clamp": CLAMP, "rewind": REWIND, "early": EARLY})
    assert needed(laid, Unit("sham", 0)) == ["train/baseline/seed-0", "measure/early/seed-0/step-00000004"]
    assert needed(laid, Unit("clamp", 0)) == ["train/baseline/seed-0", "measure/baseline/seed-0/step-00000004"]
    assert needed(laid, Unit("rewind", 0)) == ["train/baseline/seed-0"]
    assert needed(laid, Unit("early", 0)) == []
    assert needed(laid, Unit("early", 0, 4)) == ["train/early/seed-0"]
    places = {unit: place for place, unit in enumerate(laid.units)}
    assert all(need in places for unit in laid.units for need in laid.needs(unit))
    assert len(places) == len(laid.units)


def test_what_is_asked_for_is_done_even_where_it_was_not_chosen():
    laid = plan({"sham": SHAM, "early": EARLY}, only=["sham"])
    names = [unit.name for unit in laid.units]
    assert names[:3] == ["train/baseline/seed-0", "train/early/seed-0", "train/sham/seed-0"]
    assert "measure/early/seed-0/step-00000004" in names
    assert "measure/early/seed-0/step-00000008" not in names


def test_a_sham_and_a_clamp_branch_from_their_baseline():
    laid = plan({"sham": SHAM, "clamp": CLAMP, "rewind": REWIND, "early": EARLY})
    assert laid.windows("sham") == [(3, 4)]
    assert laid.windows("rewind") == [(8, 9)]
    assert laid.onsets("baseline") == (3, 6, 8)
    assert laid.own_checkpoints("sham") == (4, 8, 12, 16, 20)


REFUSED = {
    "no such target": ({"sham": SHAM}, {}, "it needs a table of the condition 'early', which is none of the study's"),
    "no checkpoint there": (
        {"early": EARLY, "sham": {"interventions": [{"kind": "offset-sham", "window": {"stop": 5}}]}},
        {},
        "'early' has no checkpoint at step 5. Let it be one of 0, 4, 8, 12, 16, 20, or make checkpoints denser",
    ),
    "not measured": (
        {"early": EARLY, "sham": SHAM},
        {"measurements": {"selectivity": {"conditions": ["baseline"]}}},
        "the selectivity of 'early' is not measured (protocol corrected). Add 'early' to measurements.selectivity.cond",
    ),
    "in a ring": (
        {
            "one": {"interventions": [{"kind": "offset-sham", "target": "two", "window": {"stop": 4}}]},
            "two": {"interventions": [{"kind": "offset-sham", "target": "one", "window": {"stop": 4}}]},
        },
        {},
        "it needs a table of 'two', which needs one of it. Take another condition.",
    ),
    "back to nowhere": (
        {"r": {"interventions": [{"kind": "rewind", "to": 3, "modules": ["fc"], "window": {"start": 8}}]}},
        {},
        "no weights are kept at step 3. Go back (to) to one of 0, 4, 8, or make checkpoints denser",
    ),
    "forward": (
        {"r": {"interventions": [{"kind": "rewind", "to": 8, "modules": ["fc"], "window": {"start": 8}}]}},
        {},
        "it goes back to step 8, and its window starts at step 8. Go back to an earlier step (to), or start the window",
    ),
    "to where it is": (
        {"r": {"interventions": [{**REWIND["interventions"][0], "to": 8}]}},
        {},
        "the baseline's weights of step 8, which the run has there: it changes none. Go back to an earlier step (to)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_had_is_refused_before_any_work(case):
    conditions, settings, words = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        plan(conditions, **settings)
    assert words in str(error.value)
    assert str(error.value).startswith("planning the intervention '")


def test_a_run_that_something_has_changed_may_get_the_weights_that_its_baseline_has_then():
    both = {"interventions": [*EARLY["interventions"], {**REWIND["interventions"][0], "to": 8}]}
    assert plan({"r": both}).windows("r") == [(0, 4), (8, 9)]


GRID = {"name": "csi", "intervention": {"kind": "selectivity"}, "onset": [0, 4], "length": [2, 4], "dose": [-5, -20]}


def test_a_grid_is_every_onset_length_and_dose():
    laid = plan({}, grid=GRID)
    assert list(laid.study.conditions) == [
        "baseline",
        "csi-on0-for2-alpha-5",
        "csi-on0-for2-alpha-20",
        "csi-on0-for4-alpha-5",
        "csi-on0-for4-alpha-20",
        "csi-on4-for2-alpha-5",
        "csi-on4-for2-alpha-20",
        "csi-on4-for4-alpha-5",
        "csi-on4-for4-alpha-20",
    ]
    one = laid.study.conditions["csi-on4-for2-alpha-20"]
    assert one.description == "selectivity from 4 for 2 steps, alpha -20"
    assert laid.windows("csi-on4-for2-alpha-20") == [(4, 6)]
    assert laid.parent("csi-on4-for2-alpha-20") == "baseline"
    assert laid.parent("csi-on0-for2-alpha-20") is None
    assert laid.onsets("baseline") == (4,)


def test_a_condition_of_a_grid_is_that_condition_stated():
    stated = {"interventions": [{"kind": "selectivity", "alpha": -5, "window": {"start": 4, "stop": 6}}]}
    assert plan({}, grid=GRID).training_key(Unit("csi-on4-for2-alpha-5", 0)) == (
        plan({"mine": stated}).training_key(Unit("mine", 0))
    )


def test_large_numbers_stand_in_names_with_all_their_digits():
    steps = [999_999, 1e6, 1_234_567, 1_234_568]
    grid = parse_study(
        {"name": "x", "grid": {**GRID, "onset": steps, "length": [0.5e6], "dose": [1e-5, -2e6]}}, source="x"
    )
    names = [name for name in grid.conditions if name.endswith("alpha-2000000")]
    ons = ["999999", "1000000", "1234567", "1234568"]
    assert names == [f"csi-on{on}-for500000-alpha-2000000" for on in ons]
    assert "csi-on1000000-for500000-alpha1e-05" in grid.conditions


@pytest.mark.parametrize(
    ("intervention", "dose", "name", "field"),
    [
        ({"kind": "noise"}, 0.5, "g-on0-for2-share0.5", "share"),
        ({"kind": "eta2", "dose": "matched"}, 0.2, "g-on0-for2-share0.2", "share"),
        ({"kind": "lr"}, 0.1, "g-on0-for2-factor0.1", "factor"),
        ({"kind": "clamp"}, 0.3, "g-on0-for2-fraction0.3", "fraction"),
        ({"kind": "selectivity"}, 3, "g-on0-for2-alpha3", "alpha"),
    ],
)
def test_what_a_dose_is(intervention, dose, name, field):
    grid = {"name": "g", "intervention": intervention, "onset": [0], "length": [2], "dose": [dose]}
    study = plan({}, grid=grid).study
    assert getattr(study.conditions[name].interventions[0], field) == dose


def test_a_grid_survives_yaml_and_follows_from_itself():
    study = plan({"early": EARLY}, grid={**GRID, "unit": "epochs", "onset": [0.5], "length": [1]}).study
    written = yaml.safe_load(dump_study(study))
    assert set(written["conditions"]) == {"baseline", "early"}
    assert parse_study(written, source="itself") == study
    assert list(study.conditions)[2:] == ["csi-on0.5e-for1e-alpha-5", "csi-on0.5e-for1e-alpha-20"]


WRONG = {
    "twice": ({**GRID, "onset": [4, 4]}, "grid: onset names a value twice"),
    "nothing": ({**GRID, "length": []}, "grid.length is []: tuple should have at least 1 item"),
    "unknown": ({**GRID, "onsets": [1]}, "unknown field 'grid.onsets'. Did you mean 'onset' or"),
    "no dose": (
        {"intervention": {"kind": "rewind", "to": 1}, "onset": [4], "length": [1], "dose": [2]},
        "grid: an intervention of kind 'rewind' has no dose to vary",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_grid_that_cannot_be_is_refused(case):
    grid, words = WRONG[case]
    with pytest.raises(ConfigError) as error:
        plan({}, grid=grid)
    assert words in str(error.value)


def test_a_condition_that_is_another_than_the_grids_is_refused():
    with pytest.raises(
        ConfigError, match="the condition 'csi-on0-for2-alpha-5' stands in conditions, and otherwise in"
    ):
        plan({"csi-on0-for2-alpha-5": {}}, grid=GRID)
