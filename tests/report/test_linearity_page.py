"""The page of how linear a model is: its numbers are the table's, and it says where there is no anchor."""

import math

import polars as pl
import pytest
from reading_pages import Element, as_number, cells, read_page

from vestige.report.linearised import render_linearised, write_linearised
from vestige.runs.tables import conform

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>&amp;'
ROWS = [
    ("midpoint", "a.0", "", 0.5, 1e-7),
    ("midpoint", EVIL, "", 0.75, 2e-7),
    ("midpoint", "logits", "", 1.25, 3e-7),
    ("gate-churn", "a.0", "", 0.25, 0.0),
    ("gate-churn-independent", "a.0", "", 0.375, 0.0),
    ("cka", "a.0", EVIL, 0.9, 0.8),
    ("cka", "a.0", "logits", 0.4, 0.6),
    ("kalimeris", "logits", "", math.nan, 0.7),
    ("kalimeris-linear-top1", "logits", "", 0.35, 0.35),
    ("correlation-top1", "all", "", 0.45, 0.55),
]


def table(step: int | None = None, **columns) -> pl.DataFrame:
    frame = pl.DataFrame(ROWS, schema=["measure", "layer", "other", "value", "anchor"], orient="row")
    identity = {"condition": "net", "seed": None, "epoch": None, "dataset": "val", "split": "", "n": 400}
    return conform(frame.with_columns(**columns), "linearity", **identity, step=step, protocol="corrected")


def entry(step: int | None = None, file: str = "w.pt", anchor: bool = True):
    result = {
        "protocol": "corrected", "top1": 0.75, "top5": None, "loss": 1.25, "n": 400, "skipped": 0, "seconds": 7.5,
        "notes": ["note two"], "batch_norm": "stored", "pairs": 1000, "cka_images": 300, "anchor": anchor,
    }  # fmt: skip
    return {"file": file, "step": step, "tables": {"linearity": "linearity.parquet"}, "results": [result]}


def record(*checkpoints):
    return {
        "model": {"name": "net", "kind": "Net", "parameters": 10, "weights": "w.pt"},
        "data": {
            "spec": "folder:val", "name": "val", "classes": 3, "class_names": ["cat", EVIL, ""], "skipped": 0,
            "preprocess": "none",
        },
        "made": {"versions": {"vestige": "1", "torch": "2"}, "hardware": {"cpu": "x"}},
        "settings": {"dtype": "float32", "layers": [], "weights": None},
        "notes": [EVIL], "files": [], "errors": [], "checkpoints": list(checkpoints) or [entry()],
    }  # fmt: skip


def rows_of(page: Element, title: str) -> list[list[str]]:
    body = page.one("table", data_title=title).one("tbody")
    return [[cell.text for cell in row if cell.tag in ("th", "td")] for row in body.all("tr")]


def test_the_numbers_are_those_of_the_table(tmp_path):
    text = write_linearised(tmp_path / "linearity.html", record(), table()).read_text()
    assert text == render_linearised(record(), table())
    page = read_page(text)
    midpoints = cells(page, "layers", 0, "Midpoint nonlinearity")
    assert [as_number(midpoints[layer]["the network"]) for layer in ("a.0", EVIL, "logits")] == [0.5, 0.75, 1.25]
    assert as_number(midpoints["a.0"]["without ReLUs"]) == pytest.approx(1e-7)
    churn = cells(page, "layers", 0, "Gate churn")["a.0"]
    assert [as_number(churn[key]) for key in ("the network", "independent gates")] == [0.25, 0.375]
    assert as_number(cells(page, "layers", 0, "Linear CKA with the logits")["a.0"]["the network"]) == 0.4
    whole = {row[0]: row[1:] for row in rows_of(page, "The whole network")}
    assert whole["kalimeris (logits)"] == ["–", "0.7000"]
    assert [as_number(cell) for cell in whole["correlation-top1"]] == [0.45, 0.55]
    meanings = rows_of(page, "The measures")
    assert [row[0] for row in meanings] == ["midpoint", "gate-churn", "cka", "kalimeris", "correlation-top"]
    assert "CKA between two layers (1 pair) is in the table, not drawn." in text
    assert "1 of 10 values are undefined (NaN)." in text
    assert "of 400 pairs of inputs" in text, "400 images make no more"
    assert "on 300 images" in text


def test_nothing_of_a_user_s_is_taken_for_markup():
    text = render_linearised(record(), table())
    assert "<img src=x" not in text
    assert "<script>alert" not in text


def test_without_an_anchor_none_is_shown():
    text = render_linearised(record(entry(anchor=False)), table(anchor=pl.lit(math.nan)))
    page = read_page(text)
    assert {row["without ReLUs"] for row in cells(page, "layers", 0, "Midpoint nonlinearity").values()} == {"–"}
    assert "There is no network without ReLUs to compare with." in text
    assert "Every number is given" not in text


def test_several_checkpoints_are_drawn_through_their_steps():
    both = [entry(0, "first.pt"), entry(64, "last.pt")]
    through = pl.concat([table(0, value=pl.col("value") / 2), table(64)])
    page = read_page(render_linearised(record(*both), table(64), through))
    midpoints = cells(page, "steps", 0, "Midpoint nonlinearity of the logits")
    assert [as_number(midpoints[step]["the network"]) for step in ("0", "64")] == [0.625, 1.25]
    assert as_number(cells(page, "steps", 0, "Gate churn, mean over layers")["64"]["the network"]) == 0.25
