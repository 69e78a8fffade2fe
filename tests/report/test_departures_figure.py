"""F7: the table of departures and the figure of the verdicts that they change, from hand-made records."""

import pytest

from vestige.report.figures import Source, build_figures
from vestige.report.interactive import figure_data
from vestige.report.panels import Curve, Points, StepScale
from vestige.report.paper import write_figures
from vestige.report.rendering import environment


def side(verdict, estimate=0.1, n=5):
    measured = verdict != "not measured"
    numbers = {"estimate": estimate, "low": estimate - 0.05, "high": estimate + 0.05, "upper": None}
    return {"statistic": "x", **(numbers if measured else dict.fromkeys(numbers)), "n": n, "verdict": verdict}


def record(name, claim, verdicts, clauses, **other):
    """`clauses`: by id, the verdicts before and after."""
    pairs = {id_: (a, b, None if "not measured" in (a, b) else a != b) for id_, (a, b) in clauses.items()}
    changes = [changes for _, _, changes in pairs.values()]
    return {
        "id": name.replace(" ", "-"), "claim": claim, "title": name, "released": f"does {name}",
        "corrected": "does not", "against": "corrected", "note": "", "verdicts": list(verdicts),
        "changes": None if all(c is None for c in changes) else any(changes),
        "clauses": [
            {"id": id_, "unit": "share", "direction": "at least", "smallest_effect": 0.2, "reference": side(a),
             "departed": side(b, 0.3, 40), "changes": changes, "note": ""}
            for id_, (a, b, changes) in pairs.items()
        ],
        **other,
    }  # fmt: skip


RECORDS = [
    record("raw csi", "C1", ("inconclusive", "supported"), {"C1.rise": ("inconclusive", "supported")}),
    record(
        "own peak", "C1", ("inconclusive", "inconclusive"),
        {"C1.rise": ("inconclusive", "inconclusive"), "C1.fall": ("not supported", "supported")},
    ),
    record(
        "same images", "C2", ("supported", "not measured"), {"C2.early.zero": ("supported", "not measured")},
        note="not measured: add same-images to measurements.cumulative.protocols and run `vestige run`",
    ),
    record(
        "control redrawn", "C2", ("supported", "supported"), {"C2.early.zero": ("supported", "supported")},
        against="a random control in fixed orders",
    ),
]  # fmt: skip


@pytest.fixture
def judged(claims):
    return claims | {"departures": RECORDS}


@pytest.fixture
def figure(study, tables, judged):
    return {one.id: one for one in build_figures(Source(study, tables, judged, {}))}["F7"]


def test_a_row_for_each_departure_also_those_not_measured(figure):
    rows = {row[0]: row[1:] for row in figure.table.rows}
    assert list(rows) == ["raw csi", "own peak", "same images", "control redrawn"]
    assert rows["raw csi"] == (
        "C1", "does raw csi", "inconclusive", "supported", "yes", "C1.rise: inconclusive to supported",
    )  # fmt: skip
    assert rows["own peak"][2:] == ("inconclusive", "inconclusive", "yes", "C1.fall: not supported to supported")
    assert rows["same images"][3:] == ("not measured", "–", RECORDS[2]["note"])
    assert rows["control redrawn"][1] == "does control redrawn (against a random control in fixed orders)"
    assert rows["control redrawn"][4:] == ("no", "none")
    assert figure.missing == (f"C2 · same images: {RECORDS[2]['note']}.",)


def test_verdicts_stand_on_a_scale_and_a_line_joins_those_that_differ(figure):
    (panel,) = figure.views[0].panels
    assert panel.x.names == ("inconclusive", "supported")
    assert panel.y.names == ("C1 · raw csi", "C1 · own peak", "C2 · control redrawn")
    before, after = (mark for mark in panel.marks if isinstance(mark, Points))
    assert (list(before.x), list(after.x)) == ([0, 0, 1], [1, 0, 1])
    assert list(after.y) == pytest.approx([0, 1, 2], abs=0.3)
    (line,) = (mark for mark in panel.marks if isinstance(mark, Curve))
    assert tuple(line.x) == (0, 1)


def test_clauses_have_views_of_their_own_with_numbers(figure):
    views = {view.name: view.panels[0] for view in figure.views}
    assert list(views) == ["claims", "clauses of C1", "clauses of C2"]
    panel = views["clauses of C1"]
    assert panel.y.names == ("C1.rise · raw csi", "C1.rise · own peak", "C1.fall · own peak")
    assert panel.x.names == ("not supported", "inconclusive", "supported")
    assert panel.table.rows[2] == (
        "C1.fall", "own peak", "share", 0.2, "0.100 [0.0500, 0.150]", 5, "0.300 [0.250, 0.350]", 40,
        "not supported", "supported",
    )  # fmt: skip


def test_it_stands_on_the_page_and_on_paper(figure, tmp_path):
    section = environment().get_template("figure.html.j2").render(figure=figure, files=("F7-departures",))
    table = section[section.index("<table") : section.index("</table>")]
    assert "Faithful against corrected" in section
    assert section.index("<table") < section.index("<figure") < section.index("<details")
    assert "<td>C1.rise: inconclusive to supported</td>" in table
    assert "add same-images to measurements.cumulative.protocols" in table
    assert 'data-rows="1.5"' in section  # rows half as high
    paths = write_figures(tmp_path, (figure,), StepScale.of([1]))
    assert [path.name for path in paths] == ["F7-departures.pdf", "F7-departures.png"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_plotly_knows_it_and_shows_no_coordinates(figure, study, tables, judged):
    from plotly import graph_objects

    source = Source(study, tables, judged, {})
    for panels in figure_data(figure, source.scale):
        for panel in panels:
            drawn = graph_objects.Figure(data=panel["data"], layout=panel["layout"])
            assert len(list(drawn.data)) == len(panel["data"])  # pyright: ignore[reportArgumentType]
            assert not [trace for trace in panel["data"] if "%{y" in trace.get("hovertemplate", "")]


def test_a_study_without_departures_has_no_figure(study, tables, claims):
    assert "F7" not in [one.id for one in build_figures(Source(study, tables, claims, {}))]


def test_where_nothing_is_measured_the_table_says_why(study, tables, claims):
    source = Source(study, tables, claims | {"departures": RECORDS[2:3]}, {})
    figure = {one.id: one for one in build_figures(source)}["F7"]
    assert not figure.shown
    assert figure.table is not None
    assert len(figure.table.rows) == 1
