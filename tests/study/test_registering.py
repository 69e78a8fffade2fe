"""What a study claims is written down before its results, and what is changed after them is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_keys import facts

from vestige.config import parse_study
from vestige.errors import ConfigError, StoreError
from vestige.runs.manifest import Artifact, update_manifest
from vestige.runs.store import StudyFolder, read_json
from vestige.study.plan import make_plan
from vestige.study.registering import add_registration, read_registration, register, registered_in, tell_registration

STATISTIC = 'mean(selectivity.csi, condition="baseline", step=last)'


def plan(
    *,
    effect=0.1,
    statistic=STATISTIC,
    statement="It is so",
    seeds=(0, 1),
    own=True,
    own_claims=None,
    measurements=None,
    **claims,
):
    mine = {"mine": {"statement": statement, "clauses": [{"statistic": statistic, "smallest_effect": effect}]}}
    stated = {"judge": ["C1", "C4"], "early_window": 5, "own": own_claims or (mine if own else {}), **claims}
    settings = {"name": "x", "recipe": {"epochs": 3}, "seeds": list(seeds), "claims": stated}
    return make_plan(parse_study(settings | {"measurements": measurements or {}}, source="x"), facts(500))


@pytest.fixture
def folder(tmp_path: Path):
    return StudyFolder(tmp_path)


def train(folder: StudyFolder) -> None:
    """One run with a checkpoint and two tables, as its manifest tells."""
    one = Artifact("k", 1, "0", 0.0)
    tables = {"history.parquet": one, "a/step-00000000.parquet": one, "b/step-00000004.parquet": one}
    update_manifest(folder.run("baseline", 0), key="k", checkpoints={0: (0.0, one), 4: (1.0, one)}, artifacts=tables)


def told(folder: StudyFolder):
    claims = [{"id": "C1"}, {"id": "C4"}, {"id": "mine"}]
    record = add_registration({"claims": claims}, read_registration(folder))
    return record["registration"], {claim["id"]: claim["changed"] for claim in record["claims"]}


def test_claims_are_written_down_once_with_no_result_yet(folder):
    register(plan(), folder)
    before = registered_in(folder).stat().st_mtime_ns
    register(plan(), folder)
    assert registered_in(folder).stat().st_mtime_ns == before
    (entry,) = read_registration(folder)
    assert (entry["runs"], entry["tables"]) == (0, 0)
    assert set(entry["claims"]) == {"C1", "C4", "mine"}
    assert entry["claims"]["mine"] == {"a": {"statistic": STATISTIC, "direction": "at least", "smallest_effect": 0.1}}
    registration, changed = told(folder)
    assert registration["before_results"]
    assert registration["note"].startswith("registered on 20")
    assert registration["note"].endswith(f" UTC (hash {entry['hash']}), before there was any result")
    assert registration["now"] is None
    assert registration["broken"] == []
    assert registration["edits"] == registration["changed"] == []
    assert not any(changed.values())


def test_editing_before_any_result_is_free(folder):
    register(plan(), folder)
    register(plan(effect=0.2), folder)
    train(folder)
    register(plan(effect=0.2), folder)
    assert len(read_registration(folder)) == 2
    registration, changed = told(folder)
    assert registration["before_results"]
    assert registration["hash"] == read_registration(folder)[1]["hash"]
    assert "changed" not in registration["note"]
    assert not any(changed.values())


def test_a_claim_edited_after_results_is_named_with_what_when_and_how_much_there_was(folder):
    register(plan(), folder)
    train(folder)
    register(plan(effect=0.05), folder)
    registration, changed = told(folder)
    assert registration["before_results"]  # the first was; the edit is told
    (edit,) = registration["edits"]
    assert (edit["section"], edit["claim"], edit["field"]) == ("claims", "mine", "a.smallest_effect")
    assert (edit["before"], edit["after"], edit["runs"], edit["tables"]) == (0.1, 0.05, 1, 2)
    (line,) = changed["mine"]
    assert line.startswith("changed on 20")
    assert line.endswith(" UTC, with 1 run and 2 tables there: a.smallest_effect from 0.1 to 0.05")
    assert changed["C1"] == changed["C4"] == []


@pytest.mark.parametrize(
    ("changes", "claim", "words"),
    [
        ({"statistic": STATISTIC.replace("last", "first")}, "mine", "a.statistic from mean(selectivity.csi, cond"),
        ({"statement": "It is otherwise"}, "mine", "statement from It is so to It is otherwise"),
        ({"accuracy_effect": 0.01}, "C4", "a.smallest_effect from 0.02 to 0.01"),
        ({"judge": ["C4"]}, "C1", "claim C1 was removed"),
        ({"roles": {"early": "always"}}, "C4", "a.statistic from H(early) to H(always)"),
        ({"early_window": 6}, "", "early_window.stop from 5 to 6"),
        ({"pilot_seeds": [90]}, "", "pilot_seeds from [] to [90]"),
        ({"seeds": (0, 1, 2)}, "", "seeds from [0, 1] to [0, 1, 2]"),
        ({"measurements": {"selectivity": {"images": 50}}}, "", "measurements.selectivity.images from none to 50"),
        ({"measurements": {"linearity": None}}, "", "measurements.linearity from {"),
    ],
    ids=str,
)
def test_whatever_matters_to_a_verdict_is_told(folder, changes, claim, words):
    register(plan(), folder)
    train(folder)
    register(plan(**changes), folder)
    registration, changed = told(folder)
    lines = changed[claim] if claim else registration["changed"]
    assert len(lines) == 1
    assert words in lines[0]


ORDERED = {
    "statement": "It is so",
    "clauses": [
        {"statistic": STATISTIC, "smallest_effect": 0.1, "sentence": "it ends at {}"},
        {"statistic": STATISTIC, "smallest_effect": 0.3, "direction": "below"},
        {"id": "third", "statistic": STATISTIC.replace("last", "first"), "smallest_effect": 0.1},
    ],
}


def with_clauses(*places, **changes):
    mine = {**ORDERED, "clauses": [ORDERED["clauses"][place] | changes for place in places]}
    other = {"statement": "So is this", "clauses": [{"statistic": STATISTIC, "smallest_effect": 1}]}
    own = {"mine": mine, "other": other}
    return plan(own_claims=own if places[0] == 0 else dict(reversed(own.items())))


def test_another_order_is_no_edit(folder):
    register(with_clauses(0, 1, 2), folder)
    train(folder)
    for order in ((1, 0, 2), (2, 1, 0), (1, 2, 0)):
        register(with_clauses(*order), folder)
    assert len(read_registration(folder)) == 1
    register(with_clauses(1, 0, 2, smallest_effect=0.2), folder)
    assert len(read_registration(folder)) == 2
    (line,) = told(folder)[1]["mine"]
    assert "smallest_effect from 0.1 to 0.2" in line


def test_another_order_of_seeds_and_of_what_is_measured_is_no_edit(folder):
    cumulative = {"values": ["zero", "mean"], "orders": ["csi-desc", "activity-matched"]}
    first: dict[str, Any] = {"pilot_seeds": [90, 91], "measurements": {"cumulative": cumulative}}
    turned: dict[str, Any] = {name: of[::-1] for name, of in cumulative.items()}
    register(plan(seeds=(0, 1), **first), folder)
    train(folder)
    register(plan(seeds=(1, 0), pilot_seeds=[91, 90], measurements={"cumulative": turned}), folder)
    assert len(read_registration(folder)) == 1
    register(plan(seeds=(0, 2), **first), folder)
    assert "seeds from [0, 1] to [0, 2]" in told(folder)[0]["changed"][0]


def test_a_claim_that_came_or_went_is_told_and_an_edit_that_was_taken_back_too(folder):
    register(plan(), folder)
    train(folder)
    register(plan(own=False), folder)
    register(plan(), folder)
    _, changed = told(folder)
    said = " ".join(changed["mine"])
    assert "claim mine was removed" in said
    assert "claim mine was added" in said


def test_the_hash_is_of_what_decides_verdicts_alone(folder, tmp_path):
    def hash_of(**changes):
        place = StudyFolder(tmp_path / str(len(list(tmp_path.iterdir()))))
        register(plan(**changes), place)
        return read_registration(place)[-1]["hash"]

    first = hash_of()
    assert hash_of(seeds=(0, 1, 2, 3)) == hash_of(statement="Other words") == first
    assert hash_of(statistic=STATISTIC.replace(", ", " ,")) == first
    assert len({first, hash_of(effect=0.2), hash_of(early_window=6), hash_of(accuracy_effect=0.01)}) == 4


def test_an_older_study_without_a_registration_says_so(folder):
    assert tell_registration([])["note"].startswith("not registered")
    train(folder)
    register(plan(), folder)
    registration, _ = told(folder)
    assert not registration["before_results"]
    assert registration["note"].startswith("not registered before results: first written down on 20")
    assert registration["note"].endswith("with 1 run and 2 tables there")
    register(plan(effect=0.2), folder)
    assert told(folder)[1]["mine"]


def test_a_study_that_claimed_nothing_has_registered_that(folder):
    none = make_plan(parse_study({"name": "x", "recipe": {"epochs": 3}, "seeds": [0, 1]}, source="x"), facts(500))
    register(none, folder)
    train(folder)
    register(plan(), folder)
    _, changed = told(folder)
    assert "claim mine was added" in changed["mine"][0]
    assert "claim C1 was added" in changed["C1"][0]


def test_a_setting_that_is_younger_than_the_registration_is_no_change(folder):
    register(plan(), folder)
    stored = read_json(registered_in(folder))
    del stored["entries"][0]["settings"]["measurements"]["tile"]
    registered_in(folder).write_text(json.dumps(stored))
    train(folder)
    register(plan(), folder)
    assert len(read_registration(folder)) == 1


EMPTY = {"claims": {}, "shared": {}, "wording": {}, "settings": {}}
WHOLE = {**EMPTY, "when": "2026-01-01T00:00:00+00:00", "runs": 1, "tables": 2, "hash": "0"}
DAMAGED = [
    *({**WHOLE, name: value} for name, value in (("when", 3), ("when", "then"), ("runs", None), ("hash", 1))),
    {**WHOLE, "claims": {"C1": 5}},
    {**WHOLE, "claims": {"C1": {"rise": 5}}},
    {**WHOLE, "wording": {"mine": 5}},
    {**WHOLE, "seal": 5},
    EMPTY,
]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 100_000,
        "[]",
        '{"entries": [{}]}',
        '{"entries": [3]}',
        "{}",
        *(json.dumps({"entries": [one]}) for one in DAMAGED),
    ],
)
def test_a_damaged_registration_is_not_silently_begun_anew(folder, text):
    registered_in(folder).write_text(text)
    with pytest.raises(StoreError, match="Put it back from a copy"):
        register(plan(), folder)
    assert registered_in(folder).read_text() == text


def test_a_real_study_registers_before_it_trains_and_its_report_tells_an_edit(vestige, one_run: Path, tmp_path: Path):
    study = Path(shutil.copytree(one_run, tmp_path / "begun"))
    (entry,) = read_registration(StudyFolder(study))
    assert (entry["runs"], entry["tables"]) == (0, 0)
    done = vestige("report", "begun", "--claims.accuracy_effect", "0.05")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((study / "study.yaml").read_text())["claims"]["accuracy_effect"] == 0.05
    claims = {claim["id"]: claim["changed"] for claim in read_json(study / "claims.json")["claims"]}
    assert claims["C1"] == []
    assert "with 1 run and 0 tables there: a.smallest_effect from 0.02 to 0.05" in claims["C4"][0]
    page = (study / "report" / "index.html").read_text()
    assert "The claims were registered on 20" in page
    assert "After results existed this claim was changed on 20" in page


def test_the_commands_say_what_the_report_says_and_that_the_report_is_older(vestige, one_run: Path, tmp_path: Path):
    study = Path(shutil.copytree(one_run, tmp_path / "begun"))
    (entry,) = read_registration(StudyFolder(study))
    assert vestige("report", "begun").returncode == 0
    said = vestige("claims", "begun").stdout
    assert said.endswith(f" UTC (hash {entry['hash']}), before there was any result.\n")
    assert "older than" not in said + vestige("status", "begun").stdout
    said = vestige("claims", "begun", "--claims.judge", "C1", "--seeds", "0", "1").stdout
    assert "there: claim C2 was removed; claim C3 was removed; claim C4 was removed; seeds from [0] to [0, 1]." in said
    assert f"(hash {entry['hash']}), before there was any result; claims and settings were changed after there" in said
    assert said.endswith(
        f"report: {Path('begun/report/index.html')} is older than this; `vestige report begun` writes it again\n"
    )
    assert f"report: {study / 'report/index.html'} (older than" in vestige("status", "begun").stdout
    done = vestige("claims", "begun", "--claims", "null")
    assert "The study registers no claims." in done.stdout
    assert "claim C1 was removed" in done.stdout
    stored = read_json(study / "claims.json")
    assert (stored["claims"], stored["note"]) == ([], "the study registers no claims")
    registered_in(StudyFolder(study)).write_text(
        registered_in(StudyFolder(study)).read_text().replace('"runs": 1', '"runs": 0')
    )
    assert vestige("report", "begun", "--claims.early_window", "5").returncode == 0
    page = (study / "report" / "index.html").read_text()
    assert "<strong>claims-registered.json was edited by hand</strong>" in page
    assert "The claims were not verifiably registered: " in page
    said = vestige("claims", "begun").stdout
    assert "claims-registered.json was edited by hand: the seal of the entry of 20" in said
    assert "The claims were not verifiably registered: " in said


def test_a_run_says_the_hash_before_it_trains(vestige, tiny: Path, tmp_path: Path):
    done = vestige("train", "tiny.yaml", "--only", "baseline", "--seeds", "0", "--out", "new")
    assert done.returncode == 0, done.stderr
    (entry,) = read_registration(StudyFolder(tmp_path / "new"))
    assert f"claims registered before there is any result: hash {entry['hash']}" in done.stderr


@pytest.mark.parametrize(
    ("statistic", "words"),
    [
        (
            'mean(selectivity.csi, condition="baseline", step=last, layer="layer4.0")',
            ["no layer 'layer4.0'", "'layer3.0'"],
        ),
        (
            'mean(selectivity.csi, condition="baseline", step=last, stage="layer[45]")',
            ["no stage 'layer[45]'", "Did you mean"],
        ),
        (
            'area(cumulative.top1, condition="baseline", step=last, order="random", value="zero", scope="layr1")',
            ["no scope 'layr1'", "Did you mean 'layer1'"],
        ),
        (
            'mean(linearity.value, condition="baseline", step=last, measure="cka", layer="logit")',
            ["no layer 'logit'", "'logits'"],
        ),
        (
            'mean(selectivity.csi, condition="baseline", step=7)',
            ["'baseline' has no checkpoint there", "0, 1, 2, 3, 4"],
        ),
        ('mean(selectivity.csi, condition="baseline", epoch=1.7)', ["no checkpoint there", "epoch=1.7"]),
        ('mean(selectivity.csi, condition="baseline", step=epochs(8, 9))', ["no checkpoint there"]),
        (
            'mean(selectivity.csi, condition="late", step=early)',
            ["'late' begins at step 8", "another condition before"],
        ),
        ('mean(selectivity.csi, condition="late", step=first)', ["'late' begins at step 8"]),
    ],
)
def test_layers_and_checkpoints_that_are_not_there_are_refused_before_any_work(statistic, words):
    late = {"interventions": [{"kind": "selectivity", "window": {"start": 8, "stop": 10}}]}
    mine = {"mine": {"statement": "S", "clauses": [{"statistic": statistic, "smallest_effect": 0.1}]}}
    settings = {"name": "x", "recipe": {"epochs": 3}, "conditions": {"baseline": {}, "late": late}}
    study = parse_study(settings | {"claims": {"judge": [], "early_window": 5, "own": mine}}, source="x")
    with pytest.raises(ConfigError) as caught:
        make_plan(study, facts(500))
    assert str(caught.value).startswith("planning claim 'mine', clause 'a': ")
    for word in words:
        assert word in str(caught.value)
