"""Every number on the page is that of the study's files, which pyarrow reads here: in words, tables and drawings."""

import dataclasses
import functools
import json
import math
import re
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import witnesses
import witnesses_of_harm as harm
from made_up_report import CLASSES, LAYERS, made_up_claims, made_up_manifests, made_up_study, made_up_tables
from reading_pages import Element, read_page
from study_files import Files, Shown
from test_departures_figure import RECORDS

from vestige.config import dump_study
from vestige.report import page as page_module
from vestige.report.page import write_report
from vestige.runs.store import StudyFolder

STEPS = (0, 1, 4, 8, 12, 16, 40, 64, 80, 92, 96, 100)
GRID = {"name": "g", "intervention": {"kind": "selectivity"}, "onset": [1, 0], "length": [2], "dose": [-5, -20]}
FIGURES = {
    "F1": witnesses.selectivity, "F2": witnesses.ablation, "F2b": witnesses.single_neurons,
    "F2c": witnesses.importance, "F3": harm.linearity, "F4": harm.causality, "F5": harm.timing, "F6": harm.mediators,
    "F7": harm.departures, "accuracy": harm.accuracy,
}  # fmt: skip
OTHERS = {
    "verdicts": "test_a_clause_shows_its_numbers",
    "made": "test_how_it_was_made_is_the_manifests",
    "neurons": "test_every_number_of_the_table_is_that_of_the_tables",
    "methods": "test_the_text_has_the_studys_numbers",
}
"""Sections that are no figures, and the test that compares their numbers: here, or where the names say."""
HOVER = re.compile(r"<b>(.*?)</b><br>(.*?)<br>")
NUMBER = re.compile(r"[−-]?\d[\d\u202f]*(?:\.\d+)?(?:e[−-]?\d+)?")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A study's files and its page. Some numbers are missing; no two conditions or seeds are alike."""
    home = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("made_up_report.LAYERS", (*LAYERS, ("layer3", "layer3.1", 8)))
        patch.setattr(page_module, "plotly_source", lambda: "")
        study = made_up_study((0, 1, 2), grid=GRID)
        tables, manifests = _varied(made_up_tables(study, STEPS)), made_up_manifests(study)
        claims = made_up_claims(study) | {"classes": CLASSES, "departures": RECORDS}
        write_report(StudyFolder(home), study, tables, claims, manifests)
    for kind, table in tables.items():
        table.write_parquet(home / f"{kind}.parquet")
    (home / "claims.json").write_text(json.dumps(claims))
    (home / "study.yaml").write_text(dump_study(study))
    runs = [{"condition": c, "seed": s, **dataclasses.asdict(one)} for (c, s), one in manifests.items()]
    (home / "manifests.json").write_text(json.dumps(runs))
    return home


def _varied(tables):
    rng, missing = np.random.default_rng(3), pl.lit(math.nan, pl.Float32)
    chosen = (pl.col("layer") == "layer2.0") & (pl.col("neuron") == 3) & (pl.col("seed") == 1)
    tables["selectivity"] = tables["selectivity"].with_columns(
        pl.Series("mean", rng.gamma(1.0, 1.0, tables["selectivity"].height), pl.Float32),
        csi=pl.when(chosen).then(missing).otherwise("csi"),
    )
    broken = (pl.col("measure") == "midpoint") & (pl.col("layer") == "layer1.0") & (pl.col("step") == 16)
    jitter = 0.01 * ((7 * pl.col("seed") + 3 * pl.col("step")) % 5) * ~pl.col("measure").str.starts_with("kalimeris-")
    shifted = (pl.col("value") + jitter).cast(pl.Float64)
    tables["linearity"] = tables["linearity"].with_columns(value=pl.when(broken).then(missing).otherwise(shifted))
    lost = 0.01 * pl.col("condition").rank("dense") * (1 + 0.3 * pl.col("seed")) * (pl.col("step") > 80)
    tables["history"] = tables["history"].with_columns(top1=(pl.col("top1") - lost).cast(pl.Float32))
    return tables


@pytest.fixture(scope="module")
def files(home):
    return Files(home)


@pytest.fixture(scope="module")
def expected(files):
    """By figure: its views with their panels."""
    return functools.cache(lambda name: FIGURES[name](files))


@pytest.fixture(scope="module")
def page(home):
    return read_page((home / "report/index.html").read_text())


@pytest.fixture(scope="module")
def drawn(page):
    return json.loads("".join(page.one("script", id="figure-data").texts))


def numbers(text: str) -> list[str]:
    return NUMBER.findall(text)


def says(text: str, value: float | None) -> bool:
    """Whether a number as a reader sees it is this value, to the digits that it shows (what sums to 0 may miss it)."""
    if value is None:
        return text == "–"
    plain = text.replace("\u2212", "-").replace("\u202f", "")
    if not re.fullmatch(NUMBER, plain):
        return False
    mantissa, _, exponent = plain.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(plain) - value) <= 0.5 * last * (1 + 1e-4) + 1e-8


def matches(text: str, expected) -> bool:
    if isinstance(expected, str):
        return text == " ".join(expected.split())
    if isinstance(expected, tuple):
        found = numbers(text)
        return len(found) == len(expected) and all(map(says, found, expected))
    return says(text, expected)


def near(found, expected) -> bool:
    """Coordinates are drawn to five digits."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    if found is None or expected is None:
        return found is expected
    return abs(found - expected) <= 5.1e-5 * max(abs(expected), 1e-3)


def views_of(page: Element, name: str) -> list[Element]:
    return [one for one in page.one("section", id=name) if one.attributes.get("data-figure") == name]


def test_every_section_is_compared(page):
    sections = {one.attributes["id"] for one in page.all("section")}
    assert sections == {*FIGURES, *OTHERS}
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [test for test in OTHERS.values() if f"def {test}(" not in sources] == []


@pytest.mark.parametrize("name", FIGURES)
def test_tables_below_a_figure_are_the_files(page, expected, name):
    views, shown = views_of(page, name), expected(name)
    chooser = page.one("section", id=name).all("select")
    if chooser:
        assert [option.text for option in chooser[0].all("option")] == [said for said, _ in shown]
    assert len(views) == len(shown)
    for view, (said, panels) in zip(views, shown, strict=True):
        assert [h3.text for h3 in view.all("h3")] == [panel.title for panel in panels], said
        tables = [table.attributes["data-title"] for table in view.all("table")]
        assert tables == [panel.title for panel in panels if panel.rows is not None], said
        for panel in panels:
            compare_table(view.one("table", data_title=panel.title), panel, said)


def compare_table(table: Element, panel: Shown, said: str):
    header, *rows = panel.rows or [None]
    shown = [[cell.text for cell in row if cell.tag in ("th", "td")] for row in table.one("tbody").all("tr")]
    if header:
        assert [th.text for th in table.one("thead").all("th")] == header, (said, panel.title)
    assert len(shown) == len(rows), (said, panel.title)
    for line, row in zip(shown, rows, strict=True):
        wrong = [(text, value) for text, value in zip(line, row, strict=True) if not matches(text, value)]
        assert wrong == [], (said, panel.title, row[0])


@pytest.mark.parametrize("name", FIGURES)
def test_what_a_figure_draws_is_the_files(drawn, expected, files, name):
    for panels, (said, shown) in zip(drawn[name], expected(name), strict=True):
        for panel, true in zip(panels, [one for one in shown if one.traces], strict=True):
            of, traces = (name, said, true.title), panel["data"]
            assert [trace.get("legendgroup", "") for trace in traces] == [group for group, *_ in true.traces], of
            for trace, (group, x, y) in zip(traces, true.traces, strict=True):
                assert near(trace.get("x", []), x), (*of, group)
                assert near(trace.get("y", trace.get("z")), y), (*of, group)
                if trace["type"] == "scatter" and trace.get("customdata"):
                    assert near(trace["x"], [files.place(step) for step in trace["customdata"]]), (*of, group)
                if trace["type"] == "heatmap":
                    assert all(map(says, chain(*trace["text"]), chain(*y))), of
            compare_texts(traces, true, of)


def compare_texts(traces, true: Shown, of):
    """What appears under the pointer and is no coordinate: texts, and the numbers of an interval."""
    named = [text for trace in traces for text in trace.get("text", []) if trace["type"] == "scatter"]
    named += [text for trace in traces if trace["type"] == "heatmap" for row in trace["customdata"] for text in row]
    told = [pair for trace in traces for pair in HOVER.findall(trace.get("hovertemplate", "")) if "%{" not in pair[1]]
    intervals = [text for text in true.texts if isinstance(text, tuple)]
    assert named == [text for text in true.texts if isinstance(text, str)], of
    assert [name for name, _ in told] == [name for name, _ in intervals], of
    assert all(matches(text, tuple(values)) for (_, text), (_, values) in zip(told, intervals, strict=True)), of


def test_a_clause_shows_its_numbers(page, files):
    for claim in files.claims["claims"]:
        card = page.one("article", id=claim["id"])
        assert claim["sentence"] in card.text
        assert matches(card.all("p", class_="muted small")[0].text, (claim["p_holm"],))
        for clause in claim["clauses"]:
            row = card.one("li", data_clause=clause["id"])
            assert matches(row.one("p", class_="numbers").text, clause_numbers(clause)), clause["id"]
            if clause["estimate"] is not None:
                compare_forest(row.one("svg"), clause)
        for text, one in zip(
            [li.one("b").text for li in card.all("li") if not li.attributes], claim["beside"], strict=True
        ):
            assert matches(text, (one["estimate"], math.exp(one["estimate"]), one["low"], one["high"]))


def clause_numbers(clause) -> tuple[float, ...]:
    """In the order of reading: estimate (a log ratio also as a multiple), interval, smallest effect, seeds."""
    scale, ratio = (100 if clause["unit"] == "accuracy" else 1), clause["unit"] == "ln ratio"
    least = clause["smallest_effect"]
    found = [] if clause["estimate"] is None else [clause["estimate"] * scale, *[math.exp(clause["estimate"])] * ratio]
    if found:
        found += [95, clause["low"] * scale, clause["high"] * scale]
    found += [least * scale, *[math.exp(least)] * ratio] if least else [0]
    return (*found, *([len(clause["seeds"]), *clause["seeds"]] if clause["seeds"] else []))


def compare_forest(svg: Element, clause):
    """Places are percent of the width: all lie on the line through 0 and the estimate."""
    at = {
        name: [mark for mark in svg if name in mark.classes] for name in ("f-zero", "f-est", "f-bar", "f-d", "f-seed")
    }
    zero, estimate = percent(at["f-zero"][0], "x1"), percent(at["f-est"][0], "cx")
    per = (estimate - zero) / clause["estimate"]
    found = [percent(at["f-bar"][0], "x1"), percent(at["f-bar"][0], "x2")]
    found += [percent(mark, "x1") for mark in at["f-d"]] + [percent(mark, "cx") for mark in at["f-seed"]]
    true = [
        clause["low"],
        clause["high"],
        *[clause["smallest_effect"]] * bool(clause["smallest_effect"]),
        *clause["values"],
    ]
    slack = 0.02 * (1 + max(abs(value / clause["estimate"]) for value in true))
    assert found == pytest.approx([zero + per * value for value in true], abs=slack), clause["id"]
    ends = clause["low"], clause["high"], clause["smallest_effect"]
    assert matches(svg.attributes["aria-label"] or "", (clause["estimate"], 95, *ends)), clause["id"]


def percent(mark: Element, name: str) -> float:
    return float((mark.attributes[name] or "").rstrip("%"))


def test_early_against_the_end_is_the_files(page, files):
    """By scipy's paired t test, and the correction written out."""
    _, *rows = page.one("table", data_title="How close to linear").all("tr")
    shown = [[cell.text for cell in row if cell.tag in ("th", "td")] for row in rows]
    found = [one for reading in harm.READINGS if (one := harm.early_against_end(files, *reading))]
    p_values = [one.p_value for one in found]
    ranked = sorted(p_values, reverse=True)
    worst = {p: min(ranked[j] * len(ranked) / (len(ranked) - j) for j in range(i + 1)) for i, p in enumerate(ranked)}
    assert [line[:2] for line in shown] == [[one.title, one.linear] for one in found]
    for line, one in zip(shown, found, strict=True):
        p = min(1.0, worst[one.p_value])
        numbers = (one.early, one.end, (one.early - one.end, one.low, one.high), one.seeds, p)
        assert [text for text, value in zip(line[2:7], numbers, strict=True) if not matches(text, value)] == [], line
        side = "early" if (one.early > one.end) == (one.linear == "higher") else "at the end"
        assert line[7] == (side if p <= 0.05 else "not shown")
    assert {line[7] for line in shown} == {"early", "at the end", "not shown"}


def test_how_it_was_made_is_the_manifests(page, files):
    made, study = page.one("section", id="made"), files.study
    rows = [
        [c.text for c in row if c.tag in ("th", "td")] for row in made.one(aria_label="Runs").one("tbody").all("tr")
    ]
    for cells, run in zip(rows, files.manifests, strict=True):
        parent = run["parent"] and f"{run['parent']['condition']} at step {run['parent']['step']}"
        last = max(map(int, run["checkpoints"]))
        assert cells == [run["condition"], str(run["seed"]), "complete", str(last), parent or "initialisation", "7.5 s"]
    assert {run["seconds"] for run in files.manifests} == {7.5}
    settings = {one.one("dt").text: one.one("dd").text for one in made.all("div") if one.all("dt")}
    recipe = study["recipe"]
    told = (recipe["epochs"], recipe["batch_size"], recipe["lr"], recipe["momentum"], recipe["weight_decay"])
    assert matches(settings["Training"].rpartition(",")[0], told)
    assert matches(settings["Seeds"], tuple(study["seeds"]))
    window = study["claims"]["early_window"]
    assert matches(settings["Early window"], (window["start"], window["stop"], *study["claims"]["pilot_seeds"]))
    minutes, seconds = divmod(7.5 * len(files.manifests), 60)
    assert matches(settings["Time in training"], (minutes, seconds))
    table = [
        [c.text for c in row if c.tag in ("th", "td")] for row in made.one(aria_label="Tables").one("tbody").all("tr")
    ]
    sizes = [artifact["size"] for run in files.manifests for artifact in run["artifacts"].values()]
    assert says(table[0][1], len(files.manifests))
    assert matches(" ".join(table[1][1:3]), (len(sizes), sum(sizes)))


def test_the_study_at_a_glance_is_counted(page, files):
    counted = [one.text for one in page.one(aria_label="The study at a glance").all("li")][2:]
    neurons = {(row["layer"], row["neuron"]) for row in files.rows("selectivity")}
    steps = {row["step"] for row in files.rows("history", split="test")}
    true = [len(files.names), len(files.study["seeds"]), len(neurons), len(steps)]
    assert all(matches(text, (value,)) for text, value in zip(counted, true, strict=True))


def test_what_is_missing_is_counted(page, files):
    def said(name):
        return " ".join(line.text for line in page.one("section", id=name).all("li"))

    rows = files.rows("selectivity")
    assert matches(said("F1"), (100 * sum(row["dead"] for row in rows) / len(rows),))
    lost = [row for row in files.rows("linearity") if row["value"] is None]
    right, groups = (
        {row["value"] for row in files.rows("linearity", measure=f"kalimeris-{what}")}
        for what in ("linear-top1", "groups")
    )
    pairs = {(row["layer"], row["other"]) for row in files.rows("linearity", measure="cka")}
    undrawn = [pair for pair in pairs if pair[1] not in ("logits", "input")]
    told = (len(lost), len(files.rows("linearity")), len(undrawn), 100 * right.pop(), groups.pop())
    assert matches(said("F3").replace("(L)", ""), told)
