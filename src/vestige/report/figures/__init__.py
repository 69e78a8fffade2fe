"""The figures of a study, from its tables: what each shows, and what it cannot show and why."""

from vestige.report.figures.ablation import ablation, single_neurons
from vestige.report.figures.accuracy import accuracy
from vestige.report.figures.causality import causality
from vestige.report.figures.departures import departures
from vestige.report.figures.importance import importance
from vestige.report.figures.linearity import linearity
from vestige.report.figures.mediators import mediators
from vestige.report.figures.selectivity import selectivity
from vestige.report.figures.source import Source
from vestige.report.figures.timing import timing
from vestige.report.panels import Figure

__all__ = ["Source", "build_figures"]

_FIGURES = (selectivity, ablation, single_neurons, importance, linearity, causality, mediators, accuracy)


def build_figures(source: Source) -> tuple[Figure, ...]:
    """All figures, in the order of the page."""
    figures = list(_FIGURES)
    if source.study.grid is not None:
        figures.insert(figures.index(mediators), timing)
    if (source.claims or {}).get("departures"):
        figures.insert(figures.index(accuracy), departures)
    return tuple(figure(source) for figure in figures)
