"""The page of an ablated model says what was ablated, and its numbers are the tables'."""

import math

import numpy as np
import polars as pl
import pytest
from reading_pages import Element, as_number, cells, read_page

from vestige.report.ablated import render_ablated, write_ablated
from vestige.runs.tables import SCHEMAS

EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>&amp;'
N = 40


def table(value: str = "zero", seed: int = 0, **columns) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    values = {
        "condition": ["net"] * N, "seed": [None] * N, "step": [None] * N, "epoch": [None] * N,
        "protocol": ["corrected"] * N, "dataset": ["folder:val"] * N, "split": [""] * N, "n": [400] * N,
        "stage": ["s1"] * 20 + [EVIL] * 20, "layer": ["s1.0"] * 20 + [EVIL] * 20, "neuron": [*range(20)] * 2,
        "value": [value] * N, "mode": ["exact"] * N, "preferred_class": random.integers(0, 3, N),
        **{name: random.normal(size=N) for name, kind in SCHEMAS["ablation"].items() if kind == pl.Float32},
    }  # fmt: skip
    frame = pl.DataFrame({**values, **columns})
    return frame.select(pl.col(name).cast(kind) for name, kind in SCHEMAS["ablation"].items())


def ranking(seed: int = 1) -> pl.DataFrame:
    frame = table().select("layer", "neuron", "preferred_class")
    return frame.with_columns(csi=pl.Series(np.random.default_rng(seed).random(N)), mean=pl.lit(0.5))


def entry(step: int | None = None, file: str = "w.pt", **settings):
    result = {
        "protocol": "corrected", "top1": 0.75, "top5": None, "loss": 1.25, "n": 400, "skipped": 2, "seconds": 7.5,
        "notes": ["note two"], "batch_norm": "stored", "values": ["zero", "mean"], "mode": "exact", **settings,
    }  # fmt: skip
    tables = {"ablation": "ablation.parquet", "ranking": "ranking.parquet"}
    return {"file": file, "step": step, "tables": tables, "results": [result]}


def record(*checkpoints, **settings):
    return {
        "model": {"name": "net", "kind": "Net", "parameters": 10, "weights": "w.pt"},
        "data": {
            "spec": "folder:val", "name": "val", "classes": 3, "class_names": ["cat", EVIL, ""], "skipped": 2,
            "preprocess": "none",
        },
        "made": {"versions": {"vestige": "1", "torch": "2"}, "hardware": {"cpu": "x"}},
        "settings": {"dtype": "float32", "value": [], "weights": None},
        "notes": [EVIL], "files": [], "errors": [], "checkpoints": list(checkpoints) or [entry(**settings)],
    }  # fmt: skip


def rows_of(page: Element, title: str) -> list[list[str]]:
    body = page.one("table", data_title=title).one("tbody")
    return [[cell.text for cell in row if cell.tag in ("th", "td")] for row in body.all("tr")]


@pytest.fixture(name="tables")
def _tables():
    return {"ablation": pl.concat([table(), table("mean", 5)]), "ranking": ranking()}


def test_the_numbers_are_those_of_the_tables(tables, tmp_path):
    path = write_ablated(tmp_path / "ablation.html", record(), tables)
    text = path.read_text()
    assert text == render_ablated(record(), tables)
    page = read_page(text)
    zero = tables["ablation"].filter(value="zero")
    shown = rows_of(page, "Replaced by zero")
    assert len(shown) == 10  # five a layer
    for place, layer in enumerate(("s1.0", EVIL)):
        top = zero.filter(layer=layer).sort("loss_delta", descending=True).head(5)
        rows = shown[5 * place : 5 * place + 5]
        assert [int(row[1]) for row in rows] == top["neuron"].to_list()
        assert [as_number(row[2]) for row in rows] == pytest.approx(top["loss_delta"].to_list(), rel=1e-3)
        assert [row[0] for row in rows] == [layer] * 5
    correlations = cells(page, "selectivity", 0, "Change of loss (nats) against CSI")
    both = zero.join(tables["ranking"], on=["layer", "neuron"]).filter(layer="s1.0")
    expected = both.select(pl.corr("csi", "loss_delta", method="spearman")).item()
    assert as_number(correlations["s1.0"]["rank correlation of CSI and change of loss"]) == pytest.approx(
        expected, rel=1e-3
    )


def test_nothing_of_a_user_s_is_taken_for_markup(tables):
    text = render_ablated(record(), tables)
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert "top-1 75.00%" in text
    assert "2 images that cannot be read" in text
    assert "Neurons ablated together" not in text


def test_groups_areas_and_estimates(tables):
    groups = pl.DataFrame(
        {
            "group": [EVIL], "neurons": [3], "value": ["zero"], "loss_delta": [0.5], "loss_delta_se": [0.1],
            "top1_delta": [-0.02], "right_to_wrong": [0.03], "wrong_to_right": [0.01],
        }
    )  # fmt: skip
    areas = pl.DataFrame(
        {"scope": ["all"] * 2, "value": ["zero"] * 2, "order": ["random"] * 2, "draw": [0, 1], "area": [0.4, 0.6]}
    )
    unknown = tables["ablation"].with_columns(approximation_se=pl.lit(math.nan), loss_delta_se=pl.lit(math.nan))
    page = read_page(
        render_ablated(
            record(mode="screen"), {**tables, "ablation": unknown, "groups": groups, "cumulative_areas": areas}
        )
    )
    (row,) = rows_of(page, "Groups")
    assert row[:3] == [EVIL, "3", "zero"]
    assert row[5:] == ["\u22122.00 points", "3.00%"]
    (row,) = rows_of(page, "Areas under the curves of growing sets")
    assert [as_number(cell) for cell in row[3:6]] == pytest.approx([0.5, 0.4, 0.6])
    assert all(row[3] == "–" for row in rows_of(page, "Replaced by zero"))


def test_several_checkpoints(tables):
    """The last is shown neuron by neuron, all of them through their steps."""
    entries = [entry(step, f"c{step}.pt", top1=top1) for step, top1 in ((0, 0.25), (10, 0.5), (90, 0.75))]
    entries[2]["tables"] = {name: f"checkpoints/step-00000090/{name}.parquet" for name in ("ablation", "ranking")}
    files = [{"file": "bad.pt", "step": None, "weights": None, "duplicate_of": None, "error": "it is truncated."}]
    through = pl.concat(table(value, seed, step=[step] * N) for value in ("zero", "mean") for seed, step in
                        ((0, 0), (1, 10), (2, 90)))  # fmt: skip
    text = render_ablated({**record(*entries), "files": files}, tables, through)
    page = read_page(text)
    assert [row[:4] for row in rows_of(page, "Accuracy and loss")] == [
        [f"c{step}.pt", str(step), "corrected", top1] for step, top1 in ((0, "25.00%"), (10, "50.00%"), (90, "75.00%"))
    ]
    assert "Of c90.pt (step 90), the last of the checkpoints." in page.one("section", id="neurons").text
    assert "checkpoints/step-00000090/ablation.parquet" in page.one("section", id="effects").text
    assert "bad.pt was not ablated: it is truncated." in text
    assert "(3 sets of weights)" in text
    shown = cells(page, "steps", 1, "Mean change of loss (nats)")
    for (step,), rows in through.filter(value="mean").group_by("step"):
        for stage in ("s1", EVIL):
            expected = rows.filter(stage=stage)["loss_delta"].mean()
            assert as_number(shown[str(step)][stage]) == pytest.approx(expected, rel=1e-3)
    one = render_ablated(record(entry(5)), tables)
    assert "Through the checkpoints" not in one
    assert "Accuracy and loss" not in one
