import pandas as pd
import pytest

from rac.report import money, style

ROWS = pd.DataFrame(
    [
        ("none", "dense", "none", "", "", None, 0.9, 100.0),
        ("rac", "s-0.5", "sparsegpt", "unstructured 0.5", "", 0.5, 0.8, 100.0),
        ("rac", "2of4", "sparsegpt", "2:4", "", 0.5, 0.7, 100.0),
        ("c4", "n", "structured", "structured 0.25", "", 0.25, 0.5, 80.0),
        ("rac", "n", "structured", "structured 0.25", "", 0.25, 0.85, 80.0),
        ("rac", "w4", "none", "", "w4a16 gptq", 0.0, 0.85, 30.0),
        ("rac", "s-w4", "sparsegpt", "unstructured 0.5", "w4a16 gptq", 0.5, 0.6, 30.0),
        ("c4", "n-w4", "structured", "structured 0.25", "w4a16 gptq", 0.25, 0.4, 90.0),
    ],
    columns=[
        *("calibration", "variant", "solver", "pattern", "quantization", "sparsity_asked"),
        *("accuracy", "bytes_on_disk"),
    ],
)


def test_kinds_are_what_was_done():
    assert money.kinds(ROWS).tolist() == [
        "dense",
        "unstructured",
        "n:m",
        "structured",
        "structured",
        "quantized",
        "pruned and quantized",
        "structured and quantized",
    ]
    assert set(money.kinds(ROWS)) == set(money.KINDS)
    assert money.kinds(ROWS[:0]).empty


def test_the_front_is_what_no_other_cell_beats():
    rows = ROWS.assign(kind=money.kinds(ROWS))
    frame = money.pareto(rows, "bytes_on_disk", False, money.KINDS)
    assert frame.loc[frame["front"], "variant"].tolist() == ["dense", "w4"]
    frame = money.pareto(rows, "bytes_on_disk", True, money.KINDS)
    assert frame.loc[frame["front"], "variant"].tolist() == ["dense"]
    picture = money.fronts(frame, "bytes_on_disk", "bytes", 1, style.styles(["rac"]))
    assert "rac, w4: 85.0 % at 30 (bytes)" in sum(picture.tips.values(), [])


def test_points_have_the_intervals_of_their_accuracy():
    ends = {"accuracy_low": ROWS["accuracy"] - 0.1, "accuracy_high": ROWS["accuracy"] + 0.05}
    rows = ROWS.assign(kind=money.kinds(ROWS), **ends)
    frame = money.pareto(rows, "bytes_on_disk", False, money.KINDS)
    picture = money.fronts(frame, "bytes_on_disk", "bytes", 1, style.styles(["c4", "rac"]))
    assert "rac, w4: 85.0 % [75.0 %, 90.0 %] at 30 (bytes)" in sum(picture.tips.values(), [])
    drawn = [one.lines[2][0].get_segments() for one in picture.figure.axes[0].containers]
    assert sorted(len(segments) for segments in drawn) == [1] * len(ROWS)


def test_speeds_are_the_dense_models_times_the_speed_up():
    """In a process that was twice as fast, a cell that is no faster counts as none."""
    speeds = {"tokens_per_second_1": [100.0, 240.0], "speedup_1": [None, 1.2]}
    speeds |= {"tokens_per_second_batch": [400.0, 760.0], "speedup_batch": [None, 0.95]}
    found = money.beside_dense(ROWS[:2].assign(**speeds))
    assert found["tokens_per_second_batch"].tolist() == pytest.approx([400, 380])
    assert found["milliseconds_1"].tolist() == pytest.approx([10, 10 / 1.2])
    assert money.beside_dense(ROWS.assign(**dict.fromkeys(speeds)))["milliseconds_1"].isna().all()


@pytest.mark.parametrize(("more", "sign"), [(True, 1), (False, -1)])
def test_zeros_that_were_measured_to_be_faster_are_not_so_on_the_front(more, sign):
    rows = ROWS.iloc[[0, 1, 4]]
    rows = rows.assign(kind=money.kinds(rows), speed=[sign * 10.0, sign * 12.0, sign * 11.0])
    frame = money.pareto(rows, "speed", more, money.NARROWER)
    assert frame["speed"].tolist() == rows["speed"].tolist()  # drawn as measured
    assert frame.loc[frame["front"], "variant"].tolist() == ["dense", "n"]
    slow = rows.assign(speed=[sign * 10.0, sign * 9.0, sign * 9.5])
    assert money.pareto(slow, "speed", more, money.NARROWER)["front"].tolist() == [
        *(True, False, False)
    ]


def test_only_what_was_timed_has_a_speed():
    rows = ROWS.assign(kind=money.kinds(ROWS), model="m", speedup_1=None, speedup_batch=None)
    rows = rows.assign(tokens_per_second_1=None, tokens_per_second_batch=None)
    rows = rows.assign(speedup_1_se=None, speedup_batch_se=None)
    rows.loc[3:4, "speedup_1_se"] = [0.1, 0.25]
    rows.loc[3:4, "tokens_per_second_1"] = 20.0
    rows.loc[3:4, ["speedup_1", "speedup_batch"]] = [[1.5, 1.0], [1.25, None]]
    rows = pd.concat([rows.assign(eval=name) for name in ("sums", "words")], ignore_index=True)
    found = {row.pop("kind"): row for row in money.measured_speed(rows)}
    assert found["structured"] == {"cells": 2, "low": 1.0, "high": 1.5, "se": 0.25}
    assert found["n:m"]["cells"] == 0 and found["n:m"]["low"] != found["n:m"]["low"]
    assert pytest.approx(found["quantized"]["cells"]) == 0 and "dense" not in found
