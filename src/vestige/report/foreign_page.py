"""What the pages of models that are no study's share: their record in words and tables, and their frame.

A record is the contents of `measured.json`, `ablated.json` or `linearity.json`: `checkpoints`, each with one `results`
a protocol.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl

from vestige.report.distributions import AsTheyAre
from vestige.report.interactive import figure_data
from vestige.report.panels import Figure, StepScale, Table
from vestige.report.rendering import environment, plotly_source
from vestige.report.style import DARK, LIGHT, count, duration, number

DONE = {"measured": "measured", "ablated": "ablated", "linearised": "measured"}
"""What was done to a set of weights, by kind of page."""


def render(
    kind: Literal["measured", "ablated", "linearised"],
    record: Mapping[str, Any],
    figures: Sequence[Figure],
    steps: Sequence[int],
    **parts: Any,
) -> str:
    """A page as HTML, everything it needs within it.

    Args:
      kind: of page.
      record: see the module.
      figures: in their order; those through steps have the id `steps`.
      steps: of the checkpoints.
      parts: what its template needs besides.
    """
    scales = {"steps": StepScale.of(steps)}
    made, shown = record["made"], shown_checkpoint(record)
    return (
        environment()
        .get_template(f"{kind}.html.j2")
        .render(
            title=record["model"]["name"],
            data_name=record["data"]["name"],
            notes=_notes(record, DONE[kind]),
            accuracy=_accuracy(record),
            files=_files(record, DONE[kind]),
            figures=[(figure, ()) for figure in figures],
            shown_of=_shown_of(record, shown),
            settings=[(name.replace("_", " "), _said(value)) for name, value in record["settings"].items()],
            versions=[(name, str(v)) for part in ("versions", "hardware") for name, v in made[part].items() if v],
            data={
                figure.id: figure_data(figure, scales.get(figure.id, AsTheyAre(1, 1)))
                for figure in figures
                if figure.shown
            },
            light=LIGHT,
            dark=DARK,
            plotly=plotly_source(),
            **parts,
        )
    )


def results_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One of each checkpoint and protocol, with what the record says of the checkpoint."""
    return [{**entry, **result} for entry in record["checkpoints"] for result in entry["results"]]


def shown_checkpoint(record: Mapping[str, Any]) -> int:
    """The checkpoint whose neurons are shown one by one: the last whose step is known, else the last."""
    known = [i for i, entry in enumerate(record["checkpoints"]) if entry["step"] is not None]
    return known[-1] if known else len(record["checkpoints"]) - 1


def facts(record: Mapping[str, Any], table: pl.DataFrame | None = None) -> list[str]:
    """Of how many neurons, layers, images, classes and checkpoints the page is; `table`: of the neurons of one."""
    weights = len(record["checkpoints"])
    of_table = (
        []
        if table is None
        else [
            count(table.select("layer", "neuron").unique().height, "neuron"),
            count(table["layer"].n_unique(), "layer"),
        ]
    )
    return [
        *of_table,
        count(results_of(record)[-1]["n"], "image"),
        count(record["data"]["classes"], "class", "classes"),
        *([count(weights, "checkpoint")] if weights > 1 else []),
    ]


def subject(record: Mapping[str, Any], what: str, more: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What the page is about, a name and a text each.

    Args:
      record: see the module.
      what: was done to the images: "measured".
      more: further rows, between those of the images and those of what was left out.
    """
    model, data = record["model"], record["data"]
    ways: dict[str, None] = dict.fromkeys(one["batch_norm"] for one in results_of(record))
    images = f"{count(results_of(record)[-1]['n'], 'image')} {what}".strip()
    rows = [
        ("Model", f"{model['name']} ({model['kind']}, {count(model['parameters'], 'parameter')})"),
        ("Weights", model["weights"]),
        ("Images", f"{data['spec']} ({images})"),
        *more,
        ("Preparation", data["preprocess"]),
        ("Batch norm", "; ".join(ways)),
    ]
    if data["skipped"]:
        rows.append(("Left out", f"{count(data['skipped'], 'image')} that cannot be read: see skipped.txt"))
    return rows


def class_name(index: int, names: Sequence[str]) -> str:
    """The name of a class with its index; the index alone where it has no other name."""
    name = names[index] if 0 <= index < len(names) else ""
    return f"{name} ({index})" if name and name != str(index) else str(index)


def _shown_of(record: Mapping[str, Any], shown: int) -> str:
    if len(record["checkpoints"]) < 2:
        return ""
    entry = record["checkpoints"][shown]
    step = "" if entry["step"] is None else f" (step {entry['step']})"
    return f"Of {entry['file']}{step}, the last of the checkpoints."


def _notes(record: Mapping[str, Any], done: str) -> tuple[str, ...]:
    """What must be known, each once; where it holds of some checkpoints only, of which."""
    results = results_of(record)
    said: dict[str, list[str]] = {}
    for one in results:
        for note in one["notes"]:
            said.setdefault(note, []).append(one["file"] or one["protocol"])
    lines = [note if len(of) == len(results) else f"{_few(of)}: {note}" for note, of in said.items()]
    failed = [f"{one['file']} was not {done}: {one['error']}" for one in record["files"] if one["error"]]
    return tuple(dict.fromkeys((*record["notes"], *lines, *failed, *record["errors"])))


def _few(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _accuracy(record: Mapping[str, Any]) -> Table:
    header = ("checkpoint", "step", "protocol", "top-1", "top-5", "loss (nats)", "images", "left out", "time")
    rows = tuple(
        (
            one["file"] or "–",
            _step(one),
            one["protocol"],
            f"{one['top1']:.2%}",
            "–" if one["top5"] is None else f"{one['top5']:.2%}",
            number(one["loss"], 4),
            one["n"],
            one["skipped"],
            duration(one["seconds"]),
        )
        for one in results_of(record)
    )
    return Table(header, rows)


def _files(record: Mapping[str, Any], done: str) -> Table | None:
    if not record["files"]:
        return None
    rows = tuple((one["file"], _step(one), (one["weights"] or "–")[:12], _fate(one, done)) for one in record["files"])
    return Table(("file", "step", "hash of weights", "what"), rows)


def _fate(file: Mapping[str, Any], done: str) -> str:
    if file["duplicate_of"]:
        return f"the same weights as {file['duplicate_of']}"
    return f"not {done}" if file["error"] else done


def _step(one: Mapping[str, Any]) -> str:
    return "–" if one["step"] is None else str(one["step"])


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None or value == "" else str(value)
