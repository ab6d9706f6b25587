import pandas as pd
import pytest
import yaml

from rac import config, matrix
from rac.errors import RacError
from rac.report import tidy


def comparison(variant, low, high, calibration="rac", baseline="c4"):
    return {
        "model": "tiny",
        "variant": variant,
        "eval": "sums",
        "calibration": calibration,
        "baseline": baseline,
        "difference": (low + high) / 2,
        "se": 0.01,
        "low": low,
        "high": high,
    }


def test_names_stay_text(tmp_path):
    file = tmp_path / "summary.csv"
    file.write_text("model,calibration,dense_sha256,accuracy\n007,NA,1e5,0.5\nnull,none,,\n")
    frame = tidy.read(file)
    assert frame["model"].tolist() == ["007", "null"]
    assert frame["calibration"].tolist() == ["NA", "none"]
    assert frame["dense_sha256"].tolist() == ["1e5", ""]
    assert frame["accuracy"].isna().tolist() == [False, True]


@pytest.mark.parametrize(("text", "message"), [(None, "is missing"), ("", "is damaged")])
def test_a_table_that_is_none_is_named(tmp_path, text, message):
    file = tmp_path / "summary.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RacError, match=f"summary.csv {message}"):
        tidy.read(file)


UP, DOWN, OPEN = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)
NONE, NAN = (0.0, 0.0), (float("nan"), float("nan"))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], ""),
        (
            [("c4", UP)],
            "With rac calibration, accuracy on sums is higher than with c4 in 1 of 1 comparisons.",
        ),
        (
            [("c4", UP), ("c4", DOWN), ("c4", OPEN)],
            "With rac calibration, accuracy on sums is higher than with c4 in 1 of 3 comparisons; "
            "lower than with c4 in 1 of 3.",
        ),
        (
            [
                ("c4", DOWN),
                ("wiki", DOWN),
                ("mix", DOWN),
                ("prompts", OPEN),
                ("web", NONE),
                ("web", NAN),
            ],
            "With rac calibration, accuracy on sums is lower than with c4 in 1 of 1 comparisons, with wiki "
            "in 1 of 1 and with mix in 1 of 1; not shown to differ from that with prompts or web.",
        ),
    ],
)
def test_the_headline_says_whichever_way_the_numbers_fall(rows, sentence):
    compared = [comparison("a", *ends, baseline=name) for name, ends in rows]
    assert tidy.headline(pd.DataFrame(compared), "sums") == sentence


def test_the_headline_has_a_sentence_a_subject():
    compared = [comparison("a", *UP, "math-rac", "web"), comparison("a", *OPEN, "code-rac", "web")]
    assert tidy.headline(pd.DataFrame(compared), "sums") == (
        "With math-rac calibration, accuracy on sums is higher than with web in 1 of 1 comparisons. "
        "With code-rac calibration, accuracy on sums is not shown to differ from that with web."
    )


def test_comparisons_are_turned_to_their_subject():
    frame = pd.DataFrame(
        [
            comparison("a", 0.1, 0.3, "prompts", "c4"),
            comparison("a", 0.2, 0.4, "c4", "rac"),
            comparison("a", -0.5, -0.3, "prompts", "rac"),
        ]
    )
    of_dense = comparison(
        "a", -0.9, -0.5, "rac", "dense"
    )  # summary.csv's, and not another calibration's
    frame = pd.concat([pd.DataFrame([of_dense]), frame]).assign(kl_text_difference=1.0)
    turned = tidy.against(frame, "rac")
    assert "kl_text_difference" not in turned  # which would have to be turned too
    assert turned[["calibration", "baseline"]].values.tolist() == [
        ["rac", "c4"],
        ["rac", "prompts"],
    ]
    assert turned["difference"].tolist() == pytest.approx([-0.3, 0.4])
    assert turned["low"].tolist() == pytest.approx([-0.4, 0.3])
    assert turned["high"].tolist() == pytest.approx([-0.2, 0.5])
    ends = {"loss_text_difference": 1.0, "loss_text_difference_low": 0.5}
    frame = frame.assign(**ends, loss_text_difference_high=[9, 2.0, 2.0, None])
    of_text = tidy.against(frame.assign(loss_text_difference=[9, 1, 1, None]), "rac", "loss_text")
    assert of_text[["baseline", "difference", "low", "high"]].values.tolist() == [
        ["c4", -1.0, -2.0, -0.5]
    ]


@pytest.mark.parametrize(
    ("calibrations", "kin", "chosen"),
    [
        (["none", "rac", "my-rac", "c4"], {"my-rac"}, "rac"),
        (["code-rac", "math-rac", "math-rac-off-policy", "web"], (), "code-rac"),
        (["code-rac", "math-rac", "math-rac-off-policy", "web"], {"math-rac", "web"}, "math-rac"),
        (["none", "c4", "mine"], {"c4"}, "mine"),
        (["none"], (), None),
    ],
)
def test_the_subject_is_rac_or_ends_so_or_is_the_last(calibrations, kin, chosen):
    assert tidy.subject(calibrations, kin) == chosen


def test_the_papers_matrix_is_about_rac_for_every_model_and_eval(repository):
    values = yaml.safe_load((repository / "config.yaml").read_text(encoding="utf-8"))
    settings = config.validate(values | {"run": "paper"})
    found, whole = {}, {}
    for row in matrix.summary_cells(settings):
        whole.setdefault(row["model"], []).append(row["calibration"])
        if row["eval"]:
            found.setdefault((row["model"], row["eval"]), []).append(row["calibration"])
    subjects = {key: tidy.subject(calibrations) for key, calibrations in found.items()}
    programs = {key for key in subjects if key[1] == "livecodebench"}
    assert len(subjects) == 15 and len(programs) == 3
    assert {subjects.pop(key) for key in programs} == {"code-rac"}
    assert set(subjects.values()) == {"math-rac"}
    kin = tidy.akin(matrix.defining(settings))
    assert kin == {"math-rac"}
    assert {tidy.subject(names, kin) for names in whole.values()} == {"math-rac"}
    assert tidy.subject(reversed(whole["r1-qwen-7b"]), kin) == "math-rac"


def rows(*cells):
    keys = ["calibration", "variant", "solver", "pattern", "sparsity_asked"]
    return pd.DataFrame(cells, columns=keys)


CELLS = rows(
    ("none", "dense", "none", "", None),
    ("c4", "s-0.3", "sparsegpt", "unstructured 0.3", 0.3),
    ("c4", "s-0.6", "sparsegpt", "unstructured 0.6", 0.6),
    ("rac", "s-0.6", "sparsegpt", "unstructured 0.6", 0.6),
    ("c4", "s-2of4", "sparsegpt", "2:4", 0.5),
    ("c4", "w-0.5", "wanda", "unstructured 0.5", 0.5),
)


def test_lines_join_the_sparsities_of_a_solver_and_calibration():
    assert tidy.sweeps(CELLS).tolist() == [False, True, True, False, False, False]


def test_a_line_is_of_one_definition():
    others = rows(
        ("c4", "s-w4a16-0.5", "sparsegpt", "unstructured 0.5", 0.5),  # quantized: no point of s
        ("c4", "t-0.3", "sparsegpt", "unstructured 0.3", 0.3),
        ("c4", "t-0.5", "sparsegpt", "unstructured 0.5", 0.5),
    )
    points = tidy.lines(pd.concat([CELLS, others], ignore_index=True))
    assert points[["family", "variant"]].values.tolist() == [
        ["s", "s-0.3"],
        ["s", "s-0.6"],
        ["t", "t-0.3"],
        ["t", "t-0.5"],
    ]


def test_the_variant_shown_has_most_calibrations_then_is_nearest_to_half():
    assert tidy.shown_variant(CELLS) == "s-0.6"
    assert tidy.shown_variant(CELLS[CELLS["calibration"] == "c4"]) == "s-2of4"
    assert tidy.shown_variant(CELLS[:1]) is None


def test_intervals_are_those_of_the_table_and_else_of_their_kind():
    frame = CELLS[:1].assign(
        problems=4,
        accuracy=0.5,
        accuracy_low=0.1,
        accuracy_high=0.8,
        finished=0.75,
        finished_se=0.1,
        tokens_mean=90.0,
        tokens_mean_se=10.0,
        layer_error=0.5,
    )
    accuracy = tidy.measured(frame, "accuracy").iloc[0]
    assert (accuracy["accuracy_low"], accuracy["accuracy_high"]) == (0.1, 0.8)
    unfinished = tidy.measured(frame, "unfinished").iloc[0]
    assert unfinished["unfinished"] == 0.25
    # Wilson's equation, (p − x)² = t² x (1 − x) / n, with 0.75 · 0.25 / 0.1² trials and t of 3 degrees.
    for end in (unfinished["unfinished_low"], unfinished["unfinished_high"]):
        assert (0.25 - end) ** 2 == pytest.approx(3.18244630528**2 * end * (1 - end) / 18.75)
    assert tidy.measured(frame, "tokens_mean")["tokens_mean_high"][0] == pytest.approx(
        90 + 10 * 3.18244630528
    )
    assert tidy.measured(frame, "layer_error")["layer_error_low"].isna().all()
    assert tidy.measured(frame.assign(layer_error=None), "layer_error").empty


def test_a_cell_that_was_to_be_evaluated_and_is_not_is_missing():
    frame = CELLS[:3].assign(eval=["sums", "sums", ""], accuracy=[0.5, None, None])
    assert tidy.absent(frame).tolist() == [False, True, False]
    assert len(tidy.measured(frame, "accuracy")) == 2
    frame = frame.assign(loss_text=[3.0, None, 2.0])  # of a cell, whatever becomes of its eval
    assert tidy.measured(frame, "loss_text")["loss_text"].tolist() == [3, 2]


def test_a_solved_problem_costs_infinitely_much_where_none_was():
    frame = CELLS[:4].assign(eval="sums", accuracy=[0.5, 0.0, None, 0.0], loss=None)
    frame = frame.assign(tokens_mean=[9.0, 9.0, None, None], tokens_per_solved=[18.0, *[None] * 3])
    found = tidy.measured(frame, "tokens_per_solved")
    assert found["variant"].tolist() == [
        "dense",
        "s-0.3",
        "s-0.6",
    ]  # and no choices, without tokens
    assert found["tokens_per_solved"].tolist()[:2] == [18, float("inf")]
    assert found["tokens_per_solved"].isna().tolist() == [False, False, True]


def test_losses_have_their_perplexities():
    frame = CELLS[:1].assign(loss_text=2.0, loss_thoughts=0.0)
    found = tidy.losses(frame).iloc[0]
    assert found["perplexity_text"] == pytest.approx(7.389056)
    assert found["perplexity_thoughts"] == 1


def test_the_lowest_error_is_counted_by_layer():
    def layers(*errors):
        keys = {"projection": "q_proj", "error_prompt": 0.5}
        return [
            {"name": f"{i}", "block": i, "error_decode": error} | keys
            for i, error in enumerate(errors)
        ]

    cells = [
        {"calibration": "c4", "layers": layers(0.1, 0.4, 0.4)},
        {"calibration": "rac", "layers": layers(0.2, 0.2, 0.2)},
    ]
    frame = tidy.layers(cells)
    assert len(frame) == 6
    counted = [(one["calibration"], one["layers"], one["of"]) for one in tidy.lowest(frame)]
    assert counted == [("c4", 1, 3), ("rac", 2, 3)]
    assert tidy.lowest(tidy.layers(cells[1:])) == []
