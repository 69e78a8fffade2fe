"""The page in a real browser, where there is one: every figure is drawn once a reader comes to it, and on paper."""

from functools import partial

import pytest

from vestige.report.figures import Source, build_figures

HELPERS = """
  const frame = () => new Promise(requestAnimationFrame);
  const seen = s => [...document.querySelectorAll(s)].filter(e => e.offsetWidth);
  const full = p => p.querySelector(".main-svg .trace, .main-svg .points") !== null;
  const counted = test => Object.fromEntries([...document.querySelectorAll("section.figure")]
    .map(s => [s.id, seen(`#${s.id} .plot`).filter(test).length]));
"""
SCROLL = f"""async () => {{ {HELPERS}
  const tops = () => seen(".plot").map(p => Math.round(p.getBoundingClientRect().top + scrollY));
  const before = tops();
  for (const plot of seen(".plot")) {{
    const began = performance.now();
    plot.scrollIntoView({{ behavior: "instant", block: "center" }});
    while (!full(plot) && performance.now() - began < 60000) await frame();
  }}
  return {{ before, after: tops() }};
}}"""
COUNT = f"() => {{ {HELPERS} return {{ shown: counted(() => true), drawn: counted(full) }}; }}"
SPILLING = """() => { const right = e => e.getBoundingClientRect().right;
  return [...document.querySelectorAll(".plot")].filter(p => p.offsetWidth)
    .filter(p => right(p.querySelector(".main-svg")) > right(p) + 1).length; }"""
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LINES = "document.querySelector('#accuracy .plot').querySelectorAll('.scatterlayer .trace').length"


@pytest.fixture(scope="module")
def panels(study, tables, claims, manifests):
    """Drawings in the first view of every figure, by its id: as its data has them."""
    figures = build_figures(Source(study, tables, claims, manifests, claims.get("classes")))
    return {f.id: sum(bool(panel.marks) for panel in f.views[0].panels) if f.views else 0 for f in figures}


@pytest.fixture
def visit(browse, written):
    """Open the page."""
    return partial(browse, written / "index.html")


@pytest.mark.parametrize(("width", "dark"), [(500, True), (1280, False)])
def test_the_page_draws_itself_and_answers(visit, panels, width, dark):
    page = visit(width=width, dark=dark)
    counts = page.evaluate(COUNT)
    assert counts["shown"] == panels
    assert sum(panels.values()) > 20
    assert sum(counts["drawn"].values()) == 0, "figures far from the window are drawn as the page opens"
    places = page.evaluate(SCROLL)
    assert places["before"] == places["after"], "drawing a figure moves what lies below it"
    assert page.evaluate(COUNT)["drawn"] == panels
    assert page.evaluate(WIDE) <= 0, "the page scrolls sideways"
    assert page.evaluate(SPILLING) == 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(16, 19, 23)" if dark else "rgb(250, 250, 248)")
    before = page.evaluate(LINES)
    key = page.locator("#accuracy .key").first
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    assert page.evaluate(LINES) < before
    last = page.locator('[data-chooser="F1"] option').count() - 1
    page.focus('[data-chooser="F1"]')
    page.select_option('[data-chooser="F1"]', str(last))
    page.wait_for_selector(f'.view[data-figure="F1"][data-view="{last}"] .plot .main-svg')
    assert page.locator('.view[data-figure="F1"]:visible').count() == 1


def test_a_key_pressed_before_a_figure_is_drawn_holds_and_a_change_of_colours_reaches_all(visit):
    page = visit()
    page.evaluate("document.querySelector('#accuracy .key').click()")
    page.locator("#accuracy .plot").first.scroll_into_view_if_needed()
    page.wait_for_selector("#accuracy .plot .main-svg .trace", state="attached")
    hidden = page.evaluate(LINES)
    page.evaluate("document.querySelector('#accuracy .key').click()")
    assert page.evaluate(LINES) > hidden
    ink = "() => document.querySelector('#accuracy .plot .xtick text').style.fill"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"({ink})() !== '{light}'")


def test_a_printed_page_has_every_figure(visit, panels):
    page = visit()
    page.pdf()
    assert page.evaluate(COUNT)["drawn"] == panels


SLIDES = """() => [...document.querySelectorAll('#F2b .panel')].filter(p => p.offsetWidth).map(p => p.dataset.slide)"""
SPAN = """() => { const plot = [...document.querySelectorAll('#F2b .plot')].find(p => p.offsetWidth);
  return JSON.stringify([plot._fullLayout.xaxis.range, plot._fullLayout.yaxis.range]); }"""


def shown_slide(page):
    """The step of the only slide, once it is drawn."""
    (step,) = page.evaluate(SLIDES)
    page.wait_for_selector(f'#F2b [data-slide="{step}"]:visible .main-svg .points', state="attached")
    slider = page.locator("#F2b [data-slider]:visible")
    assert slider.get_attribute("aria-valuetext") == f"step {step}"
    assert page.locator("#F2b .slider output:visible").inner_text() == step
    return int(step)


def test_a_slider_leads_through_the_checkpoints_by_mouse_and_by_keyboard(visit, tables):
    steps = sorted(tables["ablation"]["step"].unique())
    page = visit()
    page.locator('[data-chooser="F2b"]').select_option(label="baseline · replaced by zero · every checkpoint")
    slider = page.locator("#F2b [data-slider]:visible")
    slider.scroll_into_view_if_needed()
    assert shown_slide(page) == steps[-1]
    span = page.evaluate(SPAN)
    slider.click(position={"x": 2, "y": 8})
    assert shown_slide(page) == steps[0]
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("Home", 0)):
        page.keyboard.press(key)
        assert shown_slide(page) == steps[place]
    assert page.evaluate(SPAN) == span, "all on the same axes"
