"""The figures for a paper: PDF with embedded fonts and PNG, the same bytes from the same tables."""

import io
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from vestige.report.panels import Band, Curve, Figure, Heat, Interval, Key, Panel, Points, StepScale, View
from vestige.report.style import DIVERGING, LIGHT, MARKERS, MPL_DASHES, number
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
_MUTED = "#57606a"
_SHADE = "#eaedf0"
_HEIGHT = 2.05  # inches of a panel
_WIDTHS = {1: 5.8, 2: 5.8, 3: 7.2}  # inches of a sheet, by its columns


def write_figures(folder: Path, figures: tuple[Figure, ...], scale: StepScale) -> tuple[Path, ...]:
    """Write the views that have a name on paper as PDF and PNG; a file of the same bytes is left alone.

    Returns:
      The files, whether or not they had to be written.
    """
    import matplotlib as mpl

    paths = []
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):  # pyright: ignore[reportArgumentType]
        for view in (view for figure in figures for view in figure.views if view.file):
            sheet = draw(view, scale)
            for kind, content in (("pdf", _pdf(sheet)), ("png", _png(sheet))):
                paths.append(folder / f"{view.file}.{kind}")
                _write(paths[-1], content)
    return tuple(paths)


def draw(view: View, scale: StepScale) -> "Sheet":
    """Draw a view: its panels in up to two columns, one legend below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    panels = [panel for panel in view.panels if panel.marks] or list(view.panels[:1])
    columns = len(panels) if len(panels) <= 3 else 2
    rows = -(-len(panels) // columns)
    height = max(_height(panel) for panel in panels)
    width = _WIDTHS[columns]
    entries = [key.name for key in view.keys] + ["early window"] * any(panel.shade for panel in panels)
    across = _columns(entries, width)
    legend = 0.1 + 0.17 * -(-len(entries) // across)
    sheet = Sheet(figsize=(width, height * rows + legend), layout="constrained")
    FigureCanvasAgg(sheet)
    slots = {key.name: key for key in view.keys}
    for place, panel in enumerate(panels, start=1):
        axes = sheet.add_subplot(rows, columns, place)
        _draw_panel(axes, panel, slots, scale, last_row=place > len(panels) - columns)
    if view.keys:
        handles = [_handle(key, panels) for key in view.keys] + _early(panels)
        sheet.legend(handles=_by_rows(handles, across), loc="outside lower left", ncols=across, handlelength=2.2)
    sheet.draw_without_rendering()
    sheet.set_layout_engine("none")  # laid out once, for both files
    return sheet


def _columns(entries: list[str], width: float) -> int:
    longest = max((len(entry) for entry in entries), default=1)
    return max(1, min(len(entries), int(width / (0.55 + 0.06 * longest))))


def _by_rows(handles: list[Any], columns: int) -> list[Any]:
    """Matplotlib fills a legend column by column; readers read rows."""
    order = sorted(range(len(handles)), key=lambda place: (place % columns, place // columns))
    return [handles[place] for place in order]


def _height(panel: Panel) -> float:
    if panel.y.kind == "names":
        return 0.75 + 0.42 * len(panel.y.names)
    return _HEIGHT + (0.35 if panel.x.kind == "names" else 0)


def _draw_panel(axes: "Axes", panel: Panel, keys: dict[str, Key], scale: StepScale, *, last_row: bool) -> None:
    axes.set_title(panel.title + ("\n" if panel.subtitle else ""))
    if panel.subtitle:
        axes.annotate(
            panel.subtitle, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points",
            color=_MUTED, fontsize=6,
        ).set_in_layout(False)  # fmt: skip
    if panel.shade and panel.x.kind == "steps":
        axes.axvspan(scale(panel.shade[0]), scale(panel.shade[1]), color=_SHADE, zorder=0, linewidth=0)
    for level, name in panel.levels:
        (axes.axvline if panel.y.kind == "names" else axes.axhline)(level, color="#8b949e", linewidth=0.8, zorder=1)
        if name:
            axes.annotate(
                name, (1, level), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", color=_MUTED, fontsize=6.5,
            )  # fmt: skip
    for mark in panel.marks:
        _draw_mark(axes, mark, keys, scale if panel.x.kind == "steps" else None)
    _dress_axes(axes, panel, scale, last_row=last_row)


def _draw_mark(
    axes: "Axes", mark: Curve | Band | Points | Interval | Heat, keys: dict[str, Key], scale: StepScale | None
) -> None:
    key = keys.get(mark.key, Key(mark.key, 0))
    colour = LIGHT[key.slot]
    if isinstance(mark, Interval):
        _draw_interval(axes, mark, colour)
        return
    if isinstance(mark, Heat):
        _draw_heat(axes, mark)
        return
    x = [scale(step) for step in mark.x] if scale else list(mark.x)
    if isinstance(mark, Band):
        axes.fill_between(x, _gaps(mark.low), _gaps(mark.high), color=colour, alpha=0.13, linewidth=0, zorder=1)
    elif isinstance(mark, Points):
        size = (
            {"s": 26, "linewidths": 0.8, "edgecolors": "white"}
            if mark.big
            else {"s": 5, "linewidths": 0, "alpha": 0.45}
        )
        axes.scatter(x, _gaps(mark.y), color=colour, marker=MARKERS[key.dash][1], zorder=4 if mark.big else 2, **size)
    else:
        look: dict[str, Any] = {
            "mean": {
                "linewidth": 1.5,
                "marker": "o",
                "markersize": 2,
                "linestyle": MPL_DASHES[key.dash],
                "zorder": 4,
            },
            "seed": {"linewidth": 0.5, "alpha": 0.4, "zorder": 2},
            "anchor": {"linewidth": 1, "linestyle": MPL_DASHES["dot"], "alpha": 0.65, "zorder": 3},
        }[mark.weight]
        axes.plot(x, _gaps(mark.y), color=colour, **look)


def _draw_heat(axes: "Axes", mark: Heat) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("harm", DIVERGING)
    rows = [_gaps(row) for row in mark.values]
    axes.imshow(rows, cmap=colours, vmin=-mark.reach, vmax=mark.reach, aspect="auto", zorder=2)
    for y, row in enumerate(mark.values):
        for x, value in enumerate(row):
            if value is not None:
                axes.text(x, y, number(value), ha="center", va="center", fontsize=6.5, color="#1f2328", zorder=3)


def _draw_interval(axes: "Axes", mark: Interval, colour: str) -> None:
    values = [value for value in mark.values if value is not None]
    axes.scatter(values, [mark.y + 0.24] * len(values), s=6, color=_MUTED, alpha=0.7, linewidths=0, zorder=3)
    if mark.low is not None and mark.high is not None:
        axes.plot([mark.low, mark.high], [mark.y] * 2, color=colour, linewidth=1.6, zorder=3)
    if mark.smallest is not None:
        axes.plot(
            [mark.smallest] * 2,
            [mark.y - 0.25, mark.y + 0.25],
            color=_MUTED,
            linewidth=1,
            linestyle=(0, (2, 1)),
            zorder=2,
        )
    if mark.estimate is not None:
        axes.plot([mark.estimate], [mark.y], "D", color=colour, markersize=5, markeredgecolor="white", zorder=4)


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
    if y.kind == "names":
        axes.set_yticks(range(len(y.names)), [fill(name, 30) for name in y.names])
        axes.set_ylim(len(y.names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
    if y.percent:
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.6g}%")
    if y.floor is not None and panel.marks:
        low, high = axes.get_ylim()
        bottom = min(low, y.floor) if low < y.floor - 0.1 * (high - low) else y.floor
        axes.set_ylim(bottom, high + 0.04 * (high - bottom))
    if x.floor is not None and panel.marks:
        axes.set_xlim(left=x.floor)


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


def _gaps(values: Any) -> list[float]:
    return [float("nan") if value is None else value for value in values]


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
