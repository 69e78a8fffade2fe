"""Every code block and every command of the README and of the documentation is run, or checked as far as is real."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import references
import yaml
from commands_read import read, read_span
from page_blocks import DIRECTIVES, PYTHON, ROOT, SHELL, YAML, Block, blocks, commands, pages, spans
from PIL import Image

from vestige import cli
from vestige.config import StudyConfig, parse_study
from vestige.models.layers import Layer
from vestige.study.facts import Facts
from vestige.study.plan import make_plan
from vestige.training.interventions import build

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}
PART = {
    "name": "part",
    "recipe": {"epochs": 20, "batch_size": 50},
    "checkpoints": {"young_epochs": 20, "per_young_epoch": 2},
}
LAYERS = [(f"layer{s}.0", f"layer{s}", 16) for s in (1, 2, 3)]


def kind(block: Block) -> str:
    """How a block is treated; `unknown` where nobody says."""
    if block.language in DIRECTIVES:
        return "directive"
    if block.mark:
        return next((known for known in MARKED if re.match(rf"{known}\b", block.mark)), "unknown")
    languages = {"python": PYTHON, "conditions": YAML, "commands": SHELL}
    return next((name for name, known in languages.items() if block.language in known), "unknown")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_known_kind(page: str):
    unknown = [f"{block} ({block.language}, {block.mark})" for block in blocks(PAGES[page]) if kind(block) == "unknown"]
    assert not unknown


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", [name for name, page in PAGES.items() if any(True for _ in blocks(page))])
def test_the_blocks_of_a_page_do_what_they_say(page: str, page_home: Path, names: dict, request):
    treated = 0
    for block in blocks(PAGES[page]):
        try:
            TREATED[kind(block)](block, page_home, names, request)
        except BaseException as error:
            error.add_note(f"in the block at {block}")
            raise
        treated += 1
    assert treated


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_the_text_are_there(page: str):
    refused = []
    for span in spans(PAGES[page]):
        try:
            read_within(shlex.split(span.removesuffix("...")) if span.startswith(("vestige ", "python ")) else [])
        except (AssertionError, ValueError, SystemExit, pytest.fail.Exception) as error:
            refused.append((span, str(error)))
    assert refused == []


def read_within(words: list[str]) -> None:
    if words[:1] == ["vestige"]:
        read_span(words[1:])
    elif words[:1] == ["python"]:
        read(words)


@pytest.mark.parametrize("command", ["vestige fly", "vestige run --wings 2", "python docs/no_such.py", "python -m pip"])
def test_a_command_that_is_not_there_is_refused(command: str):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        read_within(shlex.split(command))


def test_a_study_leaves_what_is_drawn(finished: Path):
    """Every path of the drawing is there in a study that is done."""
    (drawn,) = (block for page in PAGES.values() for block in blocks(page) if block.mark == "layout of a study")
    folders, paths = {0: ""}, []
    for line in drawn.code.splitlines()[1:]:
        depth = len(line) - len(line.lstrip())
        here = [part.split()[0] for part in re.split(r"\s{2,}", line.strip())]
        here = [part for part in here if re.fullmatch(r"[\w<>*{},/-]+(/|\.[\w*{},]+)", part)]
        assert here, line
        parent = folders[max(d for d in folders if d < depth)]
        folders = {d: folder for d, folder in folders.items() if d < depth} | {depth: parent + here[0]}
        paths += [parent + part for part in here]
    assert len(paths) > 8
    missing = [one for path in paths for one in braced(re.sub(r"<\w+>", "*", path)) if not list(finished.glob(one))]
    assert not missing


def test_works_have_keys_and_balanced_braces():
    found = references.entries()
    assert len(found) > 20
    for key, entry in found.items():
        assert entry.startswith("@")
        assert entry.count("{") == entry.count("}")
        year = re.fullmatch(r"[a-z]+(\d{4})[a-z]*", key)
        assert year
        assert f"{{{year[1]}}}" in entry


def test_the_notebook_is_thirty_lines():
    code = "".join(block.code for block in blocks(ROOT / "docs/tutorial/four-experiments.md"))
    lines = [line for line in code.splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("import ", "from "))]) <= 32
    assert max(map(len, lines)) <= 120
    assert all(f"vestige.{name}(" in code for name in ("measure", "ablate", "linearity", "SelectivityPenalty"))


def test_pictures_are_small_and_as_wide_as_they_say():
    found = sorted((ROOT / "docs/images").glob("*.webp"))
    assert [path.stem for path in found] == sorted(
        f"report-{width}-{scheme}" for width in (380, 1280, 2560) for scheme in ("light", "dark")
    )
    assert all(Image.open(path).width == int(path.stem.split("-")[1]) for path in found)
    assert max(path.stat().st_size for path in found) < 150_000
    assert sum(path.stat().st_size for path in found) < 600_000


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) > 8
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def python(block: Block, home: Path, names: dict, request: Any) -> None:
    if "import lightning" in block.code:
        pytest.importorskip("lightning", reason="the block is for Lightning, which is not installed")
    exec(compile(block.code, str(block), "exec"), names)


def into_file(block: Block, home: Path, names: dict, request: Any) -> None:
    python(block, home, names, request)
    (home / block.mark.removeprefix("file ")).write_text(block.code)


def conditions(block: Block, home: Path, names: dict, request: Any) -> None:
    """A study, or a part of one."""
    given = yaml.safe_load(block.code)
    assert isinstance(given, dict)
    if "name" not in given:
        given = {**PART, **given, "conditions": {"baseline": {}, "early": {}, **given.pop("conditions", {})}}
    given.setdefault("data", {"train": "digits", "test": "digits", "channels": 1})
    study = parse_study(given, source=str(block))
    (home / f"{study.name}.yaml").write_text(yaml.safe_dump(given))
    lay_out(study)


def lay_out(study: StudyConfig) -> None:
    """Make sure that there can be such a study, of a network with three stages, and such interventions."""
    facts = Facts("k", {}, {}, 500, 1297, tuple("0123456789"), (study.data.channels, 8, 8), tuple(LAYERS), "cpu")
    plan = make_plan(study, facts)
    assert plan.units
    layers = [Layer(name, stage, node="", units=units, axis=1, why="") for name, stage, units in LAYERS]
    for name, condition in study.conditions.items():
        if not any(".py:" in one.kind for one in condition.interventions):
            build(condition.interventions, layers, plan.windows(name))


def into_study(block: Block, home: Path, names: dict, request: Any) -> None:
    parse_study(yaml.safe_load(block.code), source=str(block))
    (home / block.mark.removeprefix("study ")).write_text(block.code)


def read_commands(block: Block, home: Path, names: dict, request: Any) -> None:
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    found = commands(block.code)
    assert found, "there is no command in it"
    for words in found:
        read(words)


def run_commands(block: Block, home: Path, names: dict, request: Any) -> None:
    more = shlex.split(block.mark.removeprefix("run").strip().removeprefix("with"))
    for program, *words in commands(block.code):
        assert program == "vestige"
        if "--model" in words:  # in this process: torch need not be loaded again
            with pytest.raises(SystemExit) as ended:
                cli.main([*words, *more])
            assert ended.value.code == 0
        else:
            done = request.getfixturevalue("vestige")(*words, *more)
            assert done.returncode == 0, done.stderr


def run_elsewhere(block: Block, home: Path, names: dict, request: Any) -> None:
    """The test that is named reads this page."""
    test = ROOT / block.mark.removeprefix("run by ")
    assert block.page.name in test.read_text()


def works(block: Block, home: Path, names: dict, request: Any) -> None:
    """As `python docs/references.py` fills it."""
    assert block.language == "bibtex"
    assert block.code == references.block(block.mark.removeprefix("bibtex "))


def braced(path: str) -> list[str]:
    """`a.{x,y}` is a.x and a.y."""
    found = re.search(r"\{(.*?)\}", path)
    return [path.replace(found[0], one) for one in found[1].split(",")] if found else [path]


def nothing(block: Block, home: Path, names: dict, request: Any) -> None:
    """The building of the documentation reads it, or a test above."""


MARKED = {
    "run by": run_elsewhere,
    "run": run_commands,
    "file": into_file,
    "study": into_study,
    "layout of a study": nothing,
    "bibtex": works,
}
TREATED = {**MARKED, "python": python, "conditions": conditions, "commands": read_commands, "directive": nothing}
