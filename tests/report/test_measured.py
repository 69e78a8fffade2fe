"""The page of a measured model says what was measured, and its numbers are the tables'."""

import json
import math
import re
import shutil
import subprocess

import numpy as np
import polars as pl
import pytest
from reading_pages import as_number, cells, read_page

from vestige.report.measured import render_measured, write_measured
from vestige.runs.tables import SCHEMAS

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>&amp;'
CLASSES = ["cat", "dog", EVIL, ""]


def made_up_table(step=None, protocol="corrected", seed=0, **columns) -> pl.DataFrame:
    """Two layers of 30 neurons, a tenth of them dead."""
    random = np.random.default_rng([seed, 0 if step is None else step])
    n = 60
    values = {
        "condition": ["net"] * n,
        "seed": [None] * n,
        "step": [step] * n,
        "epoch": [None] * n,
        "protocol": [protocol] * n,
        "dataset": ["folder:val"] * n,
        "split": [""] * n,
        "n": [400] * n,
        "stage": ["s1"] * 30 + ["s2"] * 30,
        "layer": ["s1.0"] * 30 + ["s2.0"] * 30,
        "neuron": [*range(30), *range(30)],
        **{name: random.random(n) for name, kind in SCHEMAS["selectivity"].items() if kind == pl.Float32},
        "selective": random.random(n) < 0.5,
        "preferred_class": random.integers(0, 4, n),
        "second_class": random.integers(0, 4, n),
        "dead": [i % 10 == 0 for i in range(n)],
        "k": [20] * n,
        "rectify": ["none"] * n,
        "mode": ["exact"] * n,
    }
    return pl.DataFrame({**values, **columns}).select(
        pl.col(name).cast(kind) for name, kind in SCHEMAS["selectivity"].items()
    )


def result(protocol="corrected", notes=(), **settings):
    return {
        "protocol": protocol, "top1": 0.625, "top5": None, "loss": 1.25, "n": 400, "skipped": 3, "seconds": 7.5,
        "notes": list(notes), "batch_norm": "the statistics stored with the weights", "permutations": 100,
        "mode": "exact", **settings,
    }  # fmt: skip


def record(checkpoints, **settings):
    return {
        "settings": {"model": "timm:net", "dtype": "float32", "layers": [], "limit": None},
        "model": {"name": "timm:net", "kind": "Net", "parameters": 1234567, "weights": "w.pth"},
        "data": {
            "spec": "folder:val", "name": "folder:val", "images": 403, "classes": 3, "class_names": CLASSES,
            "input_shape": [3, 32, 32], "preprocess": "in their own size", "skipped": 3,
        },
        "made": {"versions": {"vestige": "0.1", "torch": "2.15.0"}, "hardware": {"processor": "A processor"}},
        "notes": [], "files": [], "errors": [], "checkpoints": checkpoints, **settings,
    }  # fmt: skip


def entry(step=None, file="w.pth", results=None):
    return {"file": file, "step": step, "table": "selectivity.parquet", "results": results or [result()]}


def page_of(record, tables):
    return read_page(render_measured(record, tables))


def rows_of(page, section) -> list[list[str]]:
    return [
        [cell.text for cell in row if cell.tag in ("th", "td")] for row in page.one("section", id=section).all("tr")
    ]


@pytest.fixture(scope="module")
def one():
    notes = ["Top-1 is not better than chance."]
    return record([entry(results=[result(notes=notes)])], notes=["No --weights were given."]), [made_up_table()]


@pytest.fixture(scope="module")
def page(one):
    return page_of(*one)


@pytest.fixture(scope="module")
def several():
    entries = [entry(step, f"c{step}.pth") for step in (0, 10, 100)]
    entries[1]["results"] = [result(notes=["Odd."])]
    files = [
        {"file": e["file"], "step": e["step"], "weights": "ab" * 32, "duplicate_of": None, "error": None}
        for e in entries
    ]
    files.append({"file": "copy.pth", "step": None, "weights": "ab" * 32, "duplicate_of": "c10.pth", "error": None})
    files.append({"file": "bad.pth", "step": None, "weights": None, "duplicate_of": None, "error": "it is truncated."})
    return record(entries, files=files), [made_up_table(step) for step in (0, 10, 100)]


def test_it_says_what_was_measured(page):
    said = page.one("section", id="measured").text
    for words in ("timm:net (Net, 1 234 567 parameters)", "w.pth", "folder:val (400 images measured)"):
        assert words in said
    assert "3 images that cannot be read: see skipped.txt" in said
    notes = page.one("ul", class_="notes").text
    assert notes == "No --weights were given. Top-1 is not better than chance."
    assert "62.50%" in page.one("table", data_title="Accuracy and loss").text
    assert "torch 2.15.0" in page.one("section", id="made").text


def test_the_methods_say_what_was_done_and_no_more(page, one):
    methods = page.one("p", class_="methods").text
    assert "of 60 neurons in 2 layers of timm:net (1 set of weights)" in methods
    assert "on 400 images of 3 classes from folder:val" in methods
    assert "the null distribution is of 100 permutations" in methods
    for untrue in ("faithful", "absolute value", "step 0"):
        assert untrue not in methods
    without = made_up_table(rectify=["abs"] * 60, **dict.fromkeys(("csi_null_mean", "csi_null_q95"), [math.nan] * 60))
    other = page_of(record([entry(results=[result("faithful")])]), [without.with_columns(protocol=pl.lit("faithful"))])
    said = other.one("p", class_="methods").text
    assert "class sums instead of class means" in said
    assert "absolute value" in said
    assert "No permutations of the labels were made, so no neuron was tested." in said
    assert "There is no band without signal: no permutations were made." in other.one("section", id="layers").text


def test_the_table_by_layer_is_the_measured_one(page, one):
    table = one[1][0]
    rows = [
        [cell.text for cell in row if cell.tag in ("th", "td")] for row in page.one("section", id="by-layer").all("tr")
    ]
    header, first = rows[0], dict(zip(rows[0], rows[1], strict=True))
    assert header[0] == "layer"
    own = table.filter(layer="s1.0")
    alive = own.filter(~pl.col("dead"))
    shown = (("CSI", "csi", alive), ("CSI (CV)", "csi_cv", alive), ("η²", "eta2", alive), (header[6], "csi", own))
    assert header[6] == "CSI, dead ones too"
    for name, column, frame in shown:
        mean = np.mean(frame[column].to_numpy(), dtype=np.float64)
        assert as_number(first[name]) == pytest.approx(mean, rel=1e-3)
    assert first["dead"] == "10.0%"
    assert first["selective"] == f"{own['selective'].mean():.1%}"
    assert first["closed"] == f"{own['closed'].mean():.1%}"


def test_quartiles_of_the_figure_are_those_of_live_neurons(page, one):
    shown = cells(page, "layers", 0, "Class selectivity (CSI)")["s2.0"]
    values = one[1][0].filter(pl.col("layer") == "s2.0", ~pl.col("dead"))["csi"].to_numpy()
    expected = np.percentile(values, [25, 50, 75])
    assert [as_number(shown[q]) for q in ("lower quartile", "median", "upper quartile")] == pytest.approx(
        expected, rel=1e-3
    )


def test_the_most_selective_neurons_have_the_names_of_their_classes(page, one):
    rows = [
        [cell.text for cell in row if cell.tag in ("th", "td")] for row in page.one("section", id="neurons").all("tr")
    ][1:]
    table = one[1][0].filter(~pl.col("dead"), "selective").with_columns(both=pl.min_horizontal("csi", "csi_cv"))
    best = table.sort("both", descending=True).row(0, named=True)
    assert rows[0][:2] == [best["layer"], str(best["neuron"])]
    name = CLASSES[best["preferred_class"]]
    assert rows[0][2] == (f"{name} ({best['preferred_class']})" if name else str(best["preferred_class"]))
    assert len(rows) == 20


def test_markup_in_names_is_shown_and_not_obeyed():
    table = made_up_table(layer=[EVIL] * 60, stage=[EVIL] * 60, preferred_class=[2] * 60)
    page = page_of(record([entry(file=EVIL, results=[result(notes=[EVIL])])], notes=[EVIL]), [table])
    assert not page.all("img")
    assert len(page.all("script")) == 4
    assert f"{EVIL} (2)" in page.one("section", id="neurons").text
    data = page.one("script", id="figure-data").texts
    assert "<" not in "".join(data)


def test_several_checkpoints_are_shown_through_steps(several):
    page = page_of(*several)
    shown = cells(page, "steps", 0, "Cross-validated CSI")
    assert list(shown) == ["0", "10", "100"]
    for step, table in zip((0, 10, 100), several[1], strict=True):
        own = table.filter(pl.col("stage") == "s1", ~pl.col("dead"))["csi_cv"].to_numpy()
        assert as_number(shown[str(step)]["s1"]) == pytest.approx(np.mean(own, dtype=np.float64), rel=1e-3)
    assert "Of c100.pth (step 100), the last of the checkpoints." in page.one("section", id="by-layer").text
    files = page.one("table", data_title="Files").text
    assert "copy.pth – abababababab the same weights as c10.pth" in files
    assert "bad.pth – – not measured" in files
    notes = page.one("ul", class_="notes").text
    assert "c10.pth: Odd." in notes
    assert "bad.pth was not measured: it is truncated." in notes
    assert "step 0" in page.one("p", class_="methods").text


def test_nothing_but_nan_is_said_and_drawn_as_nothing():
    floats = [name for name, kind in SCHEMAS["selectivity"].items() if kind == pl.Float32]
    table = made_up_table(**dict.fromkeys(floats, [math.nan] * 60), selective=[None] * 60)
    page = page_of(record([entry()]), [table])
    for figure in ("layers", "agreement"):
        said = page.one("section", id=figure).text
        assert "No neuron that fires has a value: every one is missing (NaN)." in said
    assert "NaN" not in "".join(page.one("script", id="figure-data").texts)


def test_nothing_is_loaded_from_anywhere_and_every_section_is_linked(page, one):
    text = render_measured(*one)
    for element in page:
        for name in ("src", "srcset", "data", "poster", "action"):
            assert not element.attributes.get(name), (element.tag, name)
        if element.tag == "a":
            assert element.attributes["href"].startswith("#")
    assert not re.search(r"url\(|@import", "".join(page.one("style").texts))
    ids = [one.attributes["id"] for one in page if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    linked = {a.attributes["href"] for a in page.one("nav").all("a")}
    assert linked == {f"#{section.attributes['id']}" for section in page.all("section")}
    assert text.startswith("<!doctype html>")
    for plot in page.all(class_="plot"):
        assert plot.attributes["aria-label"]


def test_the_same_record_gives_the_same_bytes(one, tmp_path):
    paths = [write_measured(tmp_path / name, *one) for name in ("a.html", "b.html")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ASK = """<pre id="answer"></pre><script>
dispatchEvent(new Event("beforeprint"));  // or a figure waits until a reader comes near
const plots = [...document.querySelectorAll(".plot")].filter(e => e.offsetWidth);
document.getElementById("answer").textContent = JSON.stringify({
  plots: plots.length, blank: plots.filter(p => !p.querySelector(".trace, .points")).map(p => p.ariaLabel),
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth, failures });
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine (apt-get install chromium)")
def test_every_plot_is_drawn_in_a_browser(several, tmp_path):
    probe = "<script>window.failures = []; addEventListener('error', e => failures.push(String(e.message)));</script>"
    text = render_measured(*several).replace("<head>", f"<head>{probe}").replace("</body>", ASK)
    (tmp_path / "page.html").write_text(text)
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=10000", "--window-size=390,800", "--dump-dom", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout)
    assert answer, done.stderr[-500:]
    assert json.loads(answer[1]) == {"plots": 8, "blank": [], "wide": 0, "failures": []}
