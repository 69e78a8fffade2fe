"""The figures for the page: plain data for plotly, coloured in the browser for a light or a dark ground."""

import html
from typing import Any

from vestige.report.panels import Band, Figure, Heat, Interval, Key, Mark, Panel, Points, StepScale, View
from vestige.report.style import DIVERGING, MARKERS, number

_LOOKS = {
    "mean": {"mode": "lines+markers", "width": 2.25, "alpha": 1.0},
    "seed": {"mode": "lines", "width": 0.8, "alpha": 0.35},
    "anchor": {"mode": "lines", "width": 1.4, "alpha": 0.6},
}


def figure_data(figure: Figure, scale: StepScale) -> list[list[dict[str, Any]]]:
    """For every view, for every panel: `{"data": [...], "layout": {...}}`; each trace's `meta` holds its "
    "colour."""
    return [[_panel(panel, view, scale) for panel in view.panels if panel.marks] for view in figure.views]


def _panel(panel: Panel, view: View, scale: StepScale) -> dict[str, Any]:
    keys = {key.name: key for key in view.keys}
    data = [trace for mark in panel.marks for trace in _traces(mark, keys, panel, scale)]
    layout: dict[str, Any] = {
        "xaxis": _axis(panel, "x", scale),
        "yaxis": _axis(panel, "y", scale),
        "shapes": _shapes(panel, scale),
        "annotations": [_level_name(level, name) for level, name in panel.levels if name],
    }
    return {"data": data, "layout": layout}


def _level_name(level: float, name: str) -> dict[str, Any]:
    place = {"x": 1, "xref": "paper", "xanchor": "right", "y": level, "yref": "y", "yanchor": "bottom"}
    return {"text": _plain(name), **place, "showarrow": False, "font": {"size": 11}}


def _traces(mark: Mark, keys: dict[str, Key], panel: Panel, scale: StepScale) -> list[dict[str, Any]]:
    key = keys.get(mark.key, Key(mark.key, 0))
    steps = panel.x.kind == "steps"
    if isinstance(mark, Interval):
        return _interval(mark, key)
    if isinstance(mark, Band):
        return _band(mark, key, scale)
    if isinstance(mark, Heat):
        return [_heat(mark)]
    x = [round(scale(value), 4) for value in mark.x] if steps else [_short(value) for value in mark.x]
    base = {
        "type": "scatter",
        "x": x,
        "y": [_short(value) for value in mark.y],
        "legendgroup": mark.key,
        "showlegend": False,
    }
    named = panel.y.kind == "names"  # the texts say it all
    shown = "" if named else "%{y:.1%}" if panel.y.percent else "%{y:.4~g}"
    if isinstance(mark, Points):
        texts = [_plain(text) for text in mark.texts] or [""] * len(x)
        look = {"size": 11, "opacity": 1, "line": {"width": 1.5}} if mark.big else {"size": 4.5, "opacity": 0.5}
        look |= {"symbol": MARKERS[key.dash][0]}
        where = "" if panel.x.kind == "names" else "<br>%{x:.4~g}, "
        hover = f"<b>{_plain(mark.key)}</b><br>%{{text}}{where or '<br>'}{shown}<extra></extra>"
        return [
            base
            | {
                "mode": "markers",
                "marker": look,
                "text": texts,
                "hovertemplate": hover,
                "meta": {"slot": key.slot},
            }
        ]
    look = _LOOKS[mark.weight]
    dash = {"mean": key.dash, "anchor": "dot", "seed": "solid"}[mark.weight]
    line = {"width": look["width"], "dash": dash}
    trace = base | {"mode": look["mode"], "line": line, "opacity": look["alpha"], "meta": {"slot": key.slot}}
    if mark.weight == "seed" or named:
        return [trace | {"hoverinfo": "skip"}]
    where = "step %{customdata}<br>" if steps else "%{x:.4~g}<br>"
    hover = f"<b>{_plain(mark.key)}</b> {shown}<br>{where}{_plain(mark.note)}<extra></extra>"
    return [
        trace
        | {
            "customdata": [int(value) for value in mark.x] if steps else None,
            "hovertemplate": hover,
            "marker": {"size": 4.5},
        }
    ]


def _band(mark: Band, key: Key, scale: StepScale) -> list[dict[str, Any]]:
    x = [round(scale(step), 4) for step in mark.x]
    base = {
        "type": "scatter",
        "x": x,
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "legendgroup": mark.key,
        "showlegend": False,
    }
    low = base | {"y": [_short(value) for value in mark.low], "meta": {"slot": key.slot}}
    high = base | {
        "y": [_short(value) for value in mark.high],
        "fill": "tonexty",
        "meta": {"slot": key.slot, "fill": 0.14},
    }
    return [low, high]


def _heat(mark: Heat) -> dict[str, Any]:
    shown = [["" if value is None else number(value) for value in row] for row in mark.values]
    return {
        "type": "heatmap",
        "z": [[_short(value) for value in row] for row in mark.values],
        "text": shown,
        "texttemplate": "%{text}",
        "customdata": [[_plain(text) for text in row] for row in mark.texts],
        "hovertemplate": f"<b>%{{customdata}}</b><br>{_plain(mark.key)} %{{z:.3~g}}<extra></extra>",
        "colorscale": [[place, colour] for place, colour in zip((0, 0.5, 1), DIVERGING, strict=True)],
        "zmin": _short(-mark.reach),
        "zmax": _short(mark.reach),
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "meta": {"slot": 0},
    }


def _interval(mark: Interval, key: Key) -> list[dict[str, Any]]:
    ends = f"[{number(mark.low)}, {number(mark.high)}]"
    said = f"{number(mark.estimate)} {ends}, smallest effect {number(mark.smallest)}"
    hover = f"<b>{_plain(mark.text)}</b><br>{said}<br>{_plain(mark.verdict)}<extra></extra>"
    base = {"type": "scatter", "legendgroup": mark.key, "showlegend": False, "mode": "lines"}
    plain, coloured = {"meta": {"slot": 0}}, {"meta": {"slot": key.slot}}
    values = [_short(value) for value in mark.values if value is not None]
    dots = {
        "mode": "markers",
        "marker": {"size": 5, "opacity": 0.6},
        "hovertemplate": "one seed: %{x:.3~g}<extra></extra>",
    }
    traces = [base | plain | dots | {"x": values, "y": [mark.y + 0.24] * len(values)}]
    if mark.smallest is not None:
        tick = {
            "x": [mark.smallest] * 2,
            "y": [mark.y - 0.28, mark.y + 0.28],
            "line": {"width": 1.5, "dash": "dot"},
        }
        traces.append(base | plain | tick | {"hoverinfo": "skip", "opacity": 0.7})
    if mark.low is not None and mark.high is not None:
        bar = {"x": [mark.low, mark.high], "y": [mark.y] * 2, "line": {"width": 3}}
        traces.append(base | coloured | bar | {"hoverinfo": "skip"})
    look = {"size": 12, "symbol": "diamond", "line": {"width": 1.5}}
    diamond = {"x": [mark.estimate], "y": [mark.y], "mode": "markers", "marker": look, "hovertemplate": hover}
    return [*traces, base | coloured | diamond]


def _axis(panel: Panel, which: str, scale: StepScale) -> dict[str, Any]:
    axis = panel.x if which == "x" else panel.y
    if axis.kind == "steps":
        ticks = scale.ticks()
        return {
            "tickvals": [round(scale(step), 4) for step in ticks],
            "ticktext": [f"{step:,}".replace(",", "\u202f") for step in ticks],
            "range": [-0.08, round(scale(scale.last) + 0.08, 4)],
            "title": {"text": "step"},
        }
    if axis.kind == "names":
        ends = [-0.6, len(axis.names) - 0.4]
        return {
            "tickvals": list(range(len(axis.names))),
            "ticktext": [_plain(name) for name in axis.names],
            "range": ends if which == "x" else ends[::-1],
            "showgrid": False,
            **({"tickangle": -35} if which == "x" else {}),
        }
    dressed: dict[str, Any] = {"title": {"text": _plain(axis.label)}} if axis.label else {}
    if axis.percent:
        dressed["tickformat"] = ".0%"
    if axis.floor is not None and axis.ceiling is not None:
        dressed["range"] = [_short(axis.floor), _short(axis.ceiling)]
    elif axis.floor is not None:
        dressed["rangemode"] = "tozero" if axis.floor == 0 else "normal"
    return dressed


def _shapes(panel: Panel, scale: StepScale) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    if panel.shade and panel.x.kind == "steps":
        left, right = (round(scale(step), 4) for step in panel.shade)
        shapes.append(
            {
                "type": "rect",
                "x0": left,
                "x1": right,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "layer": "below",
                "line": {"width": 0},
            }
        )
    for level, _ in panel.levels:
        across, along = ("x", "y") if panel.y.kind == "names" else ("y", "x")
        place = {
            f"{across}0": level,
            f"{across}1": level,
            f"{along}0": 0,
            f"{along}1": 1,
            f"{along}ref": "paper",
        }
        shapes.append({"type": "line", "layer": "below", "line": {"width": 1}, **place})
    return shapes


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _plain(text: str) -> str:
    """Text as plotly must have it: what looks like markup is shown, not obeyed."""
    return html.escape(text, quote=False)
