"""Figures for a paper: which are written, how wide, and that everything on them can be read."""

import re

import pytest
from made_up_report import made_up_study

from vestige.errors import ConfigError, StoreError
from vestige.report.figures import Source, build_figures
from vestige.report.paper import STYLE, WIDTHS, choose, draw, write_figures


@pytest.fixture(scope="module")
def source(study, tables, claims, manifests):
    return Source(study, tables, claims, manifests)


@pytest.fixture(scope="module")
def figures(source):
    return build_figures(source)


def files(chosen) -> list[str]:
    return [view.file for figure in chosen for view in figure.views]


def test_figures_are_chosen_by_name_or_by_file_in_any_case(figures):
    assert files(choose(figures, ["f1"])) == ["F1-selectivity", "F1-conditions"]
    assert files(choose(figures, ["F4", "F1-Conditions"])) == ["F1-conditions", "F4-causality"]
    everything = files(choose(figures, []))
    assert {"F1-selectivity", "F2-ablation", "F3-linearity", "F4-causality", "F6-mediators", "accuracy"} <= set(
        everything
    )
    assert all(everything)


def test_a_figure_that_there_is_not_is_answered_with_those_that_there_are(figures):
    with pytest.raises(ConfigError, match=r"this study has no figure 'F9'\. Choose of F1, F2, F2b, F2c, F3, F4"):
        choose(figures, ["F1", "F9"])
    with pytest.raises(ConfigError, match=r"no figure 'acuracy'\. Did you mean 'accuracy'\?"):
        choose(figures, ["acuracy"])
    with pytest.raises(ConfigError, match=r"no figure 'F5'"):
        choose(figures, ["F5"])


def test_a_figure_without_its_tables_says_what_is_missing(study):
    bare = build_figures(Source(study, {}, None, {}))
    with pytest.raises(StoreError, match=r"drawing figure F2 \(Ablation through training\): There is no cumulative"):
        choose(bare, ["F2"])
    with pytest.raises(StoreError, match="Claim C4 has not been judged yet"):
        choose(bare, ["F4"])
    assert choose(bare, []) == ()


def test_a_study_with_a_grid_has_its_heat_map_in_both_widths(tables, claims, manifests):
    grid = {
        "name": "g",
        "intervention": {"kind": "selectivity"},
        "onset": [0, 32],
        "length": [12],
        "dose": [-1, -20],
    }
    study = made_up_study((0, 1, 2), grid=grid)
    chosen = {figure.id for figure in build_figures(Source(study, {}, None, {}))}
    assert "F5" in chosen


@pytest.mark.parametrize("columns", [1, 2])
def test_a_sheet_is_as_wide_as_its_columns_and_holds_all_its_text(figures, source, columns):
    import matplotlib as mpl
    from matplotlib.text import Text

    for view in (view for figure in choose(figures, ["F2c", "F4"]) for view in figure.views):
        with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):
            sheet = draw(view, source.scale, columns)
            width, height = sheet.get_size_inches() * sheet.dpi
            texts = [one for one in sheet.findobj(Text) if one.get_visible() and re.search("[a-z]", one.get_text())]
            boxes = [(one.get_text(), one.get_window_extent()) for one in texts]  # ticks out of sight have numbers
        assert sheet.get_size_inches()[0] == WIDTHS[columns]
        assert sheet.get_size_inches()[1] <= 9
        assert len(boxes) > 4
        assert not [text for text, box in boxes if box.x0 < -1 or box.x1 > width + 1]
        assert not [text for text, box in boxes if box.y0 < -1 or box.y1 > height + 1]


def test_both_widths_are_written_beside_each_other_with_their_fonts(figures, source, tmp_path):
    paths = write_figures(tmp_path, choose(figures, ["F4"]), source.scale, (1, 2))
    assert [path.name for path in paths] == [
        "F4-causality-1col.pdf", "F4-causality-1col.png", "F4-causality.pdf", "F4-causality.png",
    ]  # fmt: skip
    for path in paths[::2]:
        content = path.read_bytes()
        assert b"/FontFile2" in content
        assert b"/Type3" not in content
        assert len(content) < 60_000
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", paths[0].read_bytes())
    assert box
    assert float(box[1]) == pytest.approx(72 * WIDTHS[1])
