"""`claims-registered.json`: what a study claimed, and when, and what results there were by then.

An entry is added when a study's folder is first made, and whenever what decides a verdict, the wording of a claim, or
a setting that matters to claims has changed since; none is ever removed. An entry is
`{when, vestige, hash, runs, tables, claims, shared, wording, settings, seal}`: `hash` is of `claims` (statistic,
direction and smallest effect of every clause, by claim) and `shared` (what all claims depend on). The seeds are no
part of it, since more of them may be needed to decide; that they changed is told, as a setting. `seal` is the hash of
the rest of the entry and of the seal before it, so that a hand's edit is told; earlier versions wrote none.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from vestige import __version__
from vestige.config import StudyConfig
from vestige.errors import StoreError
from vestige.runs.manifest import read_manifest
from vestige.runs.store import RunFolder, StudyFolder, read_json, update_json, value_hash
from vestige.study.edits import KINDS, Entry, changes, counted, day, edits_in_words
from vestige.study.plan import Plan

REGISTRATION_VERSION = 1


def register(plan: Plan, folder: StudyFolder) -> str:
    """Add an entry where there is none, or the last one says otherwise.

    Returns:
      What is to be said of it, with the hash; nothing where the claims stood there already.

    Raises:
      StoreError: what was registered cannot be read.
    """
    entries = read_registration(folder)
    now = _claimed(plan.study) | {"settings": _settings(plan)}
    if not _is_new(entries, now):
        return ""
    runs, tables = _results(folder)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    added = {"when": when, "vestige": __version__, "hash": _hash(now), "runs": runs, "tables": tables, **now}

    def add(stored: dict[str, Any]) -> dict[str, Any]:
        known = stored.get("entries", [])
        if not _is_new(known, now):
            return stored  # another process was faster
        sealed = {**added, "seal": _seal(added, known)}
        return {"version": REGISTRATION_VERSION, "entries": [*known, sealed]}

    update_json(registered_in(folder), add)
    if not now["claims"] or (entries and _hash(entries[-1]) == added["hash"]):
        return ""
    there = f"with {counted(added)} there" if _had_results(added) else "before there is any result"
    return f"claims registered {there}: hash {added['hash']}; put it where others can see it"


def read_registration(folder: StudyFolder) -> list[Entry]:
    """The entries, the first first; none where nothing is registered.

    Raises:
      StoreError: the file is damaged.
    """
    path = registered_in(folder)
    if not path.exists():
        return []
    try:
        entries = read_json(path)["entries"]
        if isinstance(entries, list) and all(map(_is_whole, entries)):
            return entries
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
    words = entry["wording"].values()
    return (
        all(isinstance(entry[name], Mapping) for name in KINDS)
        and all(isinstance(clause, Mapping) for clause in clauses)
        and all(isinstance(one["sentences"], Mapping) for one in words)
        and all(isinstance(entry[name], int) for name in ("runs", "tables"))
        and isinstance(entry["hash"], str)
        and isinstance(entry.get("seal", ""), str)
    )


def registered_in(folder: StudyFolder) -> Path:
    """The file."""
    return folder.path / "claims-registered.json"


def tell_registration(entries: Sequence[Entry]) -> dict[str, Any]:
    """What `claims.json` and the report say of it.

    Returns:
      `{hash, when, before_results, now: {hash, when, runs, tables}, note, broken: [...], edits: [{when, runs, tables,
      section, claim, field, before, after}]}`: `hash` and `when` are of what was registered before results, or first;
      `now` is what stands there since, None where that is the same; `broken` says what was edited by hand; of edits
      those made once there were results; `claim` is empty where they are of all claims.
    """
    if not entries:
        told = {"hash": None, "when": None, "before_results": False, "now": None}
        return {**told, "note": _UNREGISTERED, "broken": [], "edits": []}
    first = [entries[0], *takewhile(lambda entry: not _had_results(entry), entries)][-1]
    late = not _had_results(first) and not first["claims"] and bool(entries[-1]["claims"])
    edits, broken, now = list(_edits(entries)), list(_broken(entries)), _now(entries, first)
    return {
        "hash": _hash(first),
        "when": first["when"],
        "before_results": not (_had_results(first) or late or broken),
        "now": now,
        "note": (_EDITED if broken else "") + _registered(first, late=late) + _changed(edits, now) + _unsealed(entries),
        "broken": broken,
        "edits": edits,
    }


def add_registration(verdicts: dict[str, Any], entries: Sequence[Entry]) -> dict[str, Any]:
    """The contents of `claims.json` with what was registered, and with what was changed at each claim."""
    told = tell_registration(entries)
    judged = {claim["id"] for claim in verdicts["claims"]}
    claims = [
        {**claim, "changed": list(edits_in_words([edit for edit in told["edits"] if edit["claim"] == claim["id"]]))}
        for claim in verdicts["claims"]
    ]
    others = [edit for edit in told["edits"] if edit["claim"] not in judged]
    changed = list(edits_in_words(others, naming=True))
    return {**verdicts, "registration": {**told, "changed": changed}, "claims": claims}


_EDITED = "not verifiably registered: claims-registered.json was edited by hand; it says that they were "
_UNREGISTERED = "not registered: `vestige run` writes down what is claimed before there are results"


def _edits(entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
    """Changes made once there had been results, be they there no longer."""
    for place, after in enumerate(entries):
        if place and any(map(_had_results, entries[: place + 1])):
            made = {name: after[name] for name in ("when", "runs", "tables")}
            yield from ({**made, **change} for change in changes(entries[:place], after))


def _now(entries: Sequence[Entry], first: Entry) -> dict[str, Any] | None:
    """What stands there if it is not what was registered, from the entry that brought it."""
    present = _hash(entries[-1])
    if present == _hash(first):
        return None
    since = list(takewhile(lambda entry: _hash(entry) == present, reversed(entries)))[-1]
    return {"hash": present, **{name: since[name] for name in ("when", "runs", "tables")}}


def _registered(first: Entry, *, late: bool) -> str:
    if late:
        return f"not registered before results: on {day(first)} the study claimed nothing"
    if _had_results(first):
        written = f"first written down on {day(first)} (hash {_hash(first)}), with {counted(first)} there"
        return f"not registered before results: {written}"
    return f"registered on {day(first)} (hash {_hash(first)}), before there was any result"


def _changed(edits: Sequence[Mapping[str, Any]], now: Mapping[str, Any] | None) -> str:
    kinds = list(dict.fromkeys(KINDS[edit["section"]] for edit in edits))
    named = " and ".join(part for part in (", ".join(kinds[:-1]), *kinds[-1:]) if part)
    present = f" (hash {now['hash']} since {day(now)}, with {counted(now)} there)" if now else ""
    return f"; {named} were changed after there were results{present}" if kinds else ""


def _unsealed(entries: Sequence[Entry]) -> str:
    return "" if all("seal" in entry for entry in entries) else "; not sealed, as an earlier version wrote it"


def _broken(entries: Sequence[Entry]) -> Iterator[str]:
    """What shows that a hand was at the file. Whoever makes seals anew is found out by a hash that others saw alone."""
    for place, entry in enumerate(entries):
        if entry["hash"] != _hash(entry):
            yield f"the entry of {day(entry)} gives the hash {entry['hash'][:64]!r}, and its claims have {_hash(entry)}"
        if "seal" in entry:
            if entry["seal"] != _seal(entry, entries[:place]):
                yield f"the seal of the entry of {day(entry)} is broken: it, or what stood before it, was changed"
        elif any("seal" in before for before in entries[:place]):
            yield f"the entry of {day(entry)} has no seal, and one before it has"


def _hash(entry: Mapping[str, Any]) -> str:
    return value_hash([entry["claims"], entry["shared"]])


def _seal(entry: Mapping[str, Any], known: Sequence[Entry]) -> str:
    """Hash of an entry and of the seal before it; of the whole entry before it, if that has none."""
    unsealed = {name: value for name, value in entry.items() if name != "seal"}
    return value_hash([unsealed, (known[-1].get("seal") or value_hash(known[-1])) if known else None])


def _is_new(known: Sequence[Entry], now: Mapping[str, Any]) -> bool:
    return not known or any(True for _ in changes(known, now))


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
