"""The figures for a paper: PDF with embedded fonts and PNG, the same bytes from the same tables.

A sheet is as wide as both columns of a page, or as one: `F1-selectivity.pdf`, `F1-selectivity-1col.pdf`. Printed at
their own size the letters are 6 to 8.5 points high.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from vestige.errors import ConfigError, StoreError, nearest
from vestige.report.panels import Curve, Figure, Heat, Interval, Key, Panel, Points, StepScale, View
from vestige.report.paper_marks import MUTED, draw_mark
from vestige.report.style import LIGHT, MARKERS, MPL_DASHES
from vestige.runs.store import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.titlecolor": LIGHT[0],
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#57606a",
    "axes.labelcolor": LIGHT[0],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.5,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "vestige",
    "figure.dpi": 200,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
}
_SHADE = "#eaedf0"
WIDTHS = {1: 3.25, 2: 6.75}
"""Inches of a sheet by the columns it fills: no wider than those of ICML, CVPR, IEEE and Nature."""
_ENDINGS = {1: "-1col", 2: ""}
_HEIGHTS = {1: 1.75, 2: 2.05}
"""Inches of a panel, by the columns of its sheet."""
_TALLEST = 8.8


def choose(figures: Sequence[Figure], names: Sequence[str]) -> tuple[Figure, ...]:
    """The figures that were asked for, each with the views that have a name on paper.

    Args:
      figures: those of a study.
      names: of figures (`F1`) or of single files (`F1-conditions`), in upper or lower case; none: all that there are.

    Raises:
      ConfigError: the study has no such figure.
      StoreError: it has, and nothing to draw in it yet.
    """
    known = {name.lower(): name for one in figures for name in (one.id, *(v.file for v in one.views if v.file))}
    wanted = {name.lower() for name in names}
    for name in names:
        if name.lower() not in known:
            ids = ", ".join(one.id for one in figures)
            close = nearest(name, known.values()) if len(name) > 3 else f"Choose of {ids}"
            raise ConfigError("drawing figures for a paper", found=f"this study has no figure {name!r}", remedy=close)
    chosen = []
    for one in figures:
        whole = not wanted or one.id.lower() in wanted
        views = tuple(view for view in one.views if view.file and (whole or view.file.lower() in wanted))
        if one.id.lower() in wanted and not views:
            raise StoreError(
                f"drawing figure {one.id} ({one.title})",
                found=" ".join(one.missing).rstrip(".") or "there is nothing in it to draw",
                remedy="Make what is missing with `vestige run`, or leave this figure out",
            )
        chosen += [replace(one, views=views)] * bool(views)
    return tuple(chosen)


def write_figures(
    folder: Path, figures: Sequence[Figure], scale: StepScale, columns: Sequence[int] = (2,)
) -> tuple[Path, ...]:
    """Write the views that have a name on paper as PDF and PNG; a file of the same bytes is left alone.

    Args:
      folder: to write in.
      figures: see `choose`.
      scale: of the steps.
      columns: widths to draw each in, of `WIDTHS`.

    Returns:
      The files, whether or not they had to be written.
    """
    import matplotlib as mpl

    paths = []
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):  # pyright: ignore[reportArgumentType]
        for view in (view for figure in figures for view in figure.views if view.file):
            for width in columns:
                sheet = draw(view, scale, width)
                for kind, content in (("pdf", _pdf(sheet)), ("png", _png(sheet))):
                    paths.append(folder / f"{view.file}{_ENDINGS[width]}.{kind}")
                    _write(paths[-1], content)
    return tuple(paths)


def draw(view: View, scale: StepScale, columns: int = 2) -> "Sheet":
    """Draw a view for a page's one column or both: its panels below or beside each other, one legend below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    panels = [panel for panel in view.panels if panel.marks] or list(view.panels[:1])
    beside = 1 if columns == 1 else len(panels) if len(panels) <= 3 else 2
    rows = -(-len(panels) // beside)
    width = WIDTHS[columns]
    entries = [key.name for key in view.keys] + ["early window"] * any(panel.shade for panel in panels)
    across = _columns(entries, width)
    legend = 0.1 + 0.17 * -(-len(entries) // across)
    height = min(max(_height(panel, columns) for panel in panels), (_TALLEST - legend) / rows)
    sheet = Sheet(figsize=(width, height * rows + legend), layout="constrained")
    FigureCanvasAgg(sheet)
    slots = {key.name: key for key in view.keys}
    for place, panel in enumerate(panels, start=1):
        axes = sheet.add_subplot(rows, beside, place)
        _draw_panel(axes, panel, slots, scale, last_row=place > len(panels) - beside, width=width / beside)
    if view.keys:
        handles = [_handle(key, panels) for key in view.keys] + _early(panels)
        sheet.legend(
            handles=_by_rows(handles, across), loc="outside lower left", ncols=across, handlelength=2, columnspacing=1.2
        )
    sheet.draw_without_rendering()
    sheet.set_layout_engine("none")  # laid out once, for both files
    return sheet


def _columns(entries: list[str], width: float) -> int:
    """How many entries of a legend fit beside each other."""
    longest = max((_inches(entry, STYLE["legend.fontsize"]) for entry in entries), default=1)
    return max(1, min(len(entries), int((width - 0.05) / (longest + 0.45))))


def _inches(text: str, size: float) -> float:
    """How wide a text of this size (points) is, in inches."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text.strip() else 0.0


def _wrapped(text: str, width: float, size: float) -> str:
    """A text in lines of at most so many inches."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if _inches(longer, size) <= width else [*lines, word]
    return "\n".join(line for line in lines if line)


def _by_rows(handles: list[Any], columns: int) -> list[Any]:
    """Matplotlib fills a legend column by column; readers read rows."""
    order = sorted(range(len(handles)), key=lambda place: (place % columns, place // columns))
    return [handles[place] for place in order]


def _height(panel: Panel, columns: int) -> float:
    if panel.y.kind == "names":
        return 0.75 + (0.42 if not panel.dense else 0.34 if columns == 1 else 0.22) * len(panel.y.names)
    return _HEIGHTS[columns] + (0.35 if panel.x.kind == "names" else 0)


def _draw_panel(
    axes: "Axes", panel: Panel, keys: dict[str, Key], scale: StepScale, *, last_row: bool, width: float
) -> None:
    axes.set_title(_wrapped(panel.title, width - 0.7, STYLE["axes.titlesize"]) + ("\n" if panel.subtitle else ""))
    if panel.subtitle:
        axes.annotate(
            panel.subtitle, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points",
            color=MUTED, fontsize=6,
        ).set_in_layout(False)  # fmt: skip
    if panel.shade and panel.x.kind == "steps":
        axes.axvspan(scale(panel.shade[0]), scale(panel.shade[1]), color=_SHADE, zorder=0, linewidth=0)
    for level, name in panel.levels:
        (axes.axvline if panel.y.kind == "names" else axes.axhline)(level, color="#8b949e", linewidth=0.8, zorder=1)
        if name:
            axes.annotate(
                name, (1, level), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", color=MUTED, fontsize=6.5,
            )  # fmt: skip
    for mark in panel.marks:
        draw_mark(axes, mark, keys, scale if panel.x.kind == "steps" else None)
    _dress_axes(axes, panel, scale, last_row=last_row)
    if panel.x.kind == "linear":
        axes.locator_params(axis="x", nbins=max(3, int(1.5 * width)))
    if panel.y.kind == "names":
        _name_rows(axes, panel, above=width < 4 and not any(isinstance(mark, Heat) for mark in panel.marks))


def _dress_axes(axes: "Axes", panel: Panel, scale: StepScale, *, last_row: bool) -> None:
    from matplotlib.ticker import FixedLocator

    x, y = panel.x, panel.y
    if x.kind == "steps":
        ticks = scale.ticks()
        axes.xaxis.set_major_locator(FixedLocator([scale(step) for step in ticks]))
        axes.set_xticklabels([f"{step:,}".replace(",", "\u202f") for step in ticks])
        axes.set_xlim(-0.06, scale(scale.last) + 0.06)
    elif x.kind == "names":
        axes.set_xticks(range(len(x.names)), x.names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.6, len(x.names) - 0.4)
    axes.set_xlabel(x.label if last_row or x.kind != "steps" else "")
    axes.set_ylabel(y.label)
    if y.percent:
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g}%")
    if y.floor is not None and panel.marks:
        low, high = axes.get_ylim()
        bottom = min(low, y.floor) if low < y.floor - 0.1 * (high - low) else y.floor
        axes.set_ylim(bottom, high + 0.04 * (high - bottom))
    if x.floor is not None and panel.marks:
        axes.set_xlim(left=x.floor)


def _name_rows(axes: "Axes", panel: Panel, *, above: bool) -> None:
    """Names of rows beside them, or where there is no room above them."""
    names = panel.y.names
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(
        range(len(names)), [""] * len(names) if above else [fill(name, 60 if panel.dense else 30) for name in names]
    )
    for row, name in enumerate(names if above else ()):
        axes.annotate(name, (0, row - 0.34), xycoords=("axes fraction", "data"), va="center", fontsize=6.5, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85})  # fmt: skip


def _handle(key: Key, panels: list[Panel]) -> Any:
    from matplotlib.lines import Line2D

    dotted = any(isinstance(mark, Points | Interval) for panel in panels for mark in panel.marks)
    lined = any(isinstance(mark, Curve) for panel in panels for mark in panel.marks)
    return Line2D(
        [], [], color=LIGHT[key.slot], label=key.name, marker=MARKERS[key.dash][1] if dotted else None, markersize=3,
        linestyle=MPL_DASHES[key.dash] if lined or not dotted else "none",
    )  # fmt: skip


def _early(panels: list[Panel]) -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(color=_SHADE, label="early window")] if any(panel.shade for panel in panels) else []


def _pdf(sheet: "Sheet") -> bytes:
    """The sheet as PDF; straight from the canvas, since `savefig` draws everything once more beforehand."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    buffer = io.BytesIO()
    dpi = sheet.dpi
    FigureCanvasPdf(sheet).print_pdf(buffer, metadata=dict.fromkeys(("CreationDate", "Producer", "Creator")))
    sheet.dpi = dpi
    return buffer.getvalue()


def _png(sheet: "Sheet") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(sheet).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    with writing(path) as temporary:
        temporary.write_bytes(content)
