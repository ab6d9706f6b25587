import re
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from rac.report import figures, style

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


def drawn(figure):
    """Label → (points, colour, ends of the error bars) of each series with error bars."""
    found = {}
    for container in figure.axes[0].containers:
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
    left, right = figure.axes[0].get_xlim()
    assert left < 0 < 0.4 < right


def test_a_calibration_looks_the_same_whatever_else_is_there():
    assert style.styles(["x", "rac"])["rac"] == style.styles(["rac", "c4"])["rac"]
    named = style.styles([f"other{i}" for i in range(7)])
    assert len({named[f"other{i}"] for i in range(5)}) == 5
    assert named["other5"] == named["other0"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.against_sparsity(cells(), "accuracy", "accuracy", STYLE, log=True),
        lambda: figures.dots(cells("tokens_mean"), "tokens_mean", "tokens", STYLE),
    ],
)
def test_the_same_figure_gives_the_same_bytes(draw):
    assert style.svg(draw()) == style.svg(draw())


def test_files_hold_the_figure_and_its_data(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        figure = figures.dots(cells(), "accuracy", "accuracy", STYLE)
        style.save(figure, style.svg(figure), cells(), folder, "one")
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
    text = style.svg(figures.against_sparsity(cells(), "accuracy", "accuracy", STYLE))
    first, second = (style.inline(text, name, 'say "<b>"') for name in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]+)"', part)) for part in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    used = re.findall(r'(?:url\(|href=")#([^")]+)', first)
    assert used and set(used) <= ids[0]
    root = ElementTree.fromstring(first)
    assert root.get("aria-label") == 'say "<b>"'
    assert root.get("role") == "img" and root.get("viewBox") and root.get("width") is None
