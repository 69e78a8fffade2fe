"""The pages of the reference that are made from the code: what stands in the place of `<!-- generated: NAME -->`.

A page with such a comment is read by Sphinx with the text that is made here; nothing is written to disk.
"""

import ast
import contextlib
import inspect
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from units import unit_of

import vestige
from vestige import acting, cli, config
from vestige.claims.registry import registered
from vestige.claims.terms import Claim, Clause, Unit
from vestige.runs.tables import COLUMNS, SCHEMA_VERSIONS

MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
INTERVENTIONS = Path(vestige.__file__).parent / "training" / "interventions"


def commands() -> str:
    """What `vestige COMMAND --help` prints, for every command."""
    return "\n\n".join(f"## vestige {name}\n```text\n{help_of(name)}\n```" for name in command_names())


def command_names() -> list[str]:
    """All commands, as they are typed."""
    return [command.__name__.lower() for command in cli.COMMANDS]


def help_of(*words: str) -> str:
    """What a command prints when asked for help, in 100 columns and without colours."""
    printed, before = io.StringIO(), dict(os.environ)
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
    finally:
        os.environ.clear()
        os.environ.update(before)
    lines = (line.rstrip() for line in printed.getvalue().splitlines())
    return "\n".join(lines).strip()


def tables() -> str:
    """Every column of every table, with its type, its unit and what it means."""
    return "\n\n".join(_table(kind) for kind in COLUMNS)


def _table(kind: str) -> str:
    version = SCHEMA_VERSIONS.get(kind)
    heading = f"## {kind}" + (f"\nVersion {version} of its columns.\n" if version else "\n")
    rows = "\n".join(
        f"| `{name}` | {_type(dtype)} | {unit_of(kind, name)} | {meaning} |"
        for name, (dtype, meaning) in COLUMNS[kind].items()
    )
    return f"{heading}\n| column | type | unit | what it is |\n|---|---|---|---|\n{rows}"


def _type(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2].removesuffix("'>")


def python() -> str:
    """Every public name, from its docstring; functions first."""
    names = sorted(vestige.__all__, key=lambda name: inspect.isclass(getattr(vestige, name)))
    return "\n\n".join(map(_documented, names))


def _documented(name: str) -> str:
    found = getattr(vestige, name)
    if not inspect.isclass(found):
        return f"## {name}\n```{{eval-rst}}\n.. autofunction:: vestige.{name}\n```"
    return f"## {name}\n```{{eval-rst}}\n.. autoclass:: vestige.{name}\n   :members:\n```"


def study() -> str:
    """Every field of a study's YAML file, with its default."""
    return "\n\n".join(_fields(path, kind) for path, kind in _sections("", config.StudyConfig))


def _sections(path: str, kind: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a study by the dotted place at which they stand; interventions have a page of their own."""
    yield path, kind
    for name, field in kind.model_fields.items():
        for below in dict.fromkeys(_models_in(field.annotation)):
            inner = ".NAME" if name == "conditions" else ""
            yield from _sections(f"{path}.{name}{inner}".lstrip("."), below)


def _models_in(annotation: Any) -> Iterator[Any]:
    if inspect.isclass(annotation) and issubclass(annotation, acting.Config):
        if not issubclass(annotation, acting.ActingConfig):
            yield annotation
    else:
        for argument in get_args(annotation):
            yield from _models_in(argument)


def _fields(path: str, kind: Any) -> str:
    said = _said(kind)
    rows = "\n".join(
        f"| `{name}` | {_default(field)} | {said.get(name, '')} |" for name, field in kind.model_fields.items()
    )
    return f"## {path or 'The study'}\n{inspect.getdoc(kind)}\n\n| field | default | |\n|---|---|---|\n{rows}"


def _default(field: Any) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, acting.Config) or (isinstance(value, dict) and value):
        return "below"
    return f"`{json.dumps(value)}`".replace("|", "\\|")


def claims() -> str:
    """Every clause of the registered claims, and what is told beside them."""
    shipped = config.load_study(Path(vestige.__file__).parent / "studies" / "digits.yaml")
    return "\n\n".join(map(_claim, registered(shipped)))


def _claim(claim: Claim) -> str:
    rows = [
        f"| {clause.id} | {_plain(clause.statistic)} | {clause.direction} | {_effect(clause)} |"
        for clause in claim.clauses
    ]
    beside = [f"{item.id} ({_plain(item.statistic)})" for item in claim.beside if not item.id.startswith("C4.harm.")]
    return "\n".join(
        [
            f"## {claim.id} {claim.title}",
            f"*{claim.statement}.*\n",
            "| clause | statistic | direction | smallest effect d |\n|---|---|---|---|",
            *rows,
            f"\nTold beside it, deciding nothing unless it is said below: {'; '.join(beside)}.",
        ]
    )


def _plain(text: str) -> str:
    return text.replace("*", r"\*").replace("|", r"\|")


def _effect(clause: Clause) -> str:
    d = clause.smallest_effect
    match clause.unit:
        case Unit.LN_RATIO:
            return f"ln {math.exp(d):.3g}"
        case Unit.ACCURACY:
            return f"{100 * d:g} points ({'half of ' if clause.id == 'C4.d' else ''}`claims.accuracy_effect`)"
    return f"{d:g} ({clause.unit})"


def interventions() -> str:
    """The pages that stand beside the code of the interventions."""
    pages = (path.read_text(encoding="utf-8") for path in sorted(INTERVENTIONS.glob("*.md")))
    return "\n\n".join(re.sub(r"^(#+) ", r"\1# ", page, flags=re.MULTILINE) for page in pages)


def _said(kind: type) -> dict[str, str]:
    """The text below each field of a class and of those it inherits from."""
    said: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not issubclass(one, acting.Config) or one is acting.Config:
            continue
        body = ast.parse(inspect.getsource(one)).body[0]
        assert isinstance(body, ast.ClassDef)
        for before, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                assert isinstance(before.target, ast.Name)
                said[before.target.id] = " ".join(str(ast.literal_eval(after.value)).split()).replace("|", "\\|")
    return said


MAKERS: dict[str, Callable[[], str]] = {
    "claims": claims,
    "commands": commands,
    "interventions": interventions,
    "python": python,
    "study": study,
    "tables": tables,
}


def filled(text: str) -> str:
    """A page with what is made in the place of its marks."""
    return MARK.sub(lambda mark: MAKERS[mark[1]](), text)


def readable(lines: list[str]) -> None:
    """Make reStructuredText of a docstring, which is plain text with code in `backticks`."""
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else _escaped(line) for line in lines]


def _escaped(text: str) -> str:
    """Stars and bars outside `backticks`, which mean nothing there."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*|])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""

    def fill(_app: Any, _page: str, text: list[str]) -> None:
        text[0] = filled(text[0])

    def read(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        readable(lines)

    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", read, priority=400)  # before napoleon makes sections of it
