"""The neuron browser in a real browser: what it shows is what the tables say, by mouse and by keyboard."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from made_up_portraits import IMAGES, KEPT, made_up_portraits
from made_up_report import CLASSES, LAYERS, made_up_manifests, made_up_study, made_up_tables

from vestige.report import page as page_module
from vestige.report.figures import Source
from vestige.report.neurons import chunks, section
from vestige.report.neurons.portraits import Portraits
from vestige.report.neurons.section import neurons
from vestige.report.page import render

STEPS = (0, 1, 4, 16, 40, 64, 80, 100)
NEURONS = sum(units for *_, units in LAYERS)
HOSTILE = '<img src="x" onerror="document.title=1"> & </script>'
NAMES = (HOSTILE, *(f"digit {i}" for i in range(1, CLASSES)))


@pytest.fixture(scope="module", autouse=True)
def _without_plotly():
    """No figure is drawn here, and half of the time would go into loading what draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "plotly_source", lambda: "")
        yield


@pytest.fixture(scope="module")
def study():
    return made_up_study(seeds=(0, 1))


@pytest.fixture(scope="module")
def tables(study):
    found = made_up_tables(study, STEPS)
    table = found["selectivity"]
    lacking = (pl.col("layer") == "layer1.0") & (pl.col("neuron") == 3) & (pl.col("step") == 100)
    moved = (pl.col("preferred_class") + pl.when(pl.col("step") >= 40).then(1).otherwise(0)) % CLASSES
    found["selectivity"] = table.with_columns(
        csi=pl.when(lacking).then(math.nan).otherwise("csi").cast(pl.Float32),
        preferred_class=moved.cast(pl.Int32),
        p_value=(pl.col("csi") * 1e-6).cast(pl.Float32),
    )
    return found


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    return made_up_portraits(tmp_path_factory.mktemp("tables"), NAMES)


def made(home, study, tables, portraits=Portraits(), manifests=None):  # noqa: B008 (frozen)
    home.mkdir(exist_ok=True)
    source = Source(study, tables, None, made_up_manifests(study) if manifests is None else manifests)
    (home / "index.html").write_text(render(source, (), neurons(source, portraits, home)))
    return home / "index.html"


@pytest.fixture(scope="module")
def written(study, tables, portraits, tmp_path_factory):
    return made(tmp_path_factory.mktemp("report"), study, tables, portraits)


@pytest.fixture
def visit(browse):
    """Open a page and wait for its neurons."""

    def opened(path, hashed="", **settings):
        page = browse(path, hashed, **settings)
        page.wait_for_selector("#neuron-browser[data-ready]", state="attached")
        return page

    return opened


def digits(value):
    """Three digits, as the page says them."""
    return "–" if value is None or not math.isfinite(value) else float(f"{value:.2e}")


def number(text):
    return text if text == "–" else float(text.replace("−", "-"))


def settled(page):
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def rows(page):
    """Every row of the table, found by scrolling through it: the neuron, then column by column."""
    found = {}
    scroll = page.locator('[data-neurons="scroll"]')
    scroll.evaluate("e => { e.scrollTop = 0 }")
    settled(page)
    names = page.locator('[data-neurons="head"] th').all_inner_texts()
    for _ in range(200):
        for row in page.evaluate(
            "() => [...document.querySelectorAll('[data-neurons=body] tr[data-place]')].map(r => "
            "[r.getAttribute('aria-rowindex'), ...[...r.children].map(c => c.textContent)])"
        ):
            found[int(row[0]) - 2] = dict(zip([name.split()[0] for name in names], row[1:], strict=True))
        if scroll.evaluate("e => { const was = e.scrollTop; e.scrollTop += 500; return e.scrollTop === was }"):
            return [found[i] for i in range(len(found))]
        settled(page)
    raise AssertionError("the table has no end")


def choose(page, **settings):
    for name, value in settings.items():
        page.select_option(f'[data-neurons="{name}"]', str(value))
    page.wait_for_selector('[data-neurons="scroll"]:not([aria-busy])')
    settled(page)


COLUMNS = {"csi": "csi", "null": "csi_null_mean", "csi_cv": "csi_cv", "eta2": "eta2", "p": "p_value"}
COLUMNS |= {"sparsity": "sparsity", "closed": "closed"}


@pytest.mark.parametrize(("condition", "seed", "step"), [("baseline", 0, 100), ("baseline", 1, 4), ("late", 1, 80)])
def test_every_number_of_the_table_is_that_of_the_tables(visit, written, tables, condition, seed, step):
    page = visit(written)
    choose(page, condition=condition, seed=seed, step=step)
    shown = rows(page)
    table = tables["selectivity"].filter(condition=condition, seed=seed, step=step)
    assert [row["layer"] for row in shown] == [f"{r['layer']}/{r['neuron']}" for r in table.iter_rows(named=True)]
    for row, true in zip(shown, table.iter_rows(named=True), strict=True):
        assert {name: number(row[name]) for name in COLUMNS} == {n: digits(true[c]) for n, c in COLUMNS.items()}
        assert row["preferred"] == f"{true['preferred_class']} {NAMES[true['preferred_class']]}"
        assert row["selective"] == ("yes" if true["selective"] else "no")
    ablated = tables["ablation"].filter(condition=condition, seed=seed, step=step, value="zero")
    expected = ablated["loss_delta"].to_list() or [None] * NEURONS
    assert [number(row["loss:zero"]) for row in shown] == [digits(value) for value in expected]


def test_sorting_and_filtering_by_mouse_and_keyboard(visit, written, tables):
    page = visit(written)
    table = tables["selectivity"].filter(condition="baseline", seed=0, step=100)
    page.click('[data-sort="csi"]')
    values = [number(row["csi"]) for row in rows(page)]
    assert values[-1] == "–", "what is missing comes last"
    assert values[:-1] == sorted(values[:-1], reverse=True)
    header = page.locator('th:has([data-sort="csi"])')
    assert header.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    values = [number(row["csi"]) for row in rows(page)]
    assert values[:-1] == sorted(values[:-1])

    page.focus('[data-neurons="filter"]')
    page.keyboard.type("csi > 0.25, closed<=0.4 layer2")
    kept = rows(page)
    rounded = table.with_columns(
        pl.Series(
            name, [digits(v) if v is not None and math.isfinite(v) else None for v in table[name]], dtype=pl.Float64
        )
        for name in ("csi", "closed")
    )
    wanted = rounded.filter(pl.col("csi") > 0.25, pl.col("closed") <= 0.4, layer="layer2.0")
    assert 0 < wanted.height < 32
    assert {row["layer"] for row in kept} == {f"layer2.0/{n}" for n in wanted["neuron"]}
    assert page.inner_text('[data-neurons="said"]') == f"{wanted.height} of {NEURONS} neurons"

    page.fill('[data-neurons="filter"]', "digit 3")
    choose(page, **{"class": 3, "layer": "layer3.0"})
    page.check('[data-neurons="selective"]')
    settled(page)
    wanted = table.filter(layer="layer3.0", preferred_class=3, selective=True)
    assert [row["layer"] for row in rows(page)] != []
    assert {row["layer"] for row in rows(page)} == {f"layer3.0/{n}" for n in wanted["neuron"]}

    page.fill('[data-neurons="filter"]', "csi > 9")
    settled(page)
    assert page.inner_text('[data-neurons="none"]') == "No neuron is left by these filters."


@pytest.mark.parametrize(
    ("filtered", "said"), [("csx > 1", "“csx” is no column. There are csi, null,"), ("csi >", "“>”")]
)
def test_a_filter_that_cannot_be_read_says_so(visit, written, filtered, said):
    page = visit(written)
    page.fill('[data-neurons="filter"]', filtered)
    assert said in page.inner_text('[data-neurons="error"]')
    page.fill('[data-neurons="filter"]', "")
    assert page.inner_text('[data-neurons="error"]') == ""
    assert page.inner_text('[data-neurons="said"]') == f"{NEURONS} of {NEURONS} neurons"


def test_columns_can_be_chosen(visit, written, tables):
    page = visit(written)
    page.click(".neuron-columns summary")
    page.uncheck('.neuron-columns [value="csi"]')
    page.check('.neuron-columns [value="auroc"]')
    names = page.locator('[data-neurons="head"] th').all_inner_texts()
    assert "csi" not in names
    assert "auroc" in names
    assert {row["auroc"] for row in rows(page)} == {"0.700"}


RESTED = """async () => { const frame = () => new Promise(requestAnimationFrame);
  for (let at = scrollY, still = 0; still < 20; still = scrollY === at ? still + 1 : 0, at = scrollY) await frame();
}"""
"""Pages scroll smoothly: until it is over, no place is one to come back to."""
ROW_TOP = "document.querySelector('[data-neurons=body] tr[aria-selected=true]').getBoundingClientRect().top"
GROW = "document.querySelector('main > header').style.paddingBottom = '321px'"


@pytest.mark.parametrize("meanwhile", ["", GROW], ids=["", "what lies above it grows"])
def test_a_neuron_opens_by_keyboard_and_the_way_back_leads_to_its_row(visit, written, meanwhile):
    page = visit(written)
    page.evaluate("document.getElementById('neurons').scrollIntoView({ behavior: 'instant' })")
    page.focus('[data-neurons="grid"]')
    for key in ("End", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    active = page.get_attribute('[data-neurons="grid"]', "aria-activedescendant")
    assert page.locator(f"#{active} a").inner_text() == f"layer3.0/{64 - 3}"
    page.evaluate(RESTED)
    was, scrolled = page.evaluate(ROW_TOP), page.evaluate("scrollY")
    page.keyboard.press("Enter")
    page.wait_for_selector("#neuron-title")
    assert page.evaluate("location.hash") == "#neuron=layer3.0/61"
    assert page.evaluate("document.activeElement.id") == "neuron-title"
    assert page.inner_text("#neuron-title") == "layer3.0, neuron 61"
    assert not page.is_visible("#neurons")
    page.evaluate(meanwhile)
    page.go_back()
    page.wait_for_selector("#neurons", state="visible")
    page.evaluate(RESTED)
    assert page.evaluate("document.activeElement.dataset.neurons") == "grid"
    assert page.locator("#neuron-page").is_hidden()
    assert abs(page.evaluate(ROW_TOP) - was) < 3
    assert abs(page.evaluate("scrollY") - scrolled - (321 if meanwhile else 0)) < 3
    assert page.locator('[data-neurons="body"] tr[aria-selected="true"] a').inner_text() == "layer3.0/61"


def test_a_neuron_opens_by_mouse_and_neighbours_follow_the_order_shown(visit, written):
    page = visit(written)
    page.fill('[data-neurons="filter"]', "layer2")
    page.click('[data-sort="eta2"]')
    names = [row["layer"] for row in rows(page)]
    page.evaluate("document.querySelector('[data-neurons=scroll]').scrollTop = 0")
    settled(page)
    page.locator('[data-neurons="body"] tr[data-place] td').nth(20).click()
    first = page.inner_text("#neuron-title")
    place = names.index(first.replace(", neuron ", "/"))
    page.click('#neuron-page [rel="next"]')
    page.wait_for_function(f"document.querySelector('#neuron-title').innerText !== '{first}'")
    assert page.inner_text("#neuron-title").replace(", neuron ", "/") == names[place + 1]
    page.click('#neuron-page [data-neurons="back"]')
    page.wait_for_selector("#neurons", state="visible")
    page.click('nav a[href="#made"]')
    assert page.is_visible("#made")


def test_the_way_back_is_taken_by_keyboard(visit, written):
    page = visit(written)
    page.focus('[data-neurons="grid"]')
    page.keyboard.press("Enter")
    page.wait_for_selector("#neuron-title")
    page.keyboard.press("Shift+Tab")
    for _ in range(5):
        if page.evaluate("document.activeElement.dataset.neurons") == "back":
            break
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#neurons", state="visible")
    assert page.locator("#neuron-page").is_hidden()


def life(page):
    page.click("#neuron-page details.data summary")
    table = page.locator('table[data-title="life"]')
    names = table.locator("thead th").all_inner_texts()
    cells = [line.split("\t") for line in table.locator("tbody").inner_text().split("\n")]
    return {int(row[0]): dict(zip(names, row, strict=True)) for row in cells}


def test_a_neurons_life_is_that_of_the_tables(visit, written, tables):
    page = visit(written, "#neuron=layer2.0/7")
    table = tables["selectivity"].filter(condition="baseline", seed=0, layer="layer2.0", neuron=7).sort("step")
    ablated = (
        tables["ablation"].filter(condition="baseline", seed=0, layer="layer2.0", neuron=7, value="mean").sort("step")
    )
    lived = life(page)
    assert tuple(lived) == STEPS
    for row, true, harm in zip(lived.values(), table.iter_rows(named=True), ablated.iter_rows(named=True), strict=True):
        assert {name: number(row[name]) for name in COLUMNS} == {n: digits(true[c]) for n, c in COLUMNS.items()}
        assert number(row["loss:mean"]) == digits(harm["loss_delta"])
        assert number(row["loss_se:mean"]) == digits(harm["loss_delta_se"])
        assert number(row["pref_acc:mean"]) == digits(harm["preferred_delta"])
    assert "It switches 1 time." in page.inner_text("#neuron-page")
    first, second = page.locator(".switches li").all_inner_texts()
    before, after = table.filter(step=16)["preferred_class"][0], table.filter(step=40)["preferred_class"][0]
    assert first == f"{before} {NAMES[before]} steps 0 to 16"
    assert second == f"{after} {NAMES[after]} steps 40 to 100"
    assert page.inner_text('[data-fact="csi"]') == lived[100]["csi"]
    page.select_option('[data-page="step"]', "4")
    page.wait_for_function(f"document.querySelector('[data-fact=csi]').innerText === '{lived[4]['csi']}'")


def test_a_branch_lives_its_parents_life_before(visit, written, tables):
    page = visit(written, "#neuron=layer1.0/2&condition=late&seed=1&protocol=corrected")
    assert "Up to step 64 it is “baseline”, from which it branches." in page.inner_text("#neuron-page")
    both = {"seed": 1, "layer": "layer1.0", "neuron": 2}
    expected = {
        step: tables["selectivity"].filter(condition="baseline" if step <= 64 else "late", step=step, **both)["csi"][0]
        for step in STEPS
    }
    assert {step: number(row["csi"]) for step, row in life(page).items()} == {s: digits(v) for s, v in expected.items()}
    assert "No single-neuron ablation of this condition" in page.inner_text("#neuron-page")
    assert "No class means and top inputs of this condition" in page.inner_text("#neuron-page")


def bars(page, title):
    panel = page.locator("#neuron-page .panel", has=page.locator(f'h3:text-is("{title}")'))
    return [
        [moment.locator("h4").inner_text(), [bar.text_content() for bar in moment.locator("rect title").all()]]
        for moment in panel.locator(".moment").all()
    ]


def test_tuning_damage_and_inputs_are_those_of_the_tables(visit, written, tables, portraits):
    page = visit(written, "#neuron=layer2.0/7")
    csi = tables["selectivity"].filter(condition="baseline", seed=0, layer="layer2.0", neuron=7)
    peak = csi.filter(pl.col("step").is_in(KEPT)).sort("csi")["step"][-1]
    heads = [f"step {step} {name}" for step, name in ((4, "early"), (peak, "its highest CSI"), (100, "last"))]
    for title, files, column in (
        ("Class tuning", portraits.means, "class_means"),
        ("Damage by class, ablated (mean)", portraits.damage, "class_loss_delta"),
    ):
        shown = bars(page, title)
        assert [head for head, _ in shown] == heads
        for step, (_, said) in zip((4, peak, 100), shown, strict=True):
            own = pl.read_parquet(files["baseline", 0][step][-1]).filter(layer="layer2.0", neuron=7)
            true = own[column].explode().to_list()
            assert [text.rsplit(": ", 1)[0] for text in said] == list(NAMES)
            assert [number(text.rsplit(": ", 1)[1]) for text in said] == [digits(value) for value in true]
    for step, moment in zip((4, peak, 100), page.locator("#neuron-page .moment:has(.thumbs)").all(), strict=True):
        own = pl.read_parquet(portraits.inputs["baseline", 0][step][0]).filter(layer="layer2.0", neuron=7).sort("rank")
        for thumb, true in zip(moment.locator(".thumb").all(), own.iter_rows(named=True), strict=True):
            begun, activation = thumb.get_attribute("aria-label").rsplit(" ", 1)
            assert begun == f"image {true['input']}, class {NAMES[true['label']]}, activation"
            assert number(activation) == digits(true["activation"])


def test_a_thumbnail_shows_its_image(visit, written, portraits):
    page = visit(written, "#neuron=layer1.0/0")
    thumb = page.locator(".thumb").first
    thumb.scroll_into_view_if_needed()
    image = int(thumb.get_attribute("aria-label").split()[1].rstrip(","))
    assert image < IMAGES
    from io import BytesIO

    from PIL import Image

    seen = np.asarray(Image.open(BytesIO(thumb.screenshot())).convert("L"), dtype=float)
    side = seen.shape[0] / 8
    middles = [round((i + 0.5) * side) for i in range(8)]
    sheet = np.asarray(Image.open(portraits.sheets.files[image // 64]))
    place = image % 64
    true = sheet[place // 8 * 8 : place // 8 * 8 + 8, place % 8 * 8 : place % 8 * 8 + 8]
    assert np.abs(seen[np.ix_(middles, middles)] - true).max() < 3


def test_a_neuron_that_nothing_excites_says_so(visit, written):
    page = visit(written, "#neuron=layer1.0/5")
    assert page.inner_text("#neuron-page").count("No input excites it.") == 3


def test_names_of_classes_are_text(visit, written):
    page = visit(written, "#neuron=layer1.0/0")
    assert page.locator("#neuron-page img").count() == 0
    assert HOSTILE in page.inner_text(".switches")
    assert page.title() == "layer1.0/0 · made-up · vestige"
    page.click('#neuron-page [data-neurons="back"]')
    page.wait_for_selector("#neurons", state="visible")
    assert HOSTILE in rows(page)[0]["preferred"] or HOSTILE in rows(page)[9]["preferred"]
    assert page.locator("#neurons img").count() == 0


def test_what_is_not_there_is_said(visit, study, tables, tmp_path):
    known = {kind: table for kind, table in tables.items() if kind != "ablation"}
    known["selectivity"] = known["selectivity"].filter(~((pl.col("condition") == "mid") & (pl.col("seed") == 1)))
    known["selectivity"] = known["selectivity"].filter(pl.col("condition") != "late")
    manifests = made_up_manifests(study)
    manifests["mid", 1] = replace(manifests["mid", 1], complete=False, failed="loss is NaN at step 40")
    page = visit(made(tmp_path / "report", study, known, manifests=manifests))
    said = page.inner_text("#neurons .missing")
    assert "Condition “mid” has no neurons to show of seed 1." in said
    assert "Condition “late” has no neurons to show of any seed." in said
    assert "“mid”, seed 1, stopped: loss is NaN at step 40." in said
    assert "There is no single-neuron ablation" in said
    page.evaluate("location.hash = '#neuron=layer1.0/3'")
    page.wait_for_selector("#neuron-title")
    text = page.inner_text("#neuron-page")
    assert "No single-neuron ablation yet: run “vestige run”." in text
    assert "No class means and top inputs yet: run “vestige run”." in text
    assert page.inner_text('[data-fact="csi"]') == "–"
    page.evaluate("location.hash = '#neuron=layer9/0'")
    page.wait_for_selector("#neuron-page .notice:text('There is no neuron layer9/0 in this study.')")


def test_nothing_measured_is_said(chromium, study, tmp_path):
    path = made(tmp_path / "report", study, {})
    page = chromium.new_page()
    page.goto(path.as_uri())
    assert "No neuron has been measured yet" in page.inner_text("#neurons")
    page.close()


@pytest.mark.parametrize(("width", "dark"), [(380, True), (1280, False), (3840, False)])
def test_nothing_scrolls_sideways(visit, written, width, dark):
    page = visit(written, "#neuron=layer2.0/7", width=width, dark=dark)
    page.wait_for_selector(".neuron-plot svg")
    over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(over) <= 0
    drawn = page.evaluate(
        "() => [...document.querySelectorAll('.neuron-plot')].map(p => p.firstChild?.clientWidth - p.clientWidth)"
    )
    assert set(drawn) == {0}
    page.click('#neuron-page [data-neurons="back"]')
    page.wait_for_selector("#neurons", state="visible")
    assert page.evaluate(over) <= 0


def test_a_large_study_lies_in_files_beside_the_page(visit, study, tables, portraits, tmp_path, monkeypatch):
    monkeypatch.setattr(section, "WITHIN", 0)
    monkeypatch.setattr(chunks, "WHOLE", 20_000)
    monkeypatch.setattr(chunks, "BLOCK", 5_000)
    path = made(tmp_path / "report", study, tables, portraits)
    names = {p.name for p in (path.parent / "data").iterdir()}
    assert {"run-000-step-00000004.js", "run-000-neurons-00000.js", "images-00000.png"} <= names
    assert all(chunks.OURS.fullmatch(name) for name in names)
    page = visit(path, neighbours=True)
    choose(page, condition="baseline", seed=1, step=4)
    true = tables["selectivity"].filter(condition="baseline", seed=1, step=4)
    assert [number(row["csi"]) for row in rows(page)] == [digits(value) for value in true["csi"]]
    page.evaluate("location.hash = '#neuron=layer3.0/50&condition=baseline&seed=1&protocol=corrected'")
    page.wait_for_selector("#neuron-title")
    one = tables["selectivity"].filter(condition="baseline", seed=1, layer="layer3.0", neuron=50).sort("step")
    assert [number(row["csi"]) for row in life(page).values()] == [digits(value) for value in one["csi"]]
    own = pl.read_parquet(portraits.means["baseline", 1][100][0]).filter(layer="layer3.0", neuron=50)
    said = bars(page, "Class tuning")[2][1]
    assert [number(text.rsplit(": ", 1)[1]) for text in said] == [digits(v) for v in own["class_means"].explode()]
    assert "data/images-" in page.locator(".thumb").first.get_attribute("style")


def test_files_that_are_gone_are_named(chromium, study, tables, tmp_path, monkeypatch):
    monkeypatch.setattr(section, "WITHIN", 0)
    path = made(tmp_path / "report", study, tables)
    (path.parent / "data" / "run-001.js").unlink()
    page = chromium.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("#neuron-browser[data-ready]", state="attached")
    page.select_option('[data-neurons="seed"]', "1")
    error = page.wait_for_selector('[data-neurons="error"]:text("cannot be read")')
    assert "data/run-001.js cannot be read" in error.inner_text()
    page.close()


def test_many_classes_are_shown_by_rank(visit, study, tables, tmp_path):
    names = [f"kind {i}" for i in range(100)]
    few = made_up_portraits(tmp_path, names, runs=(("baseline", 0),), kept=(0, 100))
    page = visit(made(tmp_path / "report", study, tables, few), "#neuron=layer2.0/7")
    own = pl.read_parquet(few.means["baseline", 0][100][0]).filter(layer="layer2.0", neuron=7)
    means = own["class_means"].explode().to_list()
    highest = sorted(range(100), key=lambda i: -means[i])[:12]
    said = bars(page, "Class tuning")[-1][1]
    assert said == [f"{names[i]}: {said[rank].rsplit(': ', 1)[1]}" for rank, i in enumerate(highest)]
    assert [number(text.rsplit(": ", 1)[1]) for text in said] == [digits(means[i]) for i in highest]
    label = page.locator("#neuron-page .panel", has=page.locator('h3:text-is("Class tuning")')).locator("svg").last
    ends = [float(f"{value:.2e}") for value in (max(means), min(means))]
    said = label.get_attribute("aria-label").split("from ")[1].split(", median")[0]
    assert [number(text) for text in said.split(" to ")] == ends
