"""`report.html` of a measured model: one file that opens offline, made from `measured.json` and the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from vestige.report.distributions import WORDS, AsTheyAre, agreement_figure, layer_figure, step_figure
from vestige.report.interactive import figure_data
from vestige.report.methods import methods
from vestige.report.panels import StepScale, Table
from vestige.report.rendering import environment, plotly_source
from vestige.report.style import DARK, LIGHT, count, duration, number
from vestige.runs.store import write_text

TOP_NEURONS = 20
MANY_LAYERS = 10
"""From here on each panel has a row of its own."""
_MOST_SELECTIVE = ("layer", "neuron", "preferred class", "second class", "CSI", "CSI (CV)", "η²", "p", "selective")


def write_measured(path: Path, record: Mapping[str, Any], tables: Sequence[pl.DataFrame]) -> Path:
    """Write the page. The same record and tables give the same bytes.

    Args:
      path: of the page.
      record: the contents of `measured.json`.
      tables: of each of its checkpoints, with the columns of `runs.tables` for selectivity, protocols beneath each
        other.

    Returns:
      `path`.

    Raises:
      StoreError: it cannot be written.
    """
    write_text(path, render_measured(record, tables))
    return path


def render_measured(record: Mapping[str, Any], tables: Sequence[pl.DataFrame]) -> str:
    """The page as HTML, everything it needs within it."""
    protocols = [result["protocol"] for result in record["checkpoints"][-1]["results"]]
    shown = _shown(record)
    last = [(protocol, tables[shown].filter(protocol=protocol)) for protocol in protocols]
    steps = pl.concat(tables).filter(pl.col("step").is_not_null())
    through = steps["step"].n_unique() > 1
    sources = [entry["table"] for entry in record["checkpoints"]]
    figures = [replace(make(last), sources=(sources[shown],)) for make in (layer_figure, agreement_figure)]
    if through:
        figures.append(replace(step_figure(steps), sources=("selectivity/",)))
    scales = {"steps": StepScale.of(steps["step"])}
    names = record["data"]["class_names"]
    return (
        environment()
        .get_template("measured.html.j2")
        .render(
            title=record["model"]["name"],
            data_name=record["data"]["name"],
            facts=_facts(record, last),
            notes=_notes(record),
            subject=_subject(record),
            accuracy=_accuracy(record),
            files=_files(record),
            many_layers=last[0][1]["layer"].n_unique() > MANY_LAYERS,
            figures=[(figure, ()) for figure in figures],
            by_layer=[(WORDS[protocol].capitalize(), _by_layer(part)) for protocol, part in last],
            neurons=[(WORDS[protocol].capitalize(), _neurons(part, names)) for protocol, part in last],
            shown_of=_shown_of(record, shown),
            methods=methods(record, tables),
            settings=[(name.replace("_", " "), _said(value)) for name, value in record["settings"].items()],
            versions=_versions(record),
            data={
                figure.id: figure_data(figure, scales.get(figure.id, AsTheyAre(1, 1)))
                for figure in figures
                if figure.shown
            },
            light=LIGHT,
            dark=DARK,
            plotly=plotly_source(),
        )
    )


def _results(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One of each checkpoint and protocol."""
    return [{**entry, **result} for entry in record["checkpoints"] for result in entry["results"]]


def _shown(record: Mapping[str, Any]) -> int:
    """The checkpoint whose neurons are shown one by one: the last whose step is known, else the last."""
    known = [i for i, entry in enumerate(record["checkpoints"]) if entry["step"] is not None]
    return known[-1] if known else len(record["checkpoints"]) - 1


def _shown_of(record: Mapping[str, Any], shown: int) -> str:
    if len(record["checkpoints"]) < 2:
        return ""
    entry = record["checkpoints"][shown]
    step = "" if entry["step"] is None else f" (step {entry['step']})"
    return f"Of {entry['file']}{step}, the last of the checkpoints."


def _facts(record: Mapping[str, Any], last: Sequence[tuple[str, pl.DataFrame]]) -> tuple[str, ...]:
    table, weights = last[0][1], len(record["checkpoints"])
    return (
        count(table.height, "neuron"),
        count(table["layer"].n_unique(), "layer"),
        count(_results(record)[-1]["n"], "image"),
        count(record["data"]["classes"], "class", "classes"),
        *((count(weights, "checkpoint"),) if weights > 1 else ()),
        *(WORDS[protocol] for protocol, _ in last),
    )


def _notes(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be known, each once; where it holds of some checkpoints only, of which."""
    results = _results(record)
    said: dict[str, list[str]] = {}
    for one in results:
        for note in one["notes"]:
            said.setdefault(note, []).append(_called(one))
    lines = [note if len(of) == len(results) else f"{_few(of)}: {note}" for note, of in said.items()]
    failed = [f"{one['file']} was not measured: {one['error']}" for one in record["files"] if one["error"]]
    return tuple(dict.fromkeys((*record["notes"], *lines, *failed, *record["errors"])))


def _called(result: Mapping[str, Any]) -> str:
    return result["file"] or result["protocol"]


def _few(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _subject(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, data = record["model"], record["data"]
    rows = [
        ("Model", f"{model['name']} ({model['kind']}, {count(model['parameters'], 'parameter')})"),
        ("Weights", model["weights"]),
        ("Images", f"{data['spec']} ({count(_results(record)[-1]['n'], 'image')} measured)"),
        ("Classes", _classes(data)),
        ("Input", " × ".join(map(str, data["input_shape"])) if data["input_shape"] else "as the data give it"),
        ("Preparation", data["preprocess"]),
        ("Batch norm", _batch_norm(record)),
    ]
    if data["skipped"]:
        rows.append(("Left out", f"{count(data['skipped'], 'image')} that cannot be read: see skipped.txt"))
    return rows


def _classes(data: Mapping[str, Any]) -> str:
    named = [name for name in data["class_names"] if name]
    listed = ", ".join(named[:6]) + (", …" if len(named) > 6 else "")
    return f"{data['classes']}" + (f": {listed}" if named else "")


def _batch_norm(record: Mapping[str, Any]) -> str:
    ways: dict[str, None] = dict.fromkeys(one["batch_norm"] for one in _results(record))
    return "; ".join(ways)


def _accuracy(record: Mapping[str, Any]) -> Table:
    header = ("checkpoint", "step", "protocol", "top-1", "top-5", "loss (nats)", "images", "left out", "time")
    rows = tuple(
        (
            one["file"] or "–",
            "–" if one["step"] is None else str(one["step"]),
            one["protocol"],
            f"{one['top1']:.2%}",
            "–" if one["top5"] is None else f"{one['top5']:.2%}",
            number(one["loss"], 4),
            one["n"],
            one["skipped"],
            duration(one["seconds"]),
        )
        for one in _results(record)
    )
    return Table(header, rows)


def _files(record: Mapping[str, Any]) -> Table | None:
    if not record["files"]:
        return None
    rows = tuple(
        (
            one["file"],
            "–" if one["step"] is None else str(one["step"]),
            (one["weights"] or "–")[:12],
            f"the same weights as {one['duplicate_of']}"
            if one["duplicate_of"]
            else ("not measured" if one["error"] else "measured"),
        )
        for one in record["files"]
    )
    return Table(("file", "step", "hash of weights", "what"), rows)


def _by_layer(table: pl.DataFrame) -> Table:
    alive, columns = ~pl.col("dead"), ("csi", "csi_null_mean", "csi_cv", "eta2")
    grouped = table.group_by("layer", maintain_order=True).agg(
        pl.len().alias("neurons"),
        *(pl.col(name).filter(alive).fill_nan(None).mean().cast(pl.Float64) for name in columns),
        pl.col("csi").fill_nan(None).mean().cast(pl.Float64).alias("csi_all"),
        pl.col("selective").cast(pl.Float64).mean(),
        pl.col("dead").cast(pl.Float64).mean().alias("dead_share"),
        pl.col("closed").fill_nan(None).mean().cast(pl.Float64),
    )
    header = (
        "layer", "neurons", "CSI", "CSI without signal", "CSI (CV)", "η²", "CSI, dead ones too", "selective", "dead",
        "closed",
    )  # fmt: skip
    rows = tuple(
        (*row[:7], *("–" if share is None else f"{share:.1%}" for share in row[7:])) for row in grouped.iter_rows()
    )
    return Table(header, rows)


def _neurons(table: pl.DataFrame, names: Sequence[str]) -> Table:
    """Those called selective first, by the smaller of CSI and cross-validated CSI, either of which noise can raise."""
    both = pl.min_horizontal(pl.col("csi", "csi_cv").fill_nan(None))
    ranked = table.filter(~pl.col("dead")).sort(
        pl.col("selective").fill_null(False), both, descending=True, nulls_last=True, maintain_order=True
    )
    columns = ("layer", "neuron", "preferred_class", "second_class", "csi", "csi_cv", "eta2", "p_value", "selective")
    rows = []
    for layer, neuron, first, second, *values, selective in ranked.head(TOP_NEURONS).select(columns).iter_rows():
        said = {True: "yes", False: "no"}.get(selective, "–")
        rows.append((layer, neuron, _class_name(first, names), _class_name(second, names), *values, said))
    return Table(_MOST_SELECTIVE, tuple(rows))


def _class_name(index: int, names: Sequence[str]) -> str:
    name = names[index] if 0 <= index < len(names) else ""
    return f"{name} ({index})" if name and name != str(index) else str(index)


def _versions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    made = record["made"]
    return [(name, str(value)) for part in ("versions", "hardware") for name, value in made[part].items() if value]


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None or value == "" else str(value)
