import pandas as pd
import pytest

from rac.artifacts import write_jsonl
from rac.evaluate.statistics import share_interval
from rac.report import lengths, style

STYLE = style.styles(["none", "rac"])


def test_lengths_are_of_samples(tmp_path):
    path = tmp_path / "scores.jsonl.zst"
    write_jsonl(path, [{"tokens": 5, "finished": True}, {"tokens": 9, "finished": False}])
    names = {"calibration": "rac", "variant": "s"}
    missing = []
    cells = [names | {"scores": str(path)}, names | {"scores": str(tmp_path / "gone")}]
    frame = lengths.lengths(cells, missing)
    assert frame["tokens"].tolist() == [5, 9] and missing == [str(tmp_path / "gone")]
    table = lengths.quantiles(frame).iloc[0]
    assert (table["samples"], table["ended"], table["50 % below"]) == (2, 0.5, 7)


def test_a_curve_ends_where_samples_did_not():
    frame = pd.DataFrame(
        {
            "calibration": ["rac"] * 4 + ["none"] * 2,
            "variant": ["s"] * 4 + ["dense"] * 2,
            "tokens": [30, 10, 40, 40, 50, 50],
            "finished": [True, True, False, False, False, False],
        }
    )
    picture = lengths.distribution(frame, STYLE)
    steps = picture.figure.axes[0].lines[0]
    assert steps.get_xydata().tolist() == [[10, 0.25], [30, 0.5]]
    assert "dense (none ended)" in picture.figure.axes[0].get_legend_handles_labels()[1]


def test_budgets_have_the_tables_intervals():
    budgets = pd.DataFrame(
        {
            "calibration": ["rac"] * 2,
            "variant": ["s"] * 2,
            "budget": [8, 16],
            "accuracy": [0.0, 0.5],
            "accuracy_se": [0.0, 0.1],
        }
    )
    frame = lengths.at_budgets(budgets, pd.DataFrame({"problems": [26.0]}))
    assert (frame["accuracy_low"][1], frame["accuracy_high"][1]) == share_interval(0.5, 0.1, 26)
    assert 0 == frame["accuracy_low"][0] < frame["accuracy_high"][0] < 0.2
    picture = lengths.budget_lines(frame, STYLE)
    assert picture.tips["tip-0"][1].startswith("rac, at most 16 tokens: 50.0 % [")
    assert pytest.approx(picture.figure.axes[0].get_xticks()) == [8, 16]
