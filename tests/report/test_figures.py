import re
import xml.etree.ElementTree as ElementTree
from functools import partial

import pandas as pd
import pytest
from matplotlib.figure import Figure

from rac.report import drawing, figures, style

STYLE = style.styles(["none", "c4", "rac"])


def cells(value="accuracy"):
    rows = [
        ("none", "dense", "none", "", None, 0.9),
        ("c4", "s-0.6", "sparsegpt", "unstructured 0.6", 0.6, 0.1),
        ("c4", "s-0.3", "sparsegpt", "unstructured 0.3", 0.3, 0.7),
        ("rac", "s-0.3", "sparsegpt", "unstructured 0.3", 0.3, 0.8),
        ("rac", "s-0.6", "sparsegpt", "unstructured 0.6", 0.6, 0.4),
        ("rac", "s-2of4", "sparsegpt", "2:4", 0.5, 0.3),
        ("none", "m-0.5", "magnitude", "unstructured 0.5", 0.5, 0.2),
    ]
    keys = ["calibration", "variant", "solver", "pattern", "sparsity_asked", value]
    frame = pd.DataFrame(rows, columns=keys)
    return frame.assign(
        **{f"{value}_low": frame[value] - 0.05, f"{value}_high": frame[value] + 0.1}
    )


def drawn(picture):
    """Label → (points, colour, ends of the error bars) of each series."""
    found = {}
    for container in picture.figure.axes[0].containers:
        line, _, bars = container.lines
        ends = [segment.tolist() for bar in bars for segment in bar.get_segments()]
        found[container.get_label()] = (line.get_xydata().tolist(), line.get_color(), ends)
    return found


def test_a_line_is_what_the_frame_holds():
    lines = drawn(figures.against_sparsity(cells(), "accuracy", "accuracy", STYLE, share=True))
    assert set(lines) == {"c4", "rac"}
    points, colour, bars = lines["c4"]
    assert points == [[0.3, 0.7], [0.6, 0.1]]
    assert colour == "#D55E00"
    assert bars[0] == [[0.3, pytest.approx(0.65)], [0.3, pytest.approx(0.8)]]


def test_what_is_on_no_line_is_a_dot():
    dots = drawn(figures.dots(cells(), "accuracy", "accuracy", STYLE, share=True))
    assert {name: [x for x, _ in points] for name, (points, *_) in dots.items()} == {
        "rac": [0.3],
        "uncalibrated": [0.2],
    }


def test_differences_are_drawn_with_their_intervals():
    row = {"variant": "s", "calibration": "rac", "difference": 0.2, "low": 0.1, "high": 0.4}
    frame = pd.DataFrame([row | {"baseline": "c4"}, row | {"baseline": "prompts", "low": None}])
    figure = figures.differences(frame.assign(high=[0.4, None]), STYLE)
    series = drawn(figure)
    assert set(series) == {"rac − c4", "rac − prompts"}
    (point,), _, (bar,) = series["rac − c4"]
    assert point[0] == 0.2
    assert [x for x, _ in bar] == pytest.approx([0.1, 0.4])
    left, right = figure.figure.axes[0].get_xlim()
    assert left < 0 < 0.4 < right


def test_an_interval_that_rounding_moved_past_its_value_is_drawn():
    frame = cells().assign(accuracy=0.0, accuracy_low=1e-18, accuracy_high=0.1)
    for draw in (figures.against_sparsity, figures.dots):
        for _, _, bars in drawn(draw(frame, "accuracy", "accuracy", STYLE)).values():
            assert min(end for bar in bars for end in bar[0] + bar[1]) <= 0
    below, above = style.bars(frame, "accuracy")
    assert set(below) == {0} and set(above) == {0.1}


def test_points_say_what_they_are():
    picture = figures.against_sparsity(cells(), "accuracy", "accuracy", STYLE, share=True)
    root = ElementTree.fromstring(style.inline(style.svg(picture.figure), "one", "", picture.tips))
    tips = [found.get("data-tip") for found in root.iter() if found.get("data-tip")]
    assert tips[:2] == ["c4, s-0.3: 70.0 % [65.0 %, 80.0 %]", "c4, s-0.6: 10.0 % [5.0 %, 20.0 %]"]
    assert len(tips) == 4


def test_hostile_names_in_tips_stay_text():
    text = '<svg viewBox=\'0\'><g id="tip-0"><use x="1"/></g></svg>'.replace("'", '"')
    said = '"><script>alert(1)</script>'
    root = ElementTree.fromstring(style.inline(text, "one", "", {"tip-0": [said]}))
    assert [found.get("data-tip") for found in root.iter() if found.get("data-tip")] == [said]


def test_a_missing_cell_breaks_its_line_and_is_marked():
    frame = cells()
    frame.loc[frame["variant"] == "s-0.6", ["accuracy", "accuracy_low", "accuracy_high"]] = None
    frame.loc[frame["variant"] == "s-2of4", ["accuracy", "accuracy_low", "accuracy_high"]] = None
    picture = figures.against_sparsity(frame, "accuracy", "accuracy", STYLE, share=True)
    axes = picture.figure.axes[0]
    crosses = [line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert [line.get_xdata().tolist() for line in crosses] == [[0.6], [0.6]]
    assert "missing" in axes.get_legend_handles_labels()[1]
    assert [len(tips) for tips in picture.tips.values()] == [1, 1]
    style.inline(style.svg(picture.figure), "one", "", picture.tips)
    dots = figures.dots(frame, "accuracy", "accuracy", STYLE, share=True)
    assert [len(tips) for tips in dots.tips.values()] == [0, 1]
    style.inline(style.svg(dots.figure), "one", "", dots.tips)


@pytest.mark.parametrize("missing", [False, True])
def test_what_has_no_end_is_marked_where_the_axis_ends(missing):
    frame = cells("tokens_per_solved").assign(tokens_per_solved_low=None)
    frame.loc[frame["variant"] == "s-0.6", "tokens_per_solved"] = float("inf")
    frame.loc[frame["variant"] == "s-2of4", "tokens_per_solved"] = float("inf")
    if missing:
        frame.loc[frame["calibration"] == "c4", "tokens_per_solved"] = None
    for draw, axis in ((partial(figures.against_sparsity, log=True), 1), (figures.dots, 0)):
        picture = draw(frame, "tokens_per_solved", "tokens", STYLE)
        axes = picture.figure.axes[0]
        marks = [line for line in axes.lines if line.get_marker() == "x" and len(line.get_xdata())]
        ends = [point[axis] for line in marks for point in line.get_xydata()]
        assert ends.count(0.97) == (2 - missing if axis else 1)
        assert ends.count(0.03) == (2 * missing if axis else 0)
        assert "none solved (at the end)" in axes.get_legend_handles_labels()[1]
        style.inline(style.svg(picture.figure), "one", "", picture.tips)
    assert style.spoken(float("inf"), False) == "none solved"


def test_printed_numbers_are_hollow():
    frame = cells().assign(paper_accuracy=[None, None, 0.65, None, None, None, None])
    picture = figures.against_sparsity(frame, "accuracy", "accuracy", STYLE, share=True)
    hollow = [
        line
        for line in picture.figure.axes[0].lines
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert [line.get_xydata().tolist() for line in hollow] == [[[0.3, 0.65]]]
    said = "printed in the paper (secondary source), c4, s-0.3: 65.0 %"
    assert picture.tips["tip-1"] == [said]


def test_printed_numbers_of_cells_on_no_line_are_hollow_too():
    frame = cells()
    frame["paper_accuracy"] = (frame["variant"] == "s-2of4").map({True: 0.4, False: None})
    picture = figures.dots(frame, "accuracy", "accuracy", STYLE, share=True)
    hollow, solid = [], []
    for line in picture.figure.axes[0].lines:
        if len(line.get_xdata()) and line.get_linestyle() == "None":
            (hollow if line.get_markerfacecolor() == "white" else solid).append(line)
    (printed,) = hollow
    assert printed.get_xdata().tolist() == [0.4]
    assert printed.get_ydata().tolist()[0] in [y for line in solid for y in line.get_ydata()]
    said = [tip for tips in picture.tips.values() for tip in tips if "secondary" in tip]
    assert len(said) == 1 and said[0].endswith("s-2of4: 40.0 %")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.against_sparsity(cells(), "accuracy", "accuracy", STYLE, log=True),
        lambda: figures.dots(cells("tokens_mean"), "tokens_mean", "tokens", STYLE),
    ],
)
def test_the_same_figure_gives_the_same_bytes(draw):
    assert style.svg(draw().figure) == style.svg(draw().figure)


def test_files_hold_the_figure_and_its_data(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        picture = figures.dots(cells(), "accuracy", "accuracy", STYLE)
        drawn = drawing.Drawn("topic", "one", cells(), picture, "", "")
        (finished,) = drawing.finish([partial(list, [drawn])])
        drawing.save(finished, folder)
    names = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert set(names) == {"one.svg", "one.pdf", "one.csv"}
    assert names["one.pdf"].startswith(b"%PDF")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "a/one.csv", na_values=[""], keep_default_na=False),
        cells().assign(pattern=lambda frame: frame["pattern"].replace("", None)),
        check_dtype=False,
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == names


def test_figures_of_one_page_do_not_share_ids():
    picture = figures.against_sparsity(cells(), "accuracy", "accuracy", STYLE)
    text, said = style.svg(picture.figure), 'say "<b>"'
    first, second = (style.inline(text, name, said, picture.tips) for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', part)) for part in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    used = re.findall(r'(?:url\(|href=")#([^")]+)', first)
    assert used and set(used) <= ids[0]
    root = ElementTree.fromstring(first)
    assert root.get("aria-label") == 'say "<b>"'
    assert root.get("role") == "img" and root.get("viewBox") and root.get("width") is None


@pytest.mark.parametrize(
    ("shares", "top"), [([0.2, 0.9], 1.03), ([0.0, 0.2], 0.2 * 1.05 * 1.03), ([0.0, 0.0], 0.0515)]
)
def test_an_axis_of_shares_ends_where_they_do_if_they_are_small(shares, top):
    axes = Figure().add_subplot()
    style.share_axis(axes, pd.DataFrame({"accuracy": shares}), "accuracy")
    assert axes.get_ylim() == pytest.approx((-0.03 * top / 1.03, top))
