"""The report and the comparison for everybody: by keyboard, on a telephone, light and dark, without any network."""

import pytest
from made_up_report import made_up_claims, made_up_manifests, made_up_study, made_up_tables

from vestige.report.compare import render_comparison
from vestige.report.compare_side import Side
from vestige.report.figures import Source, build_figures
from vestige.report.neurons.portraits import Portraits
from vestige.report.neurons.section import neurons
from vestige.report.page import render

STEPS = (0, 1, 4, 12, 64, 100)
PAGES = ("report", "comparison")

UNNAMED = """() => [...document.querySelectorAll("button, select, input, a[href], summary, [role=img], [tabindex='0']")]
  .filter(e => e.checkVisibility())
  .filter(e => !(e.ariaLabel || e.innerText?.trim() || e.labels?.[0]?.innerText.trim() || e.id.endsWith("bibtex")
    || e.tagName === "PRE"))
  .map(e => e.outerHTML.slice(0, 120))"""
UNSEEN_DRAWINGS = """() => [...document.querySelectorAll(".plot, svg.forest")]
  .filter(e => e.getAttribute("role") !== "img" || !(e.getAttribute("aria-label") || "").trim()).length"""
FOCUS = """() => { const e = document.activeElement, s = getComputedStyle(e); return {
  seen: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1, key: e.matches("#accuracy .key"),
  what: e.outerHTML.slice(0, 90), on: e !== document.body }; }"""
DARKNESS = """() => { const parts = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
  return parts.slice(0, 3).reduce((a, b) => a + b) / 3; }"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both pages."""
    study, home = made_up_study((0, 1)), tmp_path_factory.mktemp("pages")
    tables, claims, manifests = made_up_tables(study, STEPS), made_up_claims(study), made_up_manifests(study)
    source = Source(study, tables, claims, manifests)
    (home / "report.html").write_text(render(source, build_figures(source), neurons(source, Portraits(), home)))
    pair = [Side(label, label, study, tables, claims, manifests) for label in "AB"]
    (home / "comparison.html").write_text(render_comparison(*pair))
    return home


@pytest.fixture
def visit(browse, folder):
    """Open a page by its name."""
    return lambda name, **settings: browse(folder / f"{name}.html", **settings)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "dark"), [(380, True), (1280, False)])
def test_a_page_opens_offline_fits_its_window_and_says_what_it_draws(visit, name, width, dark):
    page = visit(name, width=width, dark=dark)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "the page scrolls sideways"
    assert page.evaluate(UNSEEN_DRAWINGS) == 0
    assert page.evaluate(UNNAMED) == []
    assert (page.evaluate(DARKNESS) < 60) == dark
    assert page.locator("svg.forest").count() > 5
    plot = page.locator(".plot").first
    assert plot.get_attribute("aria-label")
    plot.scroll_into_view_if_needed()
    page.wait_for_selector(".plot .main-svg")


@pytest.mark.parametrize("name", PAGES)
def test_toggles_are_reached_by_keyboard_with_a_focus_that_shows(visit, name):
    page = visit(name)
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("e => document.activeElement === e && e.getBoundingClientRect().left >= 0")
    page.keyboard.press("Enter")
    assert page.url.endswith("#verdicts")
    unseen, reached = [], False
    for _ in range(250):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        if not focus["on"]:
            break
        if not focus["seen"]:
            unseen.append(focus["what"])
        if focus["key"]:
            reached = True
            break
    assert unseen == []
    assert reached, "no key of the accuracy figure is reached"
    lines = "document.querySelectorAll('#accuracy .plot')[0].querySelectorAll('.scatterlayer .trace').length"
    page.wait_for_selector("#accuracy .plot .main-svg")
    before = page.evaluate(lines)
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "false"
    assert page.evaluate(lines) < before
    page.keyboard.press("Space")
    assert page.evaluate(lines) == before


def test_views_are_chosen_and_methods_copied_by_keyboard(visit):
    page = visit("report")
    chooser = page.locator('[data-chooser="F1"]')
    chooser.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector('.view[data-figure="F1"][data-view="1"]:not([hidden]) .main-svg')
    assert page.locator('.view[data-figure="F1"][data-view="0"]').is_hidden()
    button = page.locator('[data-copy="methods-bibtex"]')
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('copied').textContent")
    assert page.locator("#copied").inner_text() in ("Copied.", "Selected: press Ctrl+C.")
    assert "@article{ranadive2023special" in page.locator("#methods-bibtex").text_content()
