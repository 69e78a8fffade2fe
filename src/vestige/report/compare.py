"""Two studies side by side: one page that opens offline, from their tables and verdicts."""

from pathlib import Path

from vestige.report.compare_figures import comparison_figures, shared_scale
from vestige.report.compare_settings import Rows, made_differently, setting_rows
from vestige.report.compare_side import Side
from vestige.report.compare_verdicts import pair_claims, summary
from vestige.report.interactive import figure_data
from vestige.report.making import dataset
from vestige.report.rendering import environment, plotly_source
from vestige.report.style import DARK, LIGHT, count, names
from vestige.runs.store import write_text


def write_comparison(folder: Path, a: Side, b: Side) -> Path:
    """Write the page. The same tables, verdicts and manifests give the same bytes.

    Args:
      folder: to write in.
      a: the study on the left.
      b: the one on the right.

    Returns:
      The path of `index.html`.

    Raises:
      StoreError: the folder cannot be written.
    """
    write_text(folder / "index.html", render_comparison(a, b))
    return folder / "index.html"


def render_comparison(a: Side, b: Side) -> str:
    """The page as HTML, everything it needs within it."""
    figures, scale = comparison_figures(a, b), shared_scale(a, b)
    claims, settings = pair_claims(a, b), setting_rows(a, b)
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            sides=(a, b),
            facts=[_facts(side) for side in (a, b)],
            glance=[*summary(claims), _of_settings(settings)],
            missing=[*a.state(), *b.state()],
            claims=claims,
            figures=[(figure, ()) for figure in figures],
            settings=settings,
            made=made_differently(a, b),
            data={figure.id: figure_data(figure, scale) for figure in figures if figure.shown},
            light=LIGHT,
            dark=DARK,
            plotly=plotly_source(),
        )
    )


def _facts(side: Side) -> tuple[str, ...]:
    study = side.study
    return (
        study.model.name,
        dataset(study.data.train),
        count(study.recipe.epochs, "epoch"),
        count(len(study.conditions), "condition"),
        f"{count(len(study.seeds), 'seed')}: {names([str(seed) for seed in study.seeds])}",
        f"folder {side.folder}",
    )


def _of_settings(rows: Rows) -> str:
    if not rows:
        return "No setting differs."
    fields = names([field for field, *_ in rows], 6)
    return f"{count(len(rows), 'setting')} {'differs' if len(rows) == 1 else 'differ'}: {fields}."
