import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from rac.artifacts import write_jsonl
from rac.evaluate.statistics import paired_difference
from rac.report import style, written

STYLE = style.styles(["none", "prompts", "rac"])


@pytest.fixture
def cells(tmp_path):
    """The dense model, prompts and RAC on four problems; two samples of each by the dense model."""
    tokens = {"dense": [10, 30, 40, 40, 90, 90, 20, 20], "prompts": [5] * 4, "rac": [5] * 4}
    correct = {"prompts": [1, 0, 0, 0], "rac": [0, 1, 1, 0]}
    found = []
    for name, of in tokens.items():
        samples = len(of) // 4
        rows = [
            {
                "doc_id": i // samples,
                "id": f"p{i // samples}",
                "tokens": count,
                "correct": correct.get(name, [1] * 8)[i],
            }
            for i, count in enumerate(of)
        ]
        path = tmp_path / f"{name}.jsonl.zst"
        write_jsonl(path, rows[::-1])
        variant = "dense" if name == "dense" else "s"
        found.append({"calibration": name, "variant": variant, "scores": str(path)})
    lengths = [10, 20, 10, 40]
    requests = [{"doc_id": i, "id": f"p{i}", "token_ids": [1] * n} for i, n in enumerate(lengths)]
    write_jsonl(tmp_path / "requests.jsonl.zst", requests)
    found[0] |= {"calibration": "none", "requests": str(tmp_path / "requests.jsonl.zst")}
    return found


def test_a_problem_has_its_ratio_and_its_gain(cells):
    frame = written.gains(cells, "rac", []).sort_values("problem")
    assert frame["calibration"].unique().tolist() == ["prompts"]
    assert frame["problem"].tolist() == [0, 1, 2, 3]
    assert frame["ratio"].tolist() == [2, 2, 9, 0.5]
    assert frame["gain"].tolist() == [-1, 1, 1, 0]
    assert frame["samples"].unique().tolist() == [
        1
    ]  # of those that are compared; the dense has two


def test_calibrations_come_in_the_order_of_the_cells_in_any_process(cells):
    others = [cells[1] | {"calibration": f"other{i}"} for i in (3, 1, 4, 0, 5, 2, 6)]
    frame = written.gains([*cells, *others], "rac", [])
    named = [cell["calibration"] for cell in [cells[1], *others]]
    assert frame["calibration"].unique().tolist() == named


@pytest.mark.parametrize("without", ["dense", "requests", "rac", "prompts"])
def test_a_missing_file_leaves_its_gains_out(cells, tmp_path, without):
    (tmp_path / f"{without}.jsonl.zst").unlink()
    missing: list[str] = []
    assert not len(written.gains(cells, "rac", missing))
    assert missing == [str(tmp_path / f"{without}.jsonl.zst")]


def test_answers_that_are_not_written_have_no_ratio(cells):
    rows = [{"doc_id": i, "id": f"p{i}", "correct": 1} for i in range(4)]
    write_jsonl(cells[0]["scores"], rows)
    assert not len(written.gains(cells, "rac", []))


def of_problems(pairs, calibration="prompts", name="sums"):
    frame = pd.DataFrame(pairs, columns=["ratio", "gain"]).assign(problem=range(len(pairs)))
    frame = frame.assign(calibration=calibration, subject="rac", samples=1)
    return frame.assign(model="tiny", eval=name)


PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 1)), min_size=4, max_size=40)


@given(PAIRS)
def test_correlation_is_spearmans_inside_its_interval(pairs):
    found = written.correlation(of_problems(pairs))
    ratio, gain = zip(*pairs, strict=True)
    if len(set(ratio)) == 1 or len(set(gain)) == 1:
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(scipy.stats.spearmanr(ratio, gain).statistic, abs=1e-9)
    assert -1 <= found.low <= found.value + 1e-6 and found.value - 1e-6 <= found.high <= 1


def test_the_correlations_interval_covers_at_its_rate():
    """Of independent ratios and gains, whose correlation is 0."""
    generator = np.random.default_rng(0)
    runs = 400
    inside = 0
    for _ in range(runs):
        pairs = list(zip(generator.random(60), generator.integers(-1, 2, 60), strict=True))
        found = written.correlation(of_problems(pairs))
        inside += found.low <= 0 <= found.high
    assert 0.92 <= inside / runs <= 0.98


def test_thirds_go_from_the_lowest_ratio_to_the_highest():
    pairs = [(9, 1), (1, 0), (5, 1), (8, 1), (2, 0), (4, 0), (7, 1)]
    frame = written.thirds(of_problems(pairs))
    assert frame["problems"].tolist() == [3, 2, 2]
    assert frame["ratio"].tolist() == [2, 6, 8.5]
    expected = [paired_difference(each, samples=1) for each in ([0, 0, 0], [1, 1], [1, 1])]
    assert frame["difference"].tolist() == [0, 1, 1]
    assert frame["low"].tolist() == [one.low for one in expected]
    assert frame["high"].tolist() == [one.high for one in expected]


def test_the_figure_has_a_line_an_eval_and_calibration_and_says_its_points():
    of = [
        of_problems([(i, i % 2) for i in range(1, 10)], *names)
        for names in (
            ("prompts", "sums"),
            ("prompts", "words"),
            ("none", "sums"),
        )
    ]
    picture = written.against_ratio(written.thirds(pd.concat(of)), STYLE)
    assert [len(texts) for texts in picture.tips.values()] == [3, 3, 3]
    assert picture.tips["tip-0"][0].startswith(
        "tiny, sums, 3 problems, 2 tokens written for one read: rac − prompts 66.7 % ["
    )
    labels = picture.figure.axes[0].get_legend_handles_labels()[1]
    assert set(labels) == {"over prompts", "over none"}
