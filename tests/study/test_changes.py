"""What is said when a study that was begun is worked on with other settings."""

from vestige.config import dump_study
from vestige.study.study import Study

STATISTIC = 'mean(selectivity.csi, condition="baseline", step=last)'


def begun(folder):
    study = Study.load("digits", out=folder)
    folder.mkdir()
    study.folder.study_yaml.write_text(dump_study(study.config))


def test_nothing_is_said_of_the_same_settings_or_of_a_new_study(tmp_path):
    assert Study.load("digits", out=tmp_path / "new").changes() == []
    begun(tmp_path / "study")
    assert Study.load(tmp_path / "study").changes() == []
    assert Study.load(tmp_path / "study", overrides=[("compute.workers", 7)]).changes() == []


def test_a_setting_and_a_whole_part_are_said(tmp_path):
    begun(tmp_path / "study")
    overrides = [("measurements.selectivity.images", 64), ("measurements.cumulative", None)]
    images, cumulative = Study.load(tmp_path / "study", overrides=overrides).changes()
    assert images.startswith("setting of the study changed: measurements.selectivity.images was ")
    assert images.endswith(", is 64")
    assert cumulative.startswith('setting of the study changed: measurements.cumulative was {"split": "test", ')
    assert cumulative.endswith(" ..., is null")


def test_what_changed_within_own_claims_is_said(tmp_path):
    long = {"statement": "It is so", "clauses": [{"statistic": f"{STATISTIC} + {'0 + ' * 50}1", "smallest_effect": 1}]}
    short = {"statement": "So is this", "clauses": [{"statistic": STATISTIC, "smallest_effect": 0.02}]}
    first = Study.load("digits", out=tmp_path, overrides=[("claims.own", {"x": long, "y": short})])
    first.folder.study_yaml.write_text(dump_study(first.config))
    short["clauses"][0]["smallest_effect"] = 0.01999999
    long["clauses"][0]["statistic"] += "2"
    changed = Study.load("digits", out=tmp_path, overrides=[("claims.own", {"x": long, "y": short})]).changes()
    statistic, effect = (line.removeprefix("setting of the study changed: claims.own.") for line in changed)
    was, now = statistic.split(", is ")
    assert statistic.startswith("x.clauses.a.statistic was ")
    assert was.endswith('0 + 1"')
    assert now.endswith('0 + 12"')
    assert effect == "y.clauses.a.smallest_effect was 0.02, is 0.01999999"


def test_a_part_that_comes_back_is_said_with_its_defaults(tmp_path):
    begun(tmp_path / "study")
    without = Study.load(tmp_path / "study", overrides=[("measurements.cumulative", None)])
    without.folder.study_yaml.write_text(dump_study(without.config))
    (line,) = Study.load(tmp_path / "study", overrides=[("measurements.cumulative.draws", 2)]).changes()
    assert line.startswith(
        'setting of the study changed: measurements.cumulative was null, is {"split": "test", "images": '
    )
