import pandas as pd
import pytest

from rac.report import outside, style

SOURCES = {
    "c4": {"kind": "text"},
    "more": {"kind": "text"},
    "traces": {"kind": "traces"},
    "asked": {"kind": "prompts"},
}
CALIBRATIONS = {
    "c4": {"sum": {"c4": 1}},
    "half": {"share": {"c4": 1, "traces": 1}},
    "tenth": {"share": {"c4": 0.1, "traces.decode": 0.9}},
    "rac": {"sum": {"traces.prompt": 1, "traces.decode": 1}},
    "prompts": {"sum": {"asked": 1}},
    "more": {"sum": {"more": 1}},
    "added": {"sum": {"c4": 1, "traces": 1}},  # its share of text hangs on the numbers of tokens
}


def losses(*cells):
    keys = ["calibration", "variant", "solver", "pattern", "sparsity_asked"]
    rows = [(*cell, "sparsegpt", "unstructured 0.5", 0.5) for cell in cells]
    frame = pd.DataFrame(rows, columns=keys).assign(loss_text=3.0, loss_thoughts=1.0)
    ends = {
        f"{loss}_{end}": None for loss in ("loss_text", "loss_thoughts") for end in ("low", "high")
    }
    perplexities = {"perplexity_text": 20.09, "perplexity_thoughts": 2.718}
    return frame.assign(**ends, **perplexities)


def test_mixtures_run_from_all_thoughts_to_all_text():
    definitions = {"sources": SOURCES, "calibrations": CALIBRATIONS}
    frame = losses(*[(name, "s") for name in CALIBRATIONS], ("c4", "t"), ("rac", "t"))
    mixed = outside.mixtures(definitions, frame)
    found = dict(zip(mixed["calibration"], mixed["text_share"], strict=True))
    assert found == {"rac": 0, "tenth": 0.1, "half": 0.5, "c4": 1}
    assert list(found) == ["rac", "tenth", "half", "c4"] and set(mixed["variant"]) == {"s"}
    tips = outside.front(mixed, style.styles(found)).tips
    assert len(tips) == 4
    assert tips["tip-0"] == [
        "rac, s: thoughts 1.000, text 3.000 nats a token (perplexities 2.718 and 20.09)"
    ]


def test_two_ends_are_no_mixture():
    definitions = {"sources": SOURCES, "calibrations": CALIBRATIONS}
    assert outside.mixtures(definitions, losses(("c4", "s"), ("rac", "s"))).empty
    assert outside.mixtures({}, losses(("c4", "s"))).empty


def answer(accuracy, text):
    """The sentence of two mixtures: intervals of RAC − mixture in accuracy, and of mixture − C4 on text."""
    mixed = pd.DataFrame(
        [("rac", 0.0), ("tenth", 0.1), ("half", 0.5), ("c4", 1.0)],
        columns=["calibration", "text_share"],
    ).assign(variant="s")
    names = ("tenth", "half")
    rows = [
        {"calibration": "rac", "baseline": name, "eval": "sums", "difference": (low + high) / 2}
        | {"low": low, "high": high}
        for name, (low, high) in zip(names, accuracy, strict=False)
    ]
    lost = [
        ("c4", name, -(low + high) / 2, -high, -low)
        for name, (low, high) in zip(names, text, strict=True)
        for _ in range(2)  # a row an eval, all with the cell's losses
    ]
    columns = ["calibration", "baseline", "difference", "low", "high"]
    return outside.keeps_both(mixed, pd.DataFrame(lost, columns=columns), pd.DataFrame(rows))


OPEN, UP = (-0.02, 0.06), (0.03, 0.09)


@pytest.mark.parametrize(
    ("accuracy", "text", "said"),
    [
        (
            (OPEN, UP),
            (OPEN, OPEN),
            "Of 2 mixtures these are not shown to be below rac in accuracy, nor above c4 in loss on text: "
            "tenth (10% text: accuracy −2.0 points [−6.0, 2.0] on sums, loss on text +0.020 nats a token "
            "[−0.020, 0.060]). What is not shown may still be there.",
        ),
        (
            (OPEN, OPEN),
            ((0.05, 0.09), (0.03, 0.05)),
            "None of 2 mixtures does: of those not shown to be below rac in accuracy the one nearest "
            "to c4 in loss on text is still above it, half (50% text: accuracy −2.0 points [−6.0, 2.0] on "
            "sums, loss on text +0.040 nats a token [0.030, 0.050]).",
        ),
        (
            (UP, UP),
            (OPEN, OPEN),
            "None of 2 mixtures does: accuracy with each is below that with rac.",
        ),
    ],
)
def test_whether_a_mixture_keeps_both_follows_the_intervals(accuracy, text, said):
    assert answer(accuracy, text) == said


def test_a_mixture_that_was_not_evaluated_is_not_counted():
    said = answer((UP,), (OPEN, OPEN))
    assert said == "None of 1 mixture does: accuracy with each is below that with rac."
    assert answer((), (OPEN, OPEN)) == ""


def test_without_an_end_nothing_is_said_of_mixtures():
    mixed = pd.DataFrame({"calibration": ["half", "c4"], "text_share": [0.5, 1.0], "variant": "s"})
    some = pd.DataFrame({"calibration": ["half"], "low": [0.0]})
    assert outside.keeps_both(mixed, some, some) == ""
