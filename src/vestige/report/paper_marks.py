"""The marks of a panel as matplotlib draws them for a paper."""

from typing import TYPE_CHECKING, Any

from vestige.report.panels import Band, Heat, Interval, Key, Mark, Points, StepScale
from vestige.report.style import DIVERGING, LIGHT, MARKERS, MPL_DASHES, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MUTED = "#57606a"


def draw_mark(axes: "Axes", mark: Mark, keys: dict[str, Key], scale: StepScale | None) -> None:
    """Draw a mark; `scale` places steps, None where the axis is not one of steps."""
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
    axes.scatter(values, [mark.y + 0.24] * len(values), s=6, color=MUTED, alpha=0.7, linewidths=0, zorder=3)
    if mark.low is not None and mark.high is not None:
        axes.plot([mark.low, mark.high], [mark.y] * 2, color=colour, linewidth=1.6, zorder=3)
    if mark.smallest is not None:
        axes.plot(
            [mark.smallest] * 2,
            [mark.y - 0.25, mark.y + 0.25],
            color=MUTED,
            linewidth=1,
            linestyle=(0, (2, 1)),
            zorder=2,
        )
    if mark.estimate is not None:
        axes.plot([mark.estimate], [mark.y], "D", color=colour, markersize=5, markeredgecolor="white", zorder=4)


def _gaps(values: Any) -> list[float]:
    return [float("nan") if value is None else value for value in values]
