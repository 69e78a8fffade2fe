"""Commands of the pages, read by the real parsers and checked as far as can be without doing what they ask."""

import argparse
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from page_blocks import ROOT
from torch.distributed.run import get_args_parser

from vestige import cli
from vestige.config import StudyConfig
from vestige.foreign.request import checked
from vestige.study.study import Study

FOREIGN = {"measuring": "measure_foreign", "ablating": "ablate_foreign", "linearising": "linearise_foreign"}
SHIPPED = ROOT / "src" / "vestige" / "studies"


class Reached(BaseException):
    """The command line has read and checked a command, and would begin to work."""


def read(words: list[str]) -> None:
    """Make sure that a command is one that would begin to work.

    Args:
      words: of the command. Studies that it names and that are not here are put into the current folder.
    """
    program, *rest = words
    name = Path(program).name
    if name == "vestige":
        read_vestige(rest)
    elif name == "torchrun":
        parsed = get_args_parser().parse_args(rest)
        assert parsed.module, f"{words} starts no module"
        assert parsed.training_script == "vestige"
        read_vestige(parsed.training_script_args)
    elif name == "pip":
        _read_pip(rest)
    elif name in ("python", "python3"):
        _read_python(rest)
    elif name == "pytest":
        assert not rest, "say how it is to be read"
    else:
        pytest.fail(f"nobody knows how to check the command {shlex_of(words)}")


def read_vestige(words: list[str]) -> None:
    """A command of vestige, up to where it would begin to work."""
    for word in words[1:]:
        _put_study(word)
    with ExitStack() as patched:
        for module, function in FOREIGN.items():
            patched.enter_context(mock.patch(f"vestige.foreign.{module}.{function}", _check_request))
        patched.enter_context(mock.patch.object(Study, "run", _check_study))
        patched.enter_context(mock.patch("vestige.study.status.describe", _check_study))
        patched.enter_context(mock.patch("vestige.study.comparing.read_side", _stop))
        patched.enter_context(mock.patch("vestige.study.comparing.compare", _check_comparison))
        if words == ["studies"]:
            patched.enter_context(mock.patch("vestige.study.status.shipped_studies", _stop))
        with pytest.raises((Reached, SystemExit)) as ended:
            cli.main(words)
    if not isinstance(ended.value, Reached):
        assert "--help" in words, f"vestige {shlex_of(words)} was refused"


def read_span(words: list[str]) -> None:
    """A command within a text, which may leave out what it needs: its name and its options must be there."""
    if not words or words[0].startswith("-"):
        return
    known = {command.__name__.lower(): command for command in cli.COMMANDS}
    assert words[0] in known, f"there is no command {words[0]!r}"
    own = {field.name for field in fields(known[words[0]])} | {"help", *StudyConfig.model_fields}
    for word in words[1:]:
        if word.startswith("--"):
            assert re.split(r"[.=]", word[2:])[0].replace("-", "_") in own, f"{words[0]} has no option {word}"


def shlex_of(words: list[str]) -> str:
    return " ".join(words)


def _check_request(request: Any, **_: Any) -> None:
    checked(request)
    raise Reached


def _check_study(study: Study, *, only: tuple[str, ...] = (), **_: Any) -> None:
    unknown = set(only) - set(study.config.conditions)
    assert not unknown, f"{study.config.name} has no condition {unknown}"
    raise Reached


def _check_comparison(first: str, second: str, **_: Any) -> None:
    assert Study.load(first).folder != Study.load(second).folder
    raise Reached


def _stop(*_: Any, **__: Any) -> None:
    raise Reached


def _put_study(word: str) -> None:
    """A study of that name where a page only speaks of one: the repository's, the page's, or one that ships."""
    path = Path(word)
    if path.exists() or word.startswith("-"):
        return
    if path.suffix in (".yaml", ".yml"):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / word if (ROOT / word).is_file() else SHIPPED / "digits.yaml", path)
    elif path.parts[:1] in (("studies",), ("runs",)) or re.fullmatch(r"[A-Z][A-Z_]*", word):
        path.mkdir(parents=True)
        own = next((page for page in Path().glob("*.yaml") if page.stem == path.name), None)
        shutil.copy(own or SHIPPED / "cifar10-resnet20.yaml", path / "study.yaml")


def _read_pip(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["install"])
    parser.add_argument("-c", dest="constraints")
    parser.add_argument("-e", dest="editable")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args(words)
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in [given.editable, *given.names]:
        if name is None:
            continue
        source, _, extras = name.rstrip("]").partition("[")
        assert source in (".", about["name"])
        assert set(filter(None, extras.split(","))) <= set(about["optional-dependencies"])
    assert given.constraints is None or (ROOT / given.constraints).is_file()


def _read_python(words: list[str]) -> None:
    if words[0] == "-m":
        special: dict[str, Callable[[list[str]], None]] = {
            "vestige": read_vestige,
            "venv": _one_word,
            "sphinx": _sphinx,
        }
        assert words[1] in special, f"nobody knows how to check python -m {words[1]}"
        special[words[1]](words[2:])
        return
    path = ROOT / words[0]
    assert path.is_file(), f"there is no {words[0]}"
    text = path.read_text(encoding="utf-8")
    compile(text, str(path), "exec")
    for word in words[1:]:
        assert not word.startswith("--") or f'"{word}"' in text, f"{words[0]} has no option {word}"


def _one_word(words: list[str]) -> None:
    assert len(words) == 1


def _sphinx(words: list[str]) -> None:
    from sphinx.cmd.build import get_parser

    given = get_parser().parse_args(words)
    assert (ROOT / given.sourcedir / "conf.py").is_file()


def in_folder(folder: Path) -> ExitStack:
    """Within it, `folder` is the current one."""
    stack, before = ExitStack(), Path.cwd()
    os.chdir(folder)
    stack.callback(os.chdir, before)
    return stack
