"""The code blocks of the README and of the documentation, and how each is to be treated.

A comment that nobody sees, on the line before a block, says so: `<!-- block: HOW -->`, HOW being

    run                   shell: run as it stands; each command must end well
    run with OPTIONS      the same, with further options, that keep it short
    file NAME             Python: run, and written to a file that later blocks speak of
    study NAME            YAML: a study that can be laid out, written to a file
    layout of a study     what lies in a study's folder
    bibtex KEY KEY ...    these works, as docs/references.py has them
    run by tests/FILE.py  a test of its own runs it; `<!-- blocks: run by ... -->`: all blocks of the page

Without one, Python is run, YAML must be a study or conditions of one, and every command of a shell block is read by the
real command line and its settings are checked. A block of any other kind is an error.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
SHELL, YAML, PYTHON = ("", "bash", "console", "sh", "shell"), ("yaml", "yml"), ("python",)
DIRECTIVES = ("eval-rst", "toctree")
"""What only the building of the documentation can read."""

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})(.*)$")
_MARK = re.compile(r"^<!-- block: (.+?) -->$")
_PAGE_MARK = re.compile(r"^<!-- blocks: (.+?) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, what is in it, and what the comment before it says."""

    page: Path
    line: int
    language: str
    code: str
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages that a reader may copy from."""
    found = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return [*found, *sorted(ROOT.glob("src/vestige/training/interventions/*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    for_all = _PAGE_MARK.search(text)
    lines = iter(enumerate(text.splitlines(), 1))
    before = ""
    for number, line in lines:
        if opened := _FENCE.match(line):
            code: list[str] = []
            for _, inner in lines:
                if inner.strip() == opened[1]:
                    break
                code.append(inner)
            else:
                raise AssertionError(f"{page}:{number}: the block has no end")
            mark = _MARK.match(before)
            said = mark[1] if mark else for_all[1] if for_all else ""
            yield Block(page, number, _language(opened[2]), dedent("\n".join(code)) + "\n", said)
        before = line.strip()


def _language(info: str) -> str:
    """`python` of "python", and of "{code-cell} python"."""
    return re.sub(r"[{}]", "", info.replace("{code-cell}", "")).strip()


def spans(page: Path) -> list[str]:
    """The `code` within the text of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def commands(code: str) -> list[list[str]]:
    """The commands of a shell script, word by word; of a loop, those in it."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&;|"):
                found.append(_plain(words))
                words = []
            else:
                words.append(word)
    return [words for words in found if words]


def _plain(words: list[str]) -> list[str]:
    """A command without what the shell itself reads: `for`, `do`, `done`, `wait`, NAME=VALUE."""
    while words and (words[0] == "do" or re.match(r"^\w+=", words[0])):
        words = words[1:]
    return [] if not words or words[0] in ("for", "done", "wait") else words
