import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_up_report import made_up_claims, made_up_manifests, made_up_study, made_up_tables

from vestige.report.page import write_report
from vestige.runs.store import StudyFolder

WAIT = 240_000
"""Milliseconds: the machine may be busy with a training."""
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


@pytest.fixture(scope="session")
def chromium():
    """One headless Chromium for all tests that look at pages."""
    reason = "no playwright on this machine (pip install playwright)"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=WAIT)
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium):
    """Open a page from disk; what it asks for besides itself, and what goes wrong in it, is nothing.

    `hashed` follows the page's address; with `neighbours` its folder `data` is part of it.
    """
    contexts, wrong, asked = [], [], []

    def opened(path, hashed="", *, width=1280, dark=False, neighbours=False):
        scheme = "dark" if dark else "light"
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page, url = context.new_page(), path.as_uri()
        own = (url, "data:", *([path.parent.joinpath("data").as_uri()] if neighbours else []))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(own) else asked.append(one.url))
        page.goto(url + hashed)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert (wrong, asked) == ([], [])
