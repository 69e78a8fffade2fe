"""What is told of a registration: which hash was there before results, what a hand edited, what changed from what to
what."""

import hashlib
import json

import pytest
from test_keys import facts
from test_registering import STATISTIC, plan, told, train

from vestige.config import parse_study
from vestige.runs.store import StudyFolder
from vestige.study.edits import told_apart
from vestige.study.plan import make_plan
from vestige.study.registering import add_registration, read_registration, register, registered_in


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path)


def nothing_claimed():
    return make_plan(parse_study({"name": "x", "recipe": {"epochs": 3}, "seeds": [0, 1]}, source="x"), facts(500))


def own(**effects):
    """Own claims by their id and clause, `x__a`, and their smallest effects; `_dot_` is a dot."""
    claims = {}
    for name, effect in effects.items():
        claim, clause = name.replace("_dot_", ".").split("__")
        stated = claims.setdefault(claim, {"statement": "It is so", "clauses": []})
        stated["clauses"].append({"id": clause, "statistic": STATISTIC, "smallest_effect": effect})
    return claims


def edit_by_hand(folder, change):
    stored = json.loads(registered_in(folder).read_text())
    change(stored["entries"])
    registered_in(folder).write_text(json.dumps(stored))


def sha(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def test_every_entry_is_sealed_with_the_seal_before_it(folder):
    for effect in (0.1, 0.2, 0.3):
        register(plan(effect=effect), folder)
    before = None
    for entry in read_registration(folder):
        seal = entry.pop("seal")
        assert seal == sha([entry, before])
        assert entry["hash"] == sha([entry["claims"], entry["shared"]])
        before = seal


def test_a_smallest_effect_that_a_hand_edited_is_told_with_the_hash_of_what_stands_there(folder):
    register(plan(effect=0.1), folder)
    train(folder)
    before = read_registration(folder)[0]["hash"]
    edit_by_hand(folder, lambda entries: entries[0]["claims"]["mine"]["a"].update(smallest_effect=0.05))
    assert register(plan(effect=0.05), folder) == ""  # work goes on
    (entry,) = read_registration(folder)
    registration, _ = told(folder)
    assert registration["hash"] == sha([entry["claims"], entry["shared"]]) != before
    assert not registration["before_results"]
    assert len(registration["broken"]) == 2
    assert before in registration["broken"][0]
    assert "seal" in registration["broken"][1]
    assert registration["note"].startswith(
        "not verifiably registered: claims-registered.json was edited by hand; it says"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[1].update(runs=0, tables=0),
        lambda entries: entries[1].update(when="2020-01-01T00:00:00+00:00"),
        lambda entries: entries[1]["settings"].update(seeds=[5]),
        lambda entries: entries[1].pop("seal"),
        lambda entries: entries.pop(0),
        lambda entries: entries.insert(1, entries[0]),
    ],
)
def test_whatever_a_hand_edits_breaks_a_seal(folder, change):
    register(plan(), folder)
    train(folder)
    register(plan(effect=0.2), folder)
    register(plan(effect=0.3), folder)
    assert told(folder)[0]["broken"] == []
    edit_by_hand(folder, change)
    registration, _ = told(folder)
    assert registration["broken"]
    assert not registration["before_results"]


def test_a_file_of_an_earlier_version_is_read_and_goes_on_sealed(folder):
    register(plan(), folder)
    edit_by_hand(folder, lambda entries: entries[0].pop("seal"))
    registration, _ = told(folder)
    assert registration["before_results"]
    assert registration["note"].endswith("; not sealed, as an earlier version wrote it")
    register(plan(effect=0.2), folder)
    assert told(folder)[0]["broken"] == []
    edit_by_hand(folder, lambda entries: entries[0].update(runs=7))
    assert told(folder)[0]["broken"]


def test_the_hash_from_before_results_goes_with_their_date_and_the_present_one_with_its_own(folder):
    register(plan(), folder)
    train(folder)
    register(plan(effect=0.05), folder)
    register(plan(effect=0.05, seeds=(0, 1, 2)), folder)
    first, second, _ = read_registration(folder)
    registration, _ = told(folder)
    assert (registration["hash"], registration["when"]) == (first["hash"], first["when"])
    assert registration["now"] == {"hash": second["hash"], "when": second["when"], "runs": 1, "tables": 2}
    first_said, second_said = registration["note"].split("; ")
    assert f"(hash {first['hash']}), before there was any result" in first_said
    assert second_said.startswith(f"claims and settings were changed after there were results (hash {second['hash']}")
    assert second_said.endswith("with 1 run and 2 tables there)")


def test_the_hash_is_said_when_it_is_registered_and_no_more(folder):
    said = register(plan(), folder)
    (entry,) = read_registration(folder)
    assert said == f"claims registered before there is any result: hash {entry['hash']}; put it where others can see it"
    assert register(plan(), folder) == ""
    assert register(plan(seeds=(0, 1, 2)), folder) == ""  # the same hash
    train(folder)
    assert "claims registered with 1 run and 2 tables there: hash " in register(plan(effect=0.2), folder)


def test_claims_that_come_back_are_compared_with_what_they_were(folder):
    register(plan(), folder)
    train(folder)
    register(nothing_claimed(), folder)
    register(plan(effect=0.05, statement="It is otherwise", early_window=6), folder)
    registration, changed = told(folder)
    said = " ".join(changed["mine"])
    for words in ("claim mine was removed", "claim mine was added", "a.smallest_effect from 0.1 to 0.05"):
        assert words in said
    assert "statement from It is so to It is otherwise" in said
    assert any("early_window.stop from 5 to 6" in line for line in registration["changed"])


def test_an_edit_of_a_claim_that_is_judged_no_more_names_it(folder):
    register(plan(), folder)
    train(folder)
    register(plan(effect=0.05), folder)
    register(plan(own=False), folder)
    record = add_registration({"claims": [{"id": "C1"}]}, read_registration(folder))
    said = " ".join(record["registration"]["changed"])
    assert "there: claim mine: a.smallest_effect from 0.1 to 0.05" in said
    assert "claim mine was removed" in said


def test_an_edit_goes_to_the_claim_it_is_of_whatever_dots_ids_have(folder):
    register(plan(own_claims=own(x__a=0.1, x_dot_a__b=0.2)), folder)
    train(folder)
    register(plan(own_claims=own(x__a=0.3, x_dot_a__b=0.2)), folder)
    (edit,) = told(folder)[0]["edits"]
    assert (edit["claim"], edit["field"], edit["before"], edit["after"]) == ("x", "a.smallest_effect", 0.1, 0.3)


def test_a_condition_that_came_after_results_is_told(folder):
    settings = {"name": "x", "recipe": {"epochs": 3}, "seeds": [0, 1], "conditions": {"baseline": {}}}
    late = {"interventions": [{"kind": "selectivity", "window": {"start": 8, "stop": 10}}]}
    register(make_plan(parse_study(settings, source="x"), facts(500)), folder)
    train(folder)
    more = {**settings, "conditions": {"baseline": {}, "late.x": late}}
    register(make_plan(parse_study(more, source="x"), facts(500)), folder)
    (line,) = told(folder)[0]["changed"]
    assert "conditions.late.x from none to [{" in line


def test_what_was_seen_stays_seen_when_its_runs_are_deleted(folder):
    register(plan(), folder)
    train(folder)
    register(plan(seeds=(0, 1, 2)), folder)
    (folder.run("baseline", 0).path / "manifest.json").unlink()
    register(plan(seeds=(0, 1, 2), effect=0.05), folder)
    assert "with 0 runs and 0 tables there: a.smallest_effect from 0.1 to 0.05" in told(folder)[1]["mine"][0]


def test_claims_that_are_all_younger_than_results_were_not_registered_before_them(folder):
    register(nothing_claimed(), folder)
    train(folder)
    register(plan(), folder)
    registration, _ = told(folder)
    assert not registration["before_results"]
    assert registration["note"].startswith("not registered before results: on 20")
    assert "the study claimed nothing; claims were changed" in registration["note"]


@pytest.mark.parametrize(
    ("one", "other", "texts"),
    [
        (0.02, 0.01999999, ("0.02", "0.01999999")),
        (0.1, 0.1 + 2**-56, ("0.10000000000000001", "0.10000000000000002")),
        (0.18, 0.1, ("0.18", "0.1")),
        (None, 50, ("none", "50")),
        ("a\x1b[31m", "a", ("a\\x1b[31m", "a")),
    ],
)
def test_two_values_are_told_apart(one, other, texts):
    assert told_apart(one, other) == texts


def test_long_texts_are_cut_around_their_first_difference():
    same = "word " * 100
    one, other = told_apart(f"{same}this{same}", f"{same}that{same}", 60)
    assert one != other
    for text, differs in ((one, "this"), (other, "that")):
        assert differs in text
        assert text.startswith("... ")
        assert text.endswith(" ...")
        assert len(text) == 60 + 2 * len(" ...")
    assert told_apart("x" * 300, "x" * 301, 60)[1].count("x") > told_apart("x" * 300, "x" * 301, 60)[0].count("x")
