"""`claims-registered.json`: what a study claimed, and when, and what results there were by then.

An entry is added when a study's folder is first made, and whenever what decides a verdict, the wording of a claim, or
a setting that matters to claims has changed since; none is ever removed. An entry is
`{when, vestige, hash, runs, tables, claims, shared, wording, settings}`: `hash` is of `claims` (statistic, direction
and smallest effect of every clause, by claim) and `shared` (what all claims depend on). The seeds are no part of it,
since more of them may be needed to decide; that they changed is told, as a setting.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise, takewhile
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from vestige import __version__
from vestige.config import StudyConfig, differences
from vestige.errors import StoreError
from vestige.runs.manifest import read_manifest
from vestige.runs.store import RunFolder, StudyFolder, read_json, update_json, value_hash
from vestige.study.plan import Plan

REGISTRATION_VERSION = 1
SECTIONS = ("claims", "shared", "wording", "settings")
Entry = dict[str, Any]


def register(plan: Plan, folder: StudyFolder) -> None:
    """Add an entry where there is none, or the last one says otherwise.

    Raises:
      StoreError: what was registered cannot be read.
    """
    path = registered_in(folder)
    entries = read_registration(folder)
    now = _claimed(plan.study) | {"settings": _settings(plan)}
    if entries and not any(_changes(entries[-1], now)):
        return
    runs, tables = _results(folder)
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "vestige": __version__,
        "hash": value_hash([now["claims"], now["shared"]]),
        "runs": runs,
        "tables": tables,
        **now,
    }

    def add(stored: dict[str, Any]) -> dict[str, Any]:
        known = stored.get("entries", [])
        if known and not any(_changes(known[-1], now)):
            return stored  # another process was faster
        return {"version": REGISTRATION_VERSION, "entries": [*known, entry]}

    update_json(path, add)


def read_registration(folder: StudyFolder) -> list[Entry]:
    """The entries, the first first; none where nothing is registered.

    Raises:
      StoreError: the file is damaged.
    """
    path = registered_in(folder)
    if not path.exists():
        return []
    try:
        stored = read_json(path)
        if all(_is_whole(entry) for entry in stored["entries"]):
            return stored["entries"]
        found = "an entry lacks a part"
    except (StoreError, AttributeError, KeyError, TypeError, ValueError) as error:
        found = getattr(error, "found", f"{type(error).__name__}: {error}")
    raise StoreError(
        f"reading {path}",
        found=found,
        remedy="Put it back from a copy; if it is lost, delete it, and the report says that the claims were not "
        "registered before their results",
    )


def _is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has all that is read of it."""
    datetime.fromisoformat(entry["when"])
    clauses = [clause for clauses in entry["claims"].values() for clause in clauses.values()]
    return (
        all(isinstance(entry[name], Mapping) for name in SECTIONS)
        and all(isinstance(clause, Mapping) for clause in clauses)
        and all(isinstance(entry[name], int) for name in ("runs", "tables"))
        and isinstance(entry["hash"], str)
    )


def registered_in(folder: StudyFolder) -> Path:
    """The file."""
    return folder.path / "claims-registered.json"


def tell_registration(entries: Sequence[Entry]) -> dict[str, Any]:
    """What `claims.json` and the report say of it.

    Returns:
      `{hash, when, before_results, note, edits: [{when, runs, tables, section, claim, field, before, after}]}`: of
      edits those made when there were results; `claim` is empty where they are of all claims.
    """
    if not entries:
        return {"hash": None, "when": None, "before_results": False, "note": _UNREGISTERED, "edits": []}
    first = [entries[0], *takewhile(lambda entry: not _had_results(entry), entries)][-1]
    before = not _had_results(first)
    note = f"registered on {_day(first)}, before there was any result"
    if not before:
        note = f"not registered before results: first written down on {_day(first)}, with {_counted(first)} there"
    return {
        "hash": entries[-1]["hash"],
        "when": first["when"],
        "before_results": before,
        "note": note,
        "edits": [
            {**{name: after[name] for name in ("when", "runs", "tables")}, **change}
            for former, after in pairwise(entries)
            if _had_results(after)
            for change in _changes(former, after)
        ],
    }


def add_registration(verdicts: dict[str, Any], entries: Sequence[Entry]) -> dict[str, Any]:
    """The contents of `claims.json` with what was registered, and with what was changed at each claim."""
    told = tell_registration(entries)
    judged = {claim["id"] for claim in verdicts["claims"]}
    claims = [
        {**claim, "changed": list(edits_in_words([edit for edit in told["edits"] if edit["claim"] == claim["id"]]))}
        for claim in verdicts["claims"]
    ]
    others = list(edits_in_words([edit for edit in told["edits"] if edit["claim"] not in judged]))
    return {**verdicts, "registration": {**told, "changed": others}, "claims": claims}


def edits_in_words(edits: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """`changed on ..., with 10 runs and 200 tables there: rise.smallest_effect from 0.18 to 0.1`."""
    for when in dict.fromkeys(edit["when"] for edit in edits):
        changes = [edit for edit in edits if edit["when"] == when]
        said = "; ".join(map(_in_words, changes))
        yield f"changed on {_day(changes[0])}, with {_counted(changes[0])} there: {said}"


_UNREGISTERED = "not registered: `vestige run` writes down what is claimed before there are results"


def _in_words(edit: Mapping[str, Any]) -> str:
    field, before, after = edit["field"] or f"claim {edit['claim']}", edit["before"], edit["after"]
    if edit["section"] == "claims" and (before is None or after is None):
        return f"{field} was {'added' if before is None else 'removed'}"
    return f"{field} from {_short(before)} to {_short(after)}"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "none" if value is None else str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What differs between two entries; a setting that the former did not have yet says nothing."""
    claims = {**before["claims"], **after["claims"]}
    after = _arranged(after, before)
    for section in SECTIONS:
        for path, one, other in differences(before[section], after[section]):
            if section == "settings" and not _has(before[section], path):
                continue
            if _reordered(one, other):
                continue
            if section in ("wording", "shared") and (one is None or other is None):
                continue  # that a claim, or claims at all, came or went is told once
            claim, field = _parted(path, claims) if section in ("claims", "wording") else ("", path)
            yield {"section": section, "claim": claim, "field": field, "before": one, "after": other}


def _arranged(entry: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with the clauses of each own claim as in another entry, where they only changed places.

    Clauses without an id are a, b, c ... by their place, and a claim is the same in whatever order they stand.
    """
    claims, wording = dict(entry["claims"]), dict(entry["wording"])
    for claim in wording:
        if sorted(map(repr, _clauses(entry, claim))) == sorted(map(repr, _clauses(like, claim))):
            claims[claim] = like["claims"][claim]
            wording[claim] = {**wording[claim], "sentences": like["wording"][claim]["sentences"]}
    return {**entry, "claims": claims, "wording": wording}


def _clauses(entry: Mapping[str, Any], claim: str) -> list[Any]:
    """What each clause of a claim compares and how it is told; of one with an id of its own, with the id."""
    sentences = entry["wording"].get(claim, {}).get("sentences", {})
    return [
        ("" if name in tuple(ascii_lowercase) else name, sorted(clause.items()), sentences.get(name))
        for name, clause in entry["claims"].get(claim, {}).items()
    ]


def _reordered(one: Any, other: Any) -> bool:
    """Whether two lists of words or numbers differ in their order alone, which decides nothing."""
    lists = isinstance(one, list) and isinstance(other, list)
    return lists and sorted(map(repr, one)) == sorted(map(repr, other))


def _has(settings: Mapping[str, Any], path: str) -> bool:
    """Whether there is something, be it None, at a dotted path; names may hold dots."""
    within = (key for key in settings if path.startswith(f"{key}.") and isinstance(settings[key], Mapping))
    return path in settings or any(_has(settings[key], path[len(key) + 1 :]) for key in within)


def _parted(path: str, claims: Mapping[str, Any]) -> tuple[str, str]:
    """The claim and the rest of a dotted path; ids may hold dots."""
    claim = max((name for name in claims if path == name or path.startswith(f"{name}.")), key=len)
    return claim, path[len(claim) + 1 :]


def _claimed(study: StudyConfig) -> dict[str, Any]:
    """What decides verdicts, and the words of it."""
    from vestige.claims.registry import DEFINITIONS_VERSION, own_claim, registered

    if study.claims is None:
        return {"claims": {}, "shared": {}, "wording": {}}
    claims = [*registered(study), *(own_claim(claim) for claim in study.claims.own)]
    return {
        "claims": {
            claim.id: {
                clause.id.removeprefix(f"{claim.id}."): {
                    "statistic": clause.statistic,
                    "direction": str(clause.direction),
                    "smallest_effect": clause.smallest_effect,
                }
                for clause in claim.clauses
            }
            for claim in claims
        },
        "shared": {
            "definitions": DEFINITIONS_VERSION,
            "early_window": study.claims.early_window.model_dump(mode="json"),
            "pilot_seeds": list(study.claims.pilot_seeds),
            "baseline": study.claims.roles.baseline,
        },
        "wording": {
            claim.id: {
                "title": claim.title,
                "statement": claim.statement,
                "sentences": {clause.id.removeprefix(f"{claim.id}."): clause.sentence for clause in claim.clauses},
            }
            for claim in claims
            if claim.own
        },
    }


def _settings(plan: Plan) -> dict[str, Any]:
    """Settings that matter to claims and may change while runs stay what they are."""
    study = plan.study
    return {
        "seeds": list(study.seeds),
        "measurements": study.measurements.model_dump(mode="json"),
        "conditions": {name: plan.resolved_interventions(name) for name in study.conditions},
    }


def _results(folder: StudyFolder) -> tuple[int, int]:
    """How many runs have begun to be trained, and how many tables were made of them."""
    manifests = [
        read_manifest(RunFolder(path.parent)) for path in sorted(folder.path.glob("runs/*/seed-*/manifest.json"))
    ]
    runs = sum(max(manifest.checkpoints, default=0) > 0 for manifest in manifests)
    tables = sum(name.endswith(".parquet") and "/" in name for m in manifests for name in m.artifacts)
    return runs, tables


def _had_results(entry: Mapping[str, Any]) -> bool:
    return entry["runs"] > 0 or entry["tables"] > 0


def _counted(entry: Mapping[str, Any]) -> str:
    parts = ((entry["runs"], "run"), (entry["tables"], "table"))
    return " and ".join(f"{n:,} {word}{'s' if n != 1 else ''}" for n, word in parts)


def _day(entry: Mapping[str, Any]) -> str:
    return str(entry["when"]).replace("T", " ").replace("+00:00", " UTC")
