import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up_report import made_up_claims, made_up_manifests, made_up_study, made_up_tables

from vestige.report.page import write_report
from vestige.runs.store import StudyFolder

FEW_STEPS = (0, 1, 2, 4, 8, 12, 16, 32, 64, 80, 92, 96, 100)


@pytest.fixture(scope="session")
def study():
    return made_up_study(seeds=(0, 1, 2))


@pytest.fixture(scope="session")
def tables(study):
    return made_up_tables(study, FEW_STEPS)


@pytest.fixture(scope="session")
def claims(study):
    return made_up_claims(study)


@pytest.fixture(scope="session")
def manifests(study):
    return made_up_manifests(study)


@pytest.fixture(scope="session")
def written(study, tables, claims, manifests, tmp_path_factory):
    """The folder of a report."""
    folder = StudyFolder(tmp_path_factory.mktemp("study"))
    write_report(folder, study, tables, claims, manifests)
    return folder.report
