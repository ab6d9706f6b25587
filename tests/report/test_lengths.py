import pandas as pd
import pytest

from rac.artifacts import write_jsonl
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


def test_all_that_ended_within_as_many_tokens_are_counted():
    frame = pd.DataFrame({"calibration": "rac", "variant": "s", "tokens": [50] * 9 + [60]})
    picture = lengths.distribution(frame.assign(finished=True), STYLE)
    said = [text for texts in picture.tips.values() for text in texts]
    assert said == ["rac: 90.0 % ended within 50 tokens"]


def test_budgets_are_drawn_with_their_intervals():
    frame = pd.DataFrame({"calibration": ["rac"] * 2, "variant": ["s"] * 2, "budget": [8, 16]})
    frame = frame.assign(accuracy=[0.0, 0.5], accuracy_low=[0.0, 0.3], accuracy_high=[0.1, 0.7])
    picture = lengths.budget_lines(frame, STYLE)
    assert picture.tips["tip-0"][1] == "rac, at most 16 tokens: 50.0 % [30.0 %, 70.0 %]"
    assert pytest.approx(picture.figure.axes[0].get_xticks()) == [8, 16]
    (bars,) = picture.figure.axes[0].containers[0].lines[2]
    assert [[y for _, y in bar] for bar in bars.get_segments()] == [
        pytest.approx([0, 0.1]),
        pytest.approx([0.3, 0.7]),
    ]
