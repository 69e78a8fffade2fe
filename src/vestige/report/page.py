"""The report: `report/index.html`, one file that opens offline, and `report/figures/` for a paper."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from vestige.config import StudyConfig, dump_study
from vestige.report.bibliography import bibtex
from vestige.report.cards import cards, tally
from vestige.report.figures import Source, build_figures
from vestige.report.interactive import figure_data
from vestige.report.making import dataset, making
from vestige.report.neurons.chunks import remove_former
from vestige.report.neurons.portraits import Portraits
from vestige.report.neurons.section import FOLDER as DATA
from vestige.report.neurons.section import Section, neurons
from vestige.report.panels import Figure
from vestige.report.paper import write_figures
from vestige.report.provenance import table_files
from vestige.report.rendering import environment, plotly_source
from vestige.report.study_methods import study_methods
from vestige.report.style import DARK, LIGHT, count
from vestige.runs.manifest import Manifest
from vestige.runs.store import StudyFolder, write_text

OURS = re.compile(r"(F\d-[a-z0-9-]+|accuracy(-1col)?)\.(pdf|png)")
"""What a report calls its figures on paper; any other file beside them is its owner's."""


def write_report(
    folder: StudyFolder,
    study: StudyConfig,
    tables: Mapping[str, pl.DataFrame],
    claims: dict[str, Any] | None,
    manifests: Mapping[tuple[str, int], Manifest],
    portraits: Portraits | None = None,
) -> Path:
    """Write the report of a study. The same tables, verdicts and manifests give the same bytes.

    Args:
      folder: the study's folder; `report/` in it is written.
      study: the study.
      tables: by kind (`selectivity`, `ablation`, `cumulative`, `linearity`, `history`), each with all
        conditions and seeds and the columns of `runs.tables`; any may be missing or empty: the page says so.
      claims: the contents of `claims.json`; None where nothing was judged.
      manifests: of every run, by condition and seed; a run that has not begun may be missing.
      portraits: names of the classes, and where what drives single neurons is; None: it is not known.

    Returns:
      The path of `index.html`.

    Raises:
      StoreError: the folder cannot be written.
    """
    source = Source(study, tables, claims, manifests, (claims or {}).get("classes"))
    figures = build_figures(source)
    written = write_figures(folder.report / "figures", figures, source.scale)
    _remove_former(folder.report / "figures", written)
    browser = neurons(source, portraits or Portraits(), folder.report)
    remove_former(folder.report / DATA, browser.written)
    index = folder.report / "index.html"
    write_text(index, render(source, figures, browser))
    return index


def render(source: Source, figures: tuple[Figure, ...], browser: Section = Section({})) -> str:  # noqa: B008 (frozen)
    """The page as HTML, everything it needs within it (but what a large study has in `data`)."""
    shown, methods = cards(source.claims), study_methods(source)
    template = environment().get_template("page.html.j2")
    return template.render(
        study=source.study,
        facts=_facts(source),
        cards=shown,
        tally=tally(shown),
        no_claims=_no_claims(source) if not shown else "",
        claims_note=(source.claims or {}).get("note") or "",
        registration=(source.claims or {}).get("registration"),
        figures=[(figure, _file_names(figure)) for figure in figures],
        missing=_missing(source),
        browser=browser,
        methods=methods,
        bibtex=bibtex(" ".join(text for _, text in methods)),
        tables=table_files(source.manifests),
        linked={"runs": [run for run, one in source.manifests.items() if one.key], "claims": bool(shown)},
        making=making(source.study, source.manifests, source.early_window),
        settings=dump_study(source.study),
        data={figure.id: figure_data(figure, source.scale) for figure in figures if figure.shown},
        light=LIGHT,
        dark=DARK,
        plotly=plotly_source(),
    )


def _facts(source: Source) -> tuple[str, ...]:
    study = source.study
    measured = source.table("selectivity")
    neurons = measured.select("layer", "neuron").unique().height
    steps = source.table("history").filter(split="test")["step"].n_unique() or measured["step"].n_unique()
    parts = (
        study.model.name,
        dataset(study.data.train),
        count(len(study.conditions), "condition"),
        count(len(study.seeds), "seed"),
        count(neurons, "neuron") if neurons else "",
        count(steps, "checkpoint") if steps else "",
    )
    return tuple(part for part in parts if part)


def _no_claims(source: Source) -> str:
    if source.study.claims is None:
        return "This study registers no claims; the figures below describe what was measured."
    return "The claims have not been judged yet. Run “vestige claims” once the measurements are made."


def _missing(source: Source) -> tuple[str, ...]:
    """What a reader must know before anything else: runs that are not there, too few seeds."""
    study, said = source.study, []
    runs = {
        (condition, seed): source.manifests.get((condition, seed))
        for condition in study.conditions
        for seed in study.seeds
    }
    begun = {run: manifest for run, manifest in runs.items() if manifest and manifest.key}
    whole = sum(manifest.complete for manifest in begun.values())
    if whole < len(runs):
        said.append(
            f"{whole} of {count(len(runs), 'training run')} {'is' if whole == 1 else 'are'} complete"
            f" ({len(begun) - whole} unfinished, {len(runs) - len(begun)} not begun)."
        )
    if len(study.seeds) < 3:
        said.append(f"{count(len(study.seeds), 'seed')}: fewer than 3 can support no claim.")
    named = {
        "selectivity": "selectivity",
        "ablation": "single-neuron ablation",
        "cumulative": "cumulative ablation",
        "linearity": "linearity",
        "history": "accuracy",
    }
    absent = [name for kind, name in named.items() if source.table(kind).is_empty()]
    said += [f"There is no table of {name}." for name in absent]
    return tuple(said)


def _file_names(figure: Figure) -> tuple[str, ...]:
    return tuple(view.file for view in figure.views if view.file)


def _remove_former(folder: Path, written: tuple[Path, ...]) -> None:
    """Figures of an earlier report that this one does not have would be taken for its own."""
    for path in folder.iterdir():
        if OURS.fullmatch(path.name) and path not in written:
            path.unlink()
