"""The reference of the tables names every column of every table that vestige writes, with a unit."""

import re
from collections import defaultdict
from pathlib import Path

import generating
import polars as pl
import pytest
import torch
from page_blocks import ROOT
from units import UNITS, unit_of

import vestige
from vestige.claims.departures.judging import SCHEMA
from vestige.runs.tables import COLUMNS

ROW = re.compile(r"^\| (`.+?`) \| ([\w()]+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


@pytest.fixture(scope="module", name="said")
def _said() -> dict[str, dict[str, tuple[str, str, str]]]:
    """Type, unit and meaning of each column, by the heading that it stands under."""
    page = generating.filled((ROOT / "docs/reference/tables.md").read_text(encoding="utf-8"))
    found: dict[str, dict[str, tuple[str, str, str]]] = defaultdict(dict)
    for section in page.split("\n## ")[1:]:
        for names, *about in ROW.findall(section):
            for name in re.findall(r"`(.+?)`", names):
                found[section.splitlines()[0]][name] = tuple(about)
    return found


def test_every_column_has_a_unit_and_a_meaning(said):
    for kind, columns in COLUMNS.items():
        assert list(said[kind]) == list(columns)
        for name, (_, meaning) in columns.items():
            assert said[kind][name][1:] == (unit_of(kind, name), meaning)
            assert len(meaning) > 3
    assert {name.rpartition(".")[2] for name in UNITS} <= {name for columns in COLUMNS.values() for name in columns}


def test_the_departures_are_told_column_by_column(said):
    told = said["Departures of the released code"]
    assert {name: kind for name, (kind, *_) in told.items()} == {n: generating._type(d) for n, d in SCHEMA.items()}


def test_all_that_a_study_writes_is_there(finished: Path, said):
    paths = [path for path in finished.rglob("*.parquet") if "ablation-by-class" not in path.parent.name]
    seen = set()
    for path in paths:
        kind = "departures" if path.stem == "departures" else "history" if path.stem == "history" else path.parent.name
        kind = next((known for known in sorted(COLUMNS, key=len, reverse=True) if kind.startswith(known)), kind)
        seen.add(kind)
        told = set(said["Departures of the released code" if kind == "departures" else kind])
        if kind == "history":
            told |= set(said["Further columns of the history"])
        columns = {re.sub(r"^[\w-]+\.", "NAME.", name) for name in pl.read_parquet_schema(path)}
        assert columns <= told, (path.name, columns - told)
    assert {"departures", "history", "selectivity", "ablation", "cumulative", "linearity", "class-means"} <= seen


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_that_ablating_a_model_writes_is_there(tmp_path: Path, said):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    data = torch.randn(30, 4), torch.arange(30) % 3
    groups = pl.DataFrame({"layer": ["1", "1"], "neuron": [0, 1], "group": ["a", "a"]})
    vestige.ablate(model, data, groups=groups).to_parquet(tmp_path)
    vestige.ablate_cumulatively(model, data).to_parquet(tmp_path)
    written = {path.stem: set(pl.read_parquet_schema(path)) for path in tmp_path.glob("*.parquet")}
    assert set(written) == {"ablation", "ablation_by_class", "ranking", "groups", "cumulative", "cumulative_areas"}
    assert written["ablation"] <= set(said["ablation"])
    assert written["ablation_by_class"] <= set(said["ablation-by-class"])
    assert written["cumulative"] <= set(said["cumulative"])
    assert written["ranking"] == {"layer", "neuron", "csi", "mean", "preferred_class"}
    effects = list(said["ablation"])
    effects = effects[effects.index("loss_delta") : effects.index("wrong_to_right") + 1]
    assert written["groups"] == {*said["Ablated groups"], *effects} - {"approximation_se"}
    curves = {"scope", "value", "order", "draw"}
    assert written["cumulative_areas"] == {*said["Areas under cumulative ablation"], *curves}
