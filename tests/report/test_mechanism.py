import numpy as np
import pandas as pd
import pytest

from rac.artifacts import write_jsonl
from rac.report import mechanism, style

STYLE = style.styles(["prompts", "rac"])


@pytest.fixture
def tokens(tmp_path):
    """Prompts of two tokens and thoughts of three: prompts is twice as bad on thoughts, half on prompts."""
    cells = []
    for calibration, by in (("prompts", (0.5, 2.0)), ("rac", (1.0, 1.0))):
        path = tmp_path / f"{calibration}.jsonl.zst"
        errors = [0.1 * by[0]] * 2 + [0.1 * by[1], 0.2 * by[1], 0.3 * by[1]]
        write_jsonl(path, [{"prompt_length": 2, "errors": errors}] * 2)
        cells.append({"calibration": calibration, "tokens": str(path)})
    return mechanism.tokens(cells)


def test_positions_count_from_the_first_token_that_was_written(tokens):
    assert len(tokens) == 20
    assert sorted(tokens["position"].unique()) == [-2, -1, 0, 1, 2]
    means = mechanism.by_position(tokens).set_index(["calibration", "position"])["error"]
    assert means["rac", 1] == pytest.approx(0.2) and means["prompts", -1] == pytest.approx(0.05)
    picture = mechanism.positions(mechanism.by_position(tokens), STYLE)
    assert picture.tips["tip-0"][0] == "prompts, about token −2: 0.05, 2 tokens".replace("−", "-")


def test_ratios_are_of_the_same_token(tokens):
    ratio = mechanism.ratios(tokens, "prompts", "rac").set_index(["sequence", "position"])["ratio"]
    assert ratio.loc[0, -2] == pytest.approx(0.5) and ratio.loc[1, 2] == pytest.approx(2)


def test_the_map_puts_positions_together_and_draws_the_border(monkeypatch):
    monkeypatch.setattr(mechanism, "COLUMNS", 3)
    frame = pd.DataFrame(
        {"sequence": [0] * 6, "position": range(-2, 4), "ratio": [0.5, 0.5, 4, 1, 2, 2]}
    )
    figure = mechanism.heat(frame, "ratio").figure
    (image,) = figure.axes[0].images
    assert np.asarray(image.get_array()).tolist() == [pytest.approx([0.5, 2, 2])]
    assert image.get_extent()[:2] == [-2.5, 3.5]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [-0.5]


def test_no_tokens_are_an_empty_frame():
    assert mechanism.tokens([]).empty


def test_a_map_shows_the_first_problems_and_says_how_many_positions_go_together(monkeypatch):
    monkeypatch.setattr(mechanism, "PROBLEMS", 2)
    frame = pd.DataFrame({"sequence": [2, 0, 1], "position": [9, -2, 4], "ratio": 1.0})
    shown = mechanism.first_problems(frame)
    assert sorted(shown["sequence"]) == [0, 1]
    assert [mechanism.width(shown, most) for most in (3, 6, 7, 8)] == [3, 2, 1, 1]


def test_the_median_ratios_interval_is_the_bootstraps_over_problems():
    generator = np.random.default_rng(1)
    problems = [np.exp(generator.normal(i / 5, 0.3, 20 + i)) for i in range(12)]
    rows = [(i, ratio) for i, of in enumerate(problems) for ratio in of]
    middle, low, high = mechanism.median_ratio(pd.DataFrame(rows, columns=["sequence", "ratio"]))
    assert middle == pytest.approx(np.median(np.concatenate(problems)))
    drawn = [
        np.median(np.concatenate([problems[i] for i in generator.integers(0, 12, 12)]))
        for _ in range(1000)
    ]
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), rel=0.06)
    one = mechanism.median_ratio(pd.DataFrame({"sequence": 0, "ratio": [1.0, 2.0, 4.0]}))
    assert one[0] == 2 and np.isnan(one[1:]).all()
