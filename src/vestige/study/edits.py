"""What differs between what a study registered and what it registered later, and the words for it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from string import ascii_lowercase
from typing import Any

from vestige.config import differences

Entry = dict[str, Any]
KINDS = {"claims": "claims", "shared": "claims", "wording": "words", "settings": "settings"}
"""What is changed in each section of an entry."""


def changes(known: Sequence[Entry], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a later entry changes of the entries before it, `{section, claim, field, before, after}` each.

    A claim that comes back, and what all claims share, is compared with the last entry that had it. A setting that
    the entry before did not have yet says nothing.
    """
    for claim in dict.fromkeys([*known[-1]["claims"], *after["claims"]]):
        yield from _of_claim(known, after, claim)
    former = next((entry["shared"] for entry in reversed(known) if entry["shared"]), {})
    if after["shared"]:
        yield from _both("shared", "", former, after["shared"])
    settings = known[-1]["settings"]
    conditions = {name: after["settings"][name] for name in ("conditions",) if name in after["settings"]}
    yield from _between("settings", "", settings, {**_without_younger(after["settings"], settings), **conditions})


def edits_in_words(edits: Sequence[Mapping[str, Any]], *, naming: bool = False) -> Iterator[str]:
    """`changed on ..., with 10 runs and 200 tables there: rise.smallest_effect from 0.18 to 0.1`.

    Args:
      edits: changes, each with what there was when it was made.
      naming: say of which claim each is; on its card that is plain.
    """
    for when in dict.fromkeys(edit["when"] for edit in edits):
        made = [edit for edit in edits if edit["when"] == when]
        said = "; ".join(_in_words(edit, naming=naming) for edit in made)
        yield f"changed on {day(made[0])}, with {counted(made[0])} there: {said}"


def told_apart(one: Any, other: Any, most: int = 200) -> tuple[str, str]:
    """Two values as texts that differ: with as many digits as that takes, long ones cut around their first difference.

    Args:
      one: a value.
      other: a different one.
      most: characters that a text has room for.
    """
    texts = "", ""
    for digits in range(6, 18):
        texts = _text(one, digits), _text(other, digits)
        if texts[0] != texts[1]:
            break
    if max(map(len, texts)) <= most:
        return texts
    alike = next((place for place, (x, y) in enumerate(zip(*texts, strict=False)) if x != y), min(map(len, texts)))
    start = max(0, alike - most // 3)
    return _cut(texts[0], start, most), _cut(texts[1], start, most)


def counted(entry: Mapping[str, Any]) -> str:
    """How many results there were: `1 run and 20 tables`."""
    parts = ((entry["runs"], "run"), (entry["tables"], "table"))
    return " and ".join(f"{n:,} {word}{'s' if n != 1 else ''}" for n, word in parts)


def day(entry: Mapping[str, Any]) -> str:
    """When an entry was added, for people."""
    moment = datetime.fromisoformat(entry["when"])
    return str(moment).replace("+00:00", " UTC")


def _of_claim(known: Sequence[Entry], after: Mapping[str, Any], claim: str) -> Iterator[dict[str, Any]]:
    was, now = known[-1]["claims"].get(claim), after["claims"].get(claim)
    if was is None or now is None:
        yield _change("claims", claim, "", was, now)
    former = next((entry for entry in reversed(known) if claim in entry["claims"]), None)
    if former is None or now is None:
        return
    clauses, words = _arranged(after, former, claim)
    yield from _between("claims", claim, former["claims"][claim], clauses)
    yield from _both("wording", claim, former["wording"].get(claim, {}), words)


def _between(section: str, claim: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for field, one, other in differences(before, after):
        if not _reordered(one, other):
            yield _change(section, claim, field, one, other)


def _both(section: str, claim: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What both have and differs: that a claim or a clause came or went is told with the claims."""
    made = _between(section, claim, before, after)
    return (change for change in made if change["before"] is not None and change["after"] is not None)


def _change(section: str, claim: str, field: str, before: Any, after: Any) -> dict[str, Any]:
    return {"section": section, "claim": claim, "field": field, "before": before, "after": after}


def _without_younger(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that an older vestige, which wrote the others, did not have."""
    return {
        name: _without_younger(value, before[name])
        if isinstance(value, Mapping) and isinstance(before[name], Mapping)
        else value
        for name, value in after.items()
        if name in before
    }


def _arranged(entry: Mapping[str, Any], like: Mapping[str, Any], claim: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Clauses and words of a claim; as another entry has them, where clauses only changed places.

    Clauses without an id are a, b, c ... by their place, and a claim is the same in whatever order they stand.
    """
    clauses, words = entry["claims"][claim], entry["wording"].get(claim, {})
    if words and sorted(map(repr, _clauses(entry, claim))) == sorted(map(repr, _clauses(like, claim))):
        return like["claims"][claim], {**words, "sentences": like["wording"][claim]["sentences"]}
    return clauses, words


def _clauses(entry: Mapping[str, Any], claim: str) -> list[Any]:
    """What each clause of a claim compares and how it is told; of one with an id of its own, with the id."""
    sentences = entry["wording"].get(claim, {}).get("sentences", {})
    return [
        ("" if name in tuple(ascii_lowercase) else name, sorted(clause.items()), sentences.get(name))
        for name, clause in entry["claims"][claim].items()
    ]


def _reordered(one: Any, other: Any) -> bool:
    """Whether two lists of words or numbers differ in their order alone, which decides nothing."""
    lists = isinstance(one, list) and isinstance(other, list)
    return lists and sorted(map(repr, one)) == sorted(map(repr, other))


def _in_words(edit: Mapping[str, Any], *, naming: bool) -> str:
    claim, field, before, after = (edit[name] for name in ("claim", "field", "before", "after"))
    field = (f"claim {claim}: {field}" if naming and claim else field) if field else f"claim {claim}"
    if edit["section"] == "claims" and (before is None or after is None):
        return _printable(f"{field} was {'added' if before is None else 'removed'}")
    one, other = told_apart(before, after)
    return f"{_printable(field)} from {one} to {other}"


def _text(value: Any, digits: int) -> str:
    text = f"{value:.{digits}g}" if isinstance(value, float) else "none" if value is None else str(value)
    return _printable(text)


def _printable(text: str) -> str:
    """A file that was edited by hand may hold anything, and a terminal obeys control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str, start: int, most: int) -> str:
    return f"{'... ' if start else ''}{text[start : start + most]}{' ...' if start + most < len(text) else ''}"
