"""Keys of runs that exist do not change: what is on disk stays what it is."""

from importlib.resources import as_file, files

import pytest

from vestige.config import load_study, parse_study
from vestige.study import plan as planning
from vestige.study.facts import Facts
from vestige.study.plan import Unit, make_plan

KEYS = {
    "cifar10-resnet20": {
        "baseline": "17eca1882558734bfbf3296032a72cb0",
        "early": "c0503e10d0ddef573ee45602d8f03676",
        "mid": "6cec483c04d4dde4c5da1ab9a1bea108",
        "late": "c4e5b4ef32dead404787d31a402b1b3c",
        "always": "a594459d49e6a95b89f8185dc0dd8380",
        "eta2-early": "211f8836bfc1f2d0d0397bfb3c520834",
        "permuted-eta2-early": "2ea1e9f89536d07a0a20f53a61384dd3",
        "label-free-dose-early": "1c0e2bf22d30550f461df1a2d927f6d2",
        "sum-early": "05eff44f60a488c5a733f0a00988f7a0",
    },
    "digits": {
        "baseline": "86aae051500843fc1ed23eb8e3b2593c",
        "early": "07b06afde409643a4254c89f78c9370b",
        "mid": "37411c3e85c10c53151bdb8cf4c26a68",
        "late": "c7bc01841cceddb34a9592eb45f1fdc2",
        "eta2-early": "cade8fdddc8cd294038da6166ec0cf8f",
        "permuted-eta2-early": "4869dc0aff390fecd86ca4866813fae1",
    },
}
"""Of seed 0, with the facts below; written down on 23 November 2026, before interventions had more fields."""
IMAGES = {"cifar10-resnet20": 50_000, "digits": 500}


def facts(images):
    return Facts(
        key="k",
        data={"train": "a", "test": "b"},
        model={"name": "made up"},
        train_images=images,
        test_images=100,
        class_names=tuple("abcdefghij"),
        input_shape=(3, 32, 32),
        layers=(("layer1.0", "layer1", 16), ("layer2.0", "layer2", 32), ("layer3.0", "layer3", 64)),
        device="cpu",
    )


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_shipped_studies_are_those_of_the_runs_that_exist(name):
    with as_file(files("vestige.studies") / f"{name}.yaml") as path:
        study = load_study(path)
    plan = make_plan(study, facts(IMAGES[name]))
    assert {condition: plan.training_key(Unit(condition, 0)) for condition in KEYS[name]} == KEYS[name]


def key(intervention, **settings):
    stated = {"name": "x", "conditions": {"baseline": {}, "c": {"interventions": [intervention]}}, **settings}
    return make_plan(parse_study(stated, source="x"), facts(500)).training_key(Unit("c", 0))


def test_a_field_at_its_default_is_no_other_run_and_another_value_is():
    plain = key({"kind": "selectivity"})
    assert key({"kind": "selectivity", "dose": "alpha", "share": 0.5, "momentum": 0.9}) == plain
    others = [{"dose": "matched"}, {"estimator": "running"}, {"labels": "partition"}, {"share": 0.4}]
    assert len({key({"kind": "selectivity", **other}) for other in others} | {plain}) == 5


def test_how_often_states_are_kept_is_no_other_run():
    assert key({"kind": "eta2"}) == key({"kind": "eta2"}, compute={"state_minutes": None})


def test_a_file_counts_by_its_content(tmp_path):
    def own(folder, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mine.py").write_text(text)
        return key({"kind": f"{tmp_path / folder / 'mine.py'}:A"})

    assert own("one", "A = 1") == own("two", "A = 1") != own("three", "A = 2")


def sham_key(**early):
    stated = {
        "name": "x",
        "conditions": {
            "baseline": {},
            "early": {"interventions": [{"kind": "selectivity", "window": {"stop": 4}, **early}]},
            "sham": {"interventions": [{"kind": "offset-sham", "window": {"stop": 4}}]},
        },
    }
    return make_plan(parse_study(stated, source="x"), facts(500)).training_key(Unit("sham", 0))


@pytest.mark.parametrize(("permutations", "same"), [(100, True), (200, True), (99, False), (20, False)])
def test_the_number_of_strata_makes_other_tables_of_few_permutations_alone(permutations, same, monkeypatch):
    def keys():
        early = {"kind": "selectivity", "window": {"stop": 4}}
        sham = {"kind": "offset-sham", "window": {"stop": 4}}
        made = {name: {"interventions": [one]} for name, one in (("early", early), ("sham", sham))}
        stated = {"name": "x", "conditions": {"baseline": {}, **made}}
        stated["measurements"] = {"selectivity": {"permutations": permutations}}
        plan = make_plan(parse_study(stated, source="x"), facts(500))
        return {job.name: plan.job_key(job, "w") for job in plan.jobs("baseline")}, plan.training_key(Unit("sham", 0))

    now, trained = keys()
    monkeypatch.setattr(planning, "FEW_PERMUTATIONS", 0)
    before, trained_before = keys()
    changed = {name for name in now if now[name] != before[name]}
    assert changed == (set() if same else {"selectivity-corrected-test"})
    assert trained == trained_before


def test_what_a_table_is_made_from_is_part_of_the_key():
    assert sham_key() == sham_key(share=0.5) != sham_key(alpha=-5)
