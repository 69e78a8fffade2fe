"""Every set of weights of a command in its turn: those done already left, one that fails no hindrance to the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vestige.errors import VestigeError
from vestige.foreign.bench import Bench
from vestige.foreign.counting import Counting
from vestige.foreign.folder import ResultFolder
from vestige.foreign.processes import world
from vestige.foreign.weight_files import WeightFile

Entry = dict[str, Any]


@dataclass
class Outcome:
    """How a command ended.

    Attributes:
      folder: where everything is.
      lines: what was found, for each set of weights.
      notes: what must be said aloud.
      errors: of the files that could not be done.
      printing: whether this process is the one that prints.
      made: whether anything had to be done.
    """

    folder: ResultFolder
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: list[VestigeError] = field(default_factory=list)
    printing: bool = True
    made: bool = True


def in_turn(
    bench: Bench,
    done: Mapping[str, Entry],
    work: Callable[[WeightFile, str | None], Entry],
    count: Counting,
    doing: str,
    wrote: Callable[[list[Entry], list[VestigeError]], object],
) -> tuple[list[Entry], list[VestigeError]]:
    """Work on every set of weights.

    Args:
      bench: with the sets of weights.
      done: by hash, what the record holds of those that are done.
      work: on one, given what its files are called; returns what the record holds of it.
      count: told of what fails.
      doing: what an error says was being done: `measuring`.
      wrote: called after each with all that is done, and the errors.

    Returns:
      What the record holds of all that are done, in order; the errors that were met.

    Raises:
      VestigeError: nothing could be done; or one of several processes failed, which would leave the others waiting.
    """
    entries, failed = dict(done), []
    for file, label in bench.chosen:
        if file.hash in done:
            continue
        try:
            entries[file.hash] = work(file, label)
        except VestigeError as error:
            if world() > 1 or not bench.request.checkpoints:
                raise
            said = f"{error.doing}: {error.found}"
            failed.append(type(error)(f"{doing} {file.path}", found=said, remedy=error.remedy))
            count.say(f"failed: {file.name}; the others go on")
            continue
        wrote(_in_order(bench, entries), failed)
    if not entries and (errors := [*bench.unreadable, *failed]):
        raise errors[0]
    return _in_order(bench, entries), failed


def notes_of(bench: Bench, record: Mapping[str, Any], done: str) -> list[str]:
    """Every note once; one that does not hold of all files, with the names of those it holds of.

    Args:
      bench: with the sets of weights.
      record: of what was found.
      done: was done to each: `measured`.
    """
    said: dict[str, list[str]] = {}
    for entry in record["checkpoints"]:
        for note in dict.fromkeys(note for result in entry["results"] for note in result["notes"]):
            said.setdefault(note, []).append(entry["file"])
    every = len(record["checkpoints"])
    return [
        *record["notes"],
        *(note if len(of) == every else f"{', '.join(of)}: {note}" for note, of in said.items()),
        *duplicates(bench, done),
    ]


def duplicates(bench: Bench, done: str) -> list[str]:
    """A note of each file whose weights another holds; `done`: see `notes_of`."""
    return [
        f"{file.name} holds the same weights as {file.duplicate_of}: {done} once."
        for file in bench.files
        if file.duplicate_of
    ]


def _in_order(bench: Bench, entries: Mapping[str, Entry]) -> list[Entry]:
    return [entries[file.hash] for file, _ in bench.chosen if entries.get(file.hash)]
