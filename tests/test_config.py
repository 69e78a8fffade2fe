"""A study's settings: what is refused, in which words, and that nothing is lost on the way through YAML."""

from pathlib import Path

import pytest
import yaml

from vestige.config import StudyConfig, differences, dump_study, load_study, parse_setting, parse_study
from vestige.errors import ConfigError
from vestige.study.study import Study, shipped

MINIMAL = {"name": "x", "conditions": {"baseline": {}}}


def with_window(**window: object) -> dict:
    early = {"interventions": [{"kind": "selectivity", "window": window}]}
    return {**MINIMAL, "conditions": {"baseline": {}, "early": early}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**MINIMAL, "recpie": {}}, ["unknown field 'recpie'", "Did you mean 'recipe'?"]),
        ({**MINIMAL, "recipe": {"epcohs": 3}}, ["unknown field 'recipe.epcohs'", "'epochs'"]),
        ({**MINIMAL, "recipe": {"epochs": -3}}, ["recipe.epochs is -3", "greater than 0"]),
        ({**MINIMAL, "recipe": {"lr": "fast"}}, ["recipe.lr is 'fast'", "valid number"]),
        ({**MINIMAL, "data": {"mean": [0.1, 0.2]}}, ["mean has 2 values for 3 channels"]),
        (with_window(start=9, stop=3), ["the window ends at 3 steps, not after its start at 9"]),
        (with_window(start=0.5), ["a window in steps takes whole numbers"]),
        (
            {
                **MINIMAL,
                "conditions": {"baseline": {}, "e": {"interventions": [{"kind": "eta2", "alhpa": 1}]}},
            },
            ["alhpa", "Did you mean 'alpha'?"],
        ),
        ({**MINIMAL, "seeds": [1, 1]}, ["seeds [1, 1] name a seed twice"]),
        ({**MINIMAL, "seeds": []}, ["seeds", "at least 1 item"]),
        ({"conditions": {"baseline": {}}}, ["field 'name' is missing", "Add 'name'"]),
        ({"name": "x", "conditions": {"early": {}}}, ["measurements.ablation.conditions names 'baseline'"]),
        (
            {**MINIMAL, "seeds": [7], "claims": {"early_window": 3, "pilot_seeds": [7]}},
            ["seeds [7] are pilot seeds"],
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_to_do(settings: dict, words: list[str]):
    with pytest.raises(ConfigError) as caught:
        parse_study(settings, source="the study x.yaml")
    message = str(caught.value)
    assert message.startswith("reading the study x.yaml: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", shipped())
def test_what_ships_survives_yaml_with_every_default_written_out(name: str):
    study = Study.load(name).config
    written = yaml.safe_load(dump_study(study))
    assert parse_study(written, source="itself") == study
    assert set(written) == set(StudyConfig.model_fields)


def test_settings_are_laid_over_the_file(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(with_window(start=0, stop=5)))
    overrides = [
        ("recipe.epochs", parse_setting("recipe.epochs", ["10"])),
        ("seeds", parse_setting("seeds", ["4"])),
        ("data.mean", parse_setting("data.mean", ["0.1", "0.2", "0.3"])),
        (
            "conditions.early.interventions.0.alpha",
            parse_setting("conditions.early.interventions.0.alpha", ["-1"]),
        ),
        ("measurements.linearity", parse_setting("measurements.linearity", ["null"])),
    ]
    study = load_study(path, overrides)
    assert study.recipe.epochs == 10
    assert study.seeds == (4,)
    assert study.data.mean == (0.1, 0.2, 0.3)
    assert study.conditions["early"].interventions[0].alpha == -1
    assert study.measurements.linearity is None


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("recipe.epochs", [], "setting --recipe.epochs: no value. Write --recipe.epochs VALUE."),
        ("recipe.epochs", ["1", "2"], "setting --recipe.epochs: 2 values"),
        ("name", ["[a"], "setting --name: while parsing"),
    ],
)
def test_a_setting_without_a_usable_value_is_refused(field: str, values: list[str], words: str):
    with pytest.raises(ConfigError) as caught:
        parse_setting(field, values)
    assert words in str(caught.value)


OWN = {
    name: {
        "statement": "It is so",
        "clauses": [
            {"statistic": 'mean(selectivity.csi, condition="baseline", step=last)', "smallest_effect": 1},
            {"id": "harm", "statistic": 'mean(history.top1, condition="baseline", step=last)', "smallest_effect": 1},
        ],
    }
    for name in ("grows", "recovers")
}


@pytest.mark.parametrize("own", [OWN, [{"id": name, **claim} for name, claim in OWN.items()]], ids=["by id", "listed"])
@pytest.mark.parametrize("claim", ["recovers", "1"])
@pytest.mark.parametrize(("clause", "place"), [("0", 0), ("a", 0), ("1", 1), ("harm", 1)])
def test_own_claims_and_their_clauses_are_set_by_id_and_by_place(tmp_path: Path, own, claim, clause, place):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "claims": {"early_window": 5, "own": own}}))
    study = load_study(path, [(f"claims.own.{claim}.clauses.{clause}.smallest_effect", 0.3)])
    assert study.claims is not None
    effects = [clause.smallest_effect for claim in study.claims.own for clause in claim.clauses]
    assert effects == [1, 1, *([0.3, 1] if place == 0 else [1, 0.3])]
    assert load_study(path, [(f"claims.own.{claim}.statement", "Other")]).claims.own[1].statement == "Other"  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("own", "field", "words"),
    [
        (OWN, "recoers.clauses.0.unit", "there is no claim 'recoers'. Did you mean 'recovers' or 'grows'?"),
        (OWN, "7.clauses.0.unit", "there is no claim '7'. Choose one of 'grows', 'recovers'."),
        (OWN, "grows.clauses.hram.unit", "'hram' is to be found in a list of 2. Did you mean 'harm'?"),
        ([{"id": "x", **OWN["grows"]}], "y.statement", "'y' is to be found in a list of 1. Choose one of 'x', '0'."),
        ({}, "x.clauses.0.unit", "there is no claim 'x'. Write it in the study's YAML file."),
    ],
)
def test_an_own_claim_that_is_not_there_is_named(tmp_path: Path, own, field: str, words: str):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "claims": {"early_window": 5, "own": own}}))
    with pytest.raises(ConfigError) as caught:
        load_study(path, [(f"claims.own.{field}", "steps")])
    assert str(caught.value) == f"setting --claims.own.{field}: {words}"


@pytest.mark.parametrize("part", ["statement", "title", "sentence"])
def test_what_cannot_be_printed_is_refused_in_claims(part: str):
    claim = {"statement": "It is so", "clauses": [{**OWN["grows"]["clauses"][0]}]}
    (claim if part in ("statement", "title") else claim["clauses"][0])[part] = "red \x1b[31m {}"
    with pytest.raises(ConfigError, match=rf"{part}: it has '.x1b', which cannot be printed.*Write it without '.x1b'"):
        parse_study({**MINIMAL, "claims": {"early_window": 5, "own": {"x": claim}}}, source="x")


def test_a_setting_inside_a_value_is_refused(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(ConfigError, match=r"setting --name\.first: 'first' is to be found in the value 'x'"):
        load_study(path, [("name.first", 3)])


@pytest.mark.parametrize("text", ["[a", "just words", ""])
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"reading the study .*s\.yaml"):
        load_study(path)


def test_differences_name_dotted_fields():
    assert list(differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4})) == [
        ("a.c", 2, 5),
        ("d", 3, None),
        ("e", None, 4),
    ]
