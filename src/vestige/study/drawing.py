"""Some figures of a study for a paper, without its page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.runs.store import wait_lock

if TYPE_CHECKING:
    from vestige.study.study import Study


def draw_figures(study: "Study", names: Sequence[str] = (), columns: Sequence[int] = (1, 2)) -> tuple[Path, ...]:
    """Write figures for a paper from the tables that are there, into `report/figures/`.

    The claims are judged first where their tables changed, since some figures show verdicts.

    Args:
      study: the study.
      names: of figures (`F1`) or of single files (`F1-conditions`); none: all that there are.
      columns: widths, of a page's one column (1), of both (2).

    Returns:
      The files, a PDF and a PNG each.

    Raises:
      ConfigError: the study has no such figure.
      StoreError: nothing of the study is trained; a figure has nothing to draw; the folder cannot be written.
    """
    from vestige.report.figures import Source, build_figures
    from vestige.report.paper import choose, write_figures
    from vestige.study.results import gather, read_manifests

    claims = study.run(parts=("claims",)).claims
    plan = study.plan()
    assert plan is not None, "it has just been judged"
    tables, manifests = gather(plan, study.folder), read_manifests(plan, study.folder)
    source = Source(study.config, tables, claims, manifests, (claims or {}).get("classes"))
    figures = choose(build_figures(source), names)
    with wait_lock(study.folder.lock("report")):
        return write_figures(study.folder.report / "figures", figures, source.scale, columns)
