"""The how-to on regularising, block by block: its loops run, its studies can be laid out."""

import re
import socket
from pathlib import Path

import pytest
import yaml
from torch import distributed

from vestige.config import parse_study
from vestige.models.layers import Layer
from vestige.study.facts import Facts
from vestige.study.plan import make_plan
from vestige.training.interventions import build

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "regularise-your-training.md"
LAYERS = [(f"layer{s}.0", f"layer{s}", 16) for s in (1, 2, 3)]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


def test_the_loops_run():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names: dict = {}
    first, second = blocks("python")
    exec(compile(first, str(PAGE), "exec"), names)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        exec(compile(second, str(PAGE), "exec"), names)
    finally:
        distributed.destroy_process_group()
    assert names["loss"].isfinite()


@pytest.mark.parametrize("number", [0, 1])
def test_the_studies_can_be_laid_out(number):
    study = parse_study(yaml.safe_load(blocks("yaml")[number]), source=str(PAGE))
    facts = Facts("k", {}, {}, 500, 1297, tuple("0123456789"), (1, 8, 8), tuple(LAYERS), "cpu")
    plan = make_plan(study, facts)
    assert len(plan.units) > 100
    layers = [Layer(name, stage, node="", units=units, axis=1, why="") for name, stage, units in LAYERS]
    for name, condition in study.conditions.items():
        build(condition.interventions, layers, plan.windows(name))
    if number:
        assert "csi-on0-for20-alpha-20" in study.conditions
        assert plan.onsets("baseline") == (20, 40, 120)
