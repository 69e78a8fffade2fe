"""Imports go one way, and what needs no torch does not import it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vestige

PACKAGE = Path(vestige.__file__).parent
LAYERS = [
    {"errors"},
    {"acting", "expressions"},
    {"claiming"},
    {"config", "userfile", "ranks"},
    {"formulas", "data", "models", "runs", "stats"},
    {"training", "measurement", "claims"},
    {"report"},
    {"study"},
    {"foreign"},
    {"cli"},
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
REPORT_SEES = {"errors", "acting", "claiming", "config", "runs", "stats", "claims", "report"}
WITHOUT_TORCH = [
    "vestige",
    "vestige.cli",
    "vestige.config",
    "vestige.userfile",
    "vestige.runs.manifest",
    "vestige.runs.tables",
    "vestige.stats.effects",
    "vestige.stats.intervals",
    "vestige.claims.verdicts",
    "vestige.report.page",
    "vestige.data.fingerprint",
    "vestige.training.schedule",
    "vestige.study.execute",
    "vestige.study.study",
    "vestige.study.status",
    "vestige.study.results",
]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layering"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("vestige.")} & set(RANK)


def forbidden(room: str, source: str) -> set[str]:
    seen = imported_rooms(source) - {room}
    wrong = {other for other in seen if RANK[other] >= RANK[room]}
    return wrong | (seen - REPORT_SEES if room == "report" else set())


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(PACKAGE.rglob("*.py")) if room_of(p) in RANK],
    ids=lambda p: p.relative_to(PACKAGE).as_posix(),
)
def test_imports_go_one_way(path: Path):
    assert forbidden(room_of(path), path.read_text()) == set()


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("formulas", "from vestige.data import loader", {"data"}),
        ("formulas", "import vestige.study.plan", {"study"}),
        ("measurement", "def f():\n    from vestige.training import loop", {"training"}),
        ("report", "from vestige.formulas import effects", {"formulas"}),
        ("report", "from vestige.claims import registry", set()),
        ("study", "from vestige import config", set()),
    ],
)
def test_a_broken_layering_is_seen(room: str, source: str, wrong: set[str]):
    assert forbidden(room, source) == wrong


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_planning_and_reporting_need_no_torch(module: str):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["vestige.cli", "vestige.study.status"])
def test_what_answers_within_a_second_imports_nothing_slow(module: str):
    slow = ["torch", "polars", "scipy", "sklearn", "plotly", "matplotlib"]
    code = f"import sys, {module}; sys.exit(str([name for name in {slow} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"
