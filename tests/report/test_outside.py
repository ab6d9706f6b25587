import pandas as pd

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
