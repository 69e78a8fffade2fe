"""A page as a reader's program sees it: elements with their attributes, and the text under each."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: list["Element"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __iter__(self):
        yield self
        for child in self.children:
            yield from child

    def all(self, tag: str | None = None, **attributes: str) -> list["Element"]:
        wanted = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            one
            for one in self
            if (tag is None or one.tag == tag)
            and all(value in (one.attributes.get(name) or "").split(" | ") for name, value in wanted.items())
        ]

    def one(self, tag: str | None = None, **attributes: str) -> "Element":
        found = self.all(tag, **attributes)
        assert len(found) == 1, (tag, attributes, len(found))
        return found[0]

    @property
    def classes(self) -> set[str]:
        return set((self.attributes.get("class") or "").split())

    @property
    def text(self) -> str:
        return " ".join(
            " ".join(piece for one in self if one.tag not in ("script", "style") for piece in one.texts).split()
        )


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open[-1].tag == tag, f"<{self.open[-1].tag}> closed by </{tag}>"
            self.open.pop()

    def handle_data(self, data):
        self.open[-1].texts.append(data)


def read_page(text: str) -> Element:
    """Parse a page; an element that is not closed, or closed by another, is an error."""
    reader = _Reader()
    reader.feed(text)
    assert reader.open == [reader.root]
    return reader.root


def cells(page: Element, figure: str, view: int, title: str) -> dict[str, dict[str, str]]:
    """A table of numbers: row by its first cell, column by its header."""
    shown = next(one for one in page.all(data_figure=figure) if one.attributes["data-view"] == str(view))
    table = shown.one("table", data_title=title)
    header = [th.text for th in table.one("thead").all("th")]
    rows = [[cell.text for cell in row if cell.tag in ("th", "td")] for row in table.one("tbody").all("tr")]
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def as_number(text: str) -> float:
    return float(text.replace("\u2212", "-").replace("\u202f", ""))
