"""What every intervention goes through: resume in mid-window, nothing outside the window, logs, refusals, a README."""

from importlib.resources import files
from pathlib import Path

import polars as pl
import pytest
from small_runs import INTERVENTIONS, OWN, given, small_study, train, weights
from test_resume import files as files_of
from test_resume import stop_at_replace

from vestige import acting
from vestige.config import parse_study
from vestige.errors import ConfigError
from vestige.models.layers import Layer
from vestige.runs.manifest import read_manifest
from vestige.runs.store import RunFolder
from vestige.training.interventions import build
from vestige.training.loop import Parent

WINDOW = {"start": 4, "stop": 7}
STEPS = [0, 2, 4, 8, 12]
LAYERS = tuple(
    Layer(name=f"layer{s}.0", stage=f"layer{s}", node=f"relu_{s}", units=4 * s, axis=1, why="made up")
    for s in (1, 2, 3)
)


def study(mode):
    return small_study([{**INTERVENTIONS[mode], "window": WINDOW}])


def changed(mode, folder, **options):
    return train(study(mode), folder, "changed", given=given(), **options)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    return train(small_study(), tmp_path_factory.mktemp("baseline"))


@pytest.fixture(scope="module", params=INTERVENTIONS)
def undisturbed(request, tmp_path_factory):
    """A mode and a whole run of it, which kept its state in mid-window and at the window's end."""
    return request.param, changed(request.param, tmp_path_factory.mktemp("undisturbed"), onsets=(6, 7))


def test_it_goes_on_from_mid_window_to_the_same_bytes(undisturbed, tmp_path, monkeypatch):
    mode, run = undisturbed
    with monkeypatch.context() as patched:
        stop_at_replace(patched, 15)  # 4 files at 0, 2, 4; 2 at step 6; then the first at step 7
        with pytest.raises(KeyboardInterrupt):
            changed(mode, tmp_path, onsets=(6, 7))
    assert RunFolder(tmp_path).state(6).exists()
    again = changed(mode, tmp_path, onsets=(6, 7))
    assert files_of(again) == files_of(run)
    assert read_manifest(again).complete


def test_until_its_window_a_run_is_its_baseline(undisturbed, baseline):
    _, run = undisturbed
    assert [step for step in STEPS if weights(run, step) == weights(baseline, step)] == [0, 2, 4]


def test_after_its_window_a_run_goes_on_like_any_other(undisturbed, tmp_path):
    """Trained on from the state at the window's end, a run without interventions comes to the same weights."""
    mode, run = undisturbed
    plain = train(study(mode), tmp_path, "baseline", parent=Parent(run, "changed", 0, 7))
    assert all(weights(plain, step) == weights(run, step) for step in (8, 12))


def test_it_logs_while_it_acts(undisturbed):
    mode, run = undisturbed
    history = pl.read_parquet(run.history)
    logged = [name for name in history.columns if "." in name]
    own = [name.partition(".")[2] for name in logged]
    expected = ["dose"] if mode == "own" else ["csi", "eta2", "closed", "dose"]
    penalty = ["penalty"] if INTERVENTIONS[mode]["kind"] in ("selectivity", "eta2") else []
    assert own == penalty + expected
    acting = history.filter(pl.col(logged[0]).is_not_null())
    assert acting.select("step", "split").rows() == [(8, "train")]
    row = acting.select(logged).row(0, named=True)
    assert all(value is not None and value == value for value in row.values())
    assert row[logged[-1]] > 0, "the dose"


def test_it_has_a_readme_that_names_its_fields():
    for mode, settings in INTERVENTIONS.items():
        kind = "own" if mode == "own" else settings["kind"]
        text = (files("vestige.training.interventions") / f"{kind}.md").read_text(encoding="utf-8")
        config = parse_study(
            {"name": "x", "conditions": {"baseline": {}, "c": {"interventions": [settings]}}}, source="x"
        )
        fields = type(config.conditions["c"].interventions[0]).model_fields
        assert [name for name in fields if name != "kind" and f"`{name}`" not in text] == [], kind
        assert "Attribution" in text
        assert "Caveats" in text


def test_every_kind_is_among_them():
    assert {settings["kind"] for settings in INTERVENTIONS.values()} - {f"{OWN}:Shrink"} == set(acting.KINDS)


EVERY = [*acting.KINDS, f"{OWN}:Shrink"]


@pytest.mark.parametrize("kind", EVERY)
def test_an_empty_window_is_refused(kind):
    configs = condition({"kind": kind, **({"modules": ["layer1"]} if kind == "rewind" else {})})
    with pytest.raises(ConfigError, match=r"its window \[5, 5\] holds no step. End the window after its start"):
        build(configs, LAYERS, [(5, 5)])


@pytest.mark.parametrize("kind", acting.KINDS)
@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "it acts on no stage, so it changes nothing. Name stages: stages: [layer1, layer2, layer3]."),
        (["layer4"], "the model has no stage 'layer4'. Did you mean 'layer"),
    ],
)
def test_stages_that_there_are_not_are_refused(kind, stages, words):
    settings = {"kind": kind, "stages": stages, **({"modules": ["layer1"]} if kind == "rewind" else {})}
    with pytest.raises(ConfigError) as error:
        build(condition(settings), LAYERS, [(4, 5)])
    assert words in str(error.value)


def condition(settings):
    stated = {"name": "x", "conditions": {"baseline": {}, "c": {"interventions": [settings]}}}
    return parse_study(stated, source="x").conditions["c"].interventions


WITHOUT_EFFECT = {
    "alpha 0": ({"kind": "selectivity", "alpha": 0}, "alpha is 0, so it changes nothing. Give an alpha below 0"),
    "eta2, alpha 0": ({"kind": "eta2", "alpha": 0}, "alpha is 0, so it changes nothing. Give an alpha below 0"),
    "matched to 0": (
        {"kind": "eta2", "dose": "matched", "share": 0},
        "share is 0 and the dose matched, so it changes nothing. Give a number above 0, or leave it out.",
    ),
    "no noise": ({"kind": "noise", "share": 0}, "'noise': share is 0, so it changes nothing. Give a number above 0"),
    "no neuron": ({"kind": "clamp", "fraction": 0}, "'clamp': fraction is 0, so it changes nothing"),
    "no module": ({"kind": "rewind"}, "it names no module, so it changes nothing. Name modules or patterns of them"),
    "back to nowhere": (
        {"kind": "rewind", "modules": ["layer1"], "to": 4},
        "it goes back to step 4, and its window starts at step 4. Go back to an earlier step (to)",
    ),
    "the same rate": ({"kind": "lr", "factor": 1}, "factor is 1, so it changes nothing. Give another factor"),
    "no intervention": (
        {"kind": f"{OWN}:Plain"},
        "it is a Plain. Name a class that inherits from vestige.training.events.Intervention.",
    ),
    "not set up": (
        {"kind": f"{OWN}:Bare"},
        "its __init__ does not make it an Intervention: it lacks nodes and edits. Begin its __init__ with super().__i",
    ),
    "no such class": ({"kind": f"{OWN}:Shrin"}, "there is no 'Shrin' in"),
    "a setting too many": ({"kind": f"{OWN}:Shrink", "settings": {"weakness": 3}}, "raises TypeError: "),
    "no such file": ({"kind": "clamp", "table": "nowhere.csv"}, "its table 'nowhere.csv' cannot be read ("),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_what_changes_nothing_or_cannot_be_is_refused(case):
    settings, words = WITHOUT_EFFECT[case]
    with pytest.raises(ConfigError) as error:
        build(condition(settings), LAYERS, [(4, 8)])
    assert words in str(error.value)
    assert str(error.value).startswith("setting up the intervention '")


TABLES = {
    "layer\nlayer1.0\n": "has no column 'neuron'",
    "layer,neuron\n": "names no neuron, so it changes nothing. Name at least one.",
    "layer,neuron\nlayer9.0,1\n": "its table names the layer 'layer9.0'. Did you mean 'layer",
    "layer,neuron\nlayer1.0,4\n": "its table names the neuron 4 of 'layer1.0'. Neurons of 'layer1.0' are 0 to 3.",
}


@pytest.mark.parametrize("text", TABLES)
def test_a_table_that_names_no_neuron_of_the_network_is_refused(text, tmp_path):
    path: Path = tmp_path / "neurons.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        build(condition({"kind": "clamp", "table": str(path)}), LAYERS, [(4, 8)])
    assert TABLES[text] in str(error.value)


WRONG_FIELDS = {
    "penalty": ({"kind": "selectivity", "estimator": "median"}, "estimator is 'median': input should be 'mean', 'run"),
    "labels": ({"kind": "eta2", "labels": "shuffled"}, "labels is 'shuffled': input should be 'true', 'permuted' or"),
    "share": ({"kind": "noise", "share": -1}, "share is -1: input should be greater than or equal to 0"),
    "kind": ({"kind": "etta2"}, "conditions.c.interventions.0 is of kind 'etta2'. Did you mean 'eta2'?"),
    "no kind": ({"alpha": 3}, "conditions.c.interventions.0 has no kind. Add one of 'selectivity'"),
    "field": ({"kind": "clamp", "fracton": 1}, "unknown field 'conditions.c.interventions.0.clamp.fracton'. Did you"),
}


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_wrong_fields_are_named(case):
    settings, words = WRONG_FIELDS[case]
    with pytest.raises(ConfigError) as error:
        condition(settings)
    assert words in str(error.value)
