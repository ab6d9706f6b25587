"""Which figures a run gets, with their captions and a description for those who cannot see them."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from rac.report import figures, tidy
from rac.report.style import Style


class Drawn(NamedTuple):
    """A figure with the frame that it shows."""

    topic: str  # the section of the page that it stands in
    name: str  # of its files
    frame: pd.DataFrame
    figure: Figure
    caption: str
    description: str  # for those who cannot see it


def of_eval(
    rows: pd.DataFrame, differences: pd.DataFrame, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Accuracy, its paired differences, and the length of thoughts of one (model, eval)."""
    model, name = rows[["model", "eval"]].iloc[0]
    where, title = f"{model}-{name}", f"{model}, {name}"
    if len(differences):
        frame = differences
        yield Drawn(
            "claim",
            f"differences-{where}",
            frame,
            figures.differences(frame, styles),
            f"{title}: accuracy with {frame['calibration'].iloc[0]} minus accuracy with another "
            "calibration, paired by problem, with 95 % intervals.",
            spoken(frame, "difference", "baseline", True),
        )
    for topic, value, label, share, what in (
        ("accuracy", "accuracy", "accuracy", True, "accuracy"),
        ("length", "tokens_mean", "mean tokens a sample", False, "mean generated tokens a sample"),
        (
            "length",
            "unfinished",
            "unfinished samples",
            True,
            "samples cut, or with an open thought,",
        ),
    ):
        frame = tidy.measured(rows, value)
        on_line = tidy.sweeps(frame)
        bars = "with 95 % intervals over problems"
        if (frame["variant"] == "dense").any():
            bars += "; dashed: dense"
        if on_line.any():
            yield Drawn(
                topic,
                f"{value}-{where}",
                frame[on_line | (frame["variant"] == "dense")],
                figures.against_sparsity(frame, value, label, styles, share),
                f"{title}: {what} against sparsity, {bars}.",
                spoken(frame[on_line | (frame["variant"] == "dense")], value, "calibration", share),
            )
        others = ~on_line & (frame["variant"] != "dense")
        if others.any() and (topic == "accuracy" or not on_line.any()):
            whose = " of the other patterns and solvers" if on_line.any() else ""
            yield Drawn(
                topic,
                f"{value}-others-{where}",
                frame[~on_line],
                figures.dots(frame, value, label, styles, share),
                f"{title}: {what}{whose}, {bars}.",
                spoken(frame[~on_line], value, "calibration", share),
            )


def of_model(
    rows: pd.DataFrame, layers: pd.DataFrame, variant: str, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Layer errors and losses on held-out data of one model."""
    model = rows["model"].iloc[0]
    for part, of in (("decode", "held-out thoughts"), ("prompt", "held-out prompts")):
        label = f"relative error, {part} tokens"
        value = f"layer_error_heldout_{part}"
        frame = tidy.measured(rows[rows["variant"] != "dense"], value)
        if len(frame):
            if tidy.sweeps(frame).any():
                frame = frame[tidy.sweeps(frame)]
                figure = figures.against_sparsity(frame, value, label, styles, log=True)
            else:
                figure = figures.dots(frame, value, label, styles)
            yield Drawn(
                "layers",
                f"{value}-{model}",
                frame,
                figure,
                f"{model}: relative error of layer outputs on the {part} tokens of {of}, mean over "
                "layers.",
                spoken(frame, value, "calibration", False),
            )
        if len(layers):
            yield Drawn(
                "layers",
                f"layers-{part}-{model}",
                layers,
                figures.per_layer(layers, f"error_{part}", label, styles),
                f"{model}, {variant}: the same for every layer, in the order of the model.",
                f"Relative error of {layers['layer'].nunique()} layers. "
                + spoken(
                    layers.groupby("calibration", sort=False, as_index=False)
                    .mean(numeric_only=True)
                    .assign(variant="mean"),
                    f"error_{part}",
                    "calibration",
                    False,
                ),
            )
    frame = tidy.losses(rows)
    if len(frame):
        yield Drawn(
            "price",
            f"losses-{model}",
            frame,
            figures.price(frame, styles),
            f"{model}: loss on held-out thoughts against loss on held-out text, with 95 % "
            "intervals. A line runs from the lowest to the highest sparsity; hollow markers are "
            "other patterns and solvers. Down is better at thoughts, left is better at text.",
            "Loss on thoughts: "
            + spoken(frame, "loss_thoughts", "calibration", False)
            + " Loss on text: "
            + spoken(frame, "loss_text", "calibration", False),
        )

    frame = tidy.measured(rows, "loss_text")
    if tidy.sweeps(frame).any():
        frame = frame[tidy.sweeps(frame) | (frame["variant"] == "dense")]
        yield Drawn(
            "price",
            f"loss_text-{model}",
            frame,
            figures.against_sparsity(
                frame, "loss_text", "loss on held-out text", styles, zero=False
            ),
            f"{model}: loss on held-out text against sparsity, nats a token, with 95 % intervals; "
            "dashed: dense.",
            spoken(frame, "loss_text", "calibration", False),
        )


def spoken(frame: pd.DataFrame, value: str, by: str, share: bool) -> str:
    """The numbers of a figure as a sentence a series."""
    sentences = []
    for name, group in frame.groupby(by, sort=False):
        numbers = [
            f"{variant} {number:.1%}" if share else f"{variant} {number:.3g}"
            for variant, number in zip(group["variant"], group[value], strict=True)
        ]
        sentences.append(f"{'uncalibrated' if name == 'none' else name}: {', '.join(numbers)}.")
    return " ".join(sentences)
