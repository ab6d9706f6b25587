"""Outside reasoning: what a calibration keeps for thoughts, and what it loses on general text."""

import re

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rac.report import tidy
from rac.report.figures import called, line_kind
from rac.report.style import RC, SIZE, Picture, Style, bars, legend, log_axis, series


def mixtures(definitions: dict, frame: pd.DataFrame) -> pd.DataFrame:
    """The cells whose calibrations mix one source of text with one of thoughts, from all of one to all of it.

    Args:
        definitions: `calibrations` and `sources` of a configuration, as JSON.
        frame: of `tidy.losses`.

    Returns:
        Rows of the frame at the variant with most such calibrations, with the column `text_share` (of
        the calibration's tokens, between 0 and 1), in its order; none if there are fewer than three.
    """
    kinds = {name: source["kind"] for name, source in definitions.get("sources", {}).items()}
    shares: dict[str, dict[tuple[str, str], float]] = {}
    for name, calibration in definitions.get("calibrations", {}).items():
        weights = calibration.get("share") or calibration.get("sum") or {}
        sources = {key if key in kinds else key.rpartition(".")[0] for key in weights}
        texts = sorted(source for source in sources if kinds[source] == "text")
        others = sorted(source for source in sources if kinds[source] == "traces")
        if len(texts) > 1 or len(others) > 1 or len(texts) + len(others) != len(sources):
            continue
        if calibration.get("share") or len(sources) == 1:
            whole = sum(weights.values())
            share = sum(weight for key, weight in weights.items() if key in texts) / whole
            shares[name] = {(texts[0] if texts else "", others[0] if others else ""): share}
    pairs = {pair for of in shares.values() for pair in of if all(pair)}
    best = frame[:0].assign(text_share=pd.Series(dtype=float))
    for text, thoughts in sorted(pairs):
        ends = ((text, thoughts), (text, ""), ("", thoughts))
        known = {
            name: share for name, of in shares.items() for end, share in of.items() if end in ends
        }
        found = frame[frame["calibration"].isin(known)]
        found = found.assign(text_share=found["calibration"].map(known))
        for _, group in found.groupby("variant", sort=False):
            group = group.drop_duplicates("text_share")
            if len(group) > max(len(best), 2):
                best = group.sort_values("text_share")
    return best


def keeps_both(mixed: pd.DataFrame, text: pd.DataFrame, accuracy: pd.DataFrame) -> str:
    """Whether a mixture keeps the accuracy of all thoughts and the loss on text of all text, as a sentence.

    One keeps them if its paired 95 % interval does not show it to be worse.

    Args:
        mixed: of `mixtures`.
        text: of `tidy.against` with the loss on text, the calibration of all text coming first.
        accuracy: of `tidy.against`, the calibration of all thoughts coming first.

    Returns:
        The sentence; empty where one of the two ends, or what is compared, was not measured.
    """
    ends = mixed.set_index("text_share")["calibration"]
    if not {0.0, 1.0} <= set(ends.index) or text.empty or accuracy.empty:
        return ""
    shares = mixed.set_index("calibration")["text_share"].drop([ends[0.0], ends[1.0]])
    lost = -text.drop_duplicates("baseline").set_index("baseline")[["difference", "low", "high"]]
    lost = lost.rename(columns={"low": "high", "high": "low"})
    known = [
        name for name in shares.index if name in lost.index and name in set(accuracy["baseline"])
    ]
    if not known:
        return ""
    count = f"{len(known)} mixture{'s' if len(known) > 1 else ''}"
    worse = set(accuracy.loc[accuracy["low"] > 0, "baseline"])
    strong = [name for name in known if name not in worse]
    both = [name for name in strong if not lost.loc[name, "low"] > 0]
    if not strong:
        return f"None of {count} does: accuracy with each is below that with {ends[0.0]}."
    found = both or [min(strong, key=lambda name: lost.loc[name, "difference"])]
    said = []
    for name in found:
        of = accuracy[accuracy["baseline"] == name]
        accurate = " and ".join(
            f"{-100 * row.difference:+.1f} points [{-100 * row.high:.1f}, {-100 * row.low:.1f}] on {row.eval}"
            for row in of.itertuples()
        )
        row = lost.loc[name]
        said.append(
            f"{name} ({shares[name]:.0%} text: accuracy {accurate}, loss on text "
            f"{row['difference']:+.3f} nats a token [{row['low']:.3f}, {row['high']:.3f}])"
        )
    if both:
        sentence = (
            f"Of {count} these are not shown to be below {ends[0.0]} in accuracy, nor above "
            f"{ends[1.0]} in loss on text: {'; '.join(said)}. What is not shown may still be there."
        )
    else:
        sentence = (
            f"None of {count} does: of those not shown to be below {ends[0.0]} in accuracy "
            f"the one nearest to {ends[1.0]} in loss on text is still above it, {said[0]}."
        )
    return re.sub(r"(?<=[ \[])-(?=\d)", "−", sentence)


def front(frame: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """Loss on held-out thoughts against loss on held-out text as two calibrations are mixed.

    Args:
        frame: of `mixtures`.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        axes.plot(frame["loss_text"], frame["loss_thoughts"], color="#8a8f98", linewidth=1)
        for calibration, point in frame.groupby("calibration", sort=False):
            _losses(axes, tips, point, style[calibration], None, "none")
            row = point.iloc[0]
            axes.annotate(
                f"{row['text_share']:.0%}",
                (row["loss_text"], row["loss_thoughts"]),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
            )
        if frame["loss_thoughts"].min() > 0:
            log_axis(axes, "y")
        axes.set_xlabel("loss on text (nats a token)")
        axes.set_ylabel("loss on thoughts (nats a token)")
        return Picture(figure, tips)


def price(frame: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """Loss on held-out thoughts against loss on held-out text; lines join sparsities.

    Args:
        frame: of `tidy.losses`.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        points = tidy.lines(frame)
        families = list(dict.fromkeys(points["family"]))
        for (family, calibration), line in points.groupby(["family", "calibration"], sort=False):
            line = line.sort_values("sparsity_asked", kind="stable")
            kind = line_kind(axes, families, family)
            _losses(axes, tips, line, style[calibration], called(calibration), kind)
            axes.annotate(
                f"{line['sparsity_asked'].iloc[-1]:.0%}",
                (line["loss_text"].iloc[-1], line["loss_thoughts"].iloc[-1]),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
                color=style[calibration].colour,
            )
        named = set(points["calibration"])
        others = frame[~tidy.sweeps(frame) & (frame["variant"] != "dense")]
        for calibration, group in others.groupby("calibration", sort=False):
            name = called(calibration)
            _losses(
                axes,
                tips,
                group,
                style[calibration],
                None if calibration in named else name,
                "none",
            )
        for _, dense in frame[frame["variant"] == "dense"].iterrows():
            axes.plot(dense["loss_text"], dense["loss_thoughts"], "k*", markersize=9, label="dense")
        for axis, column in (("x", "loss_text"), ("y", "loss_thoughts")):
            if frame[column].min() > 0 and frame[column].max() > 10 * frame[column].min():
                log_axis(axes, axis)
        axes.set_xlabel("loss on text (nats a token)")
        axes.set_ylabel("loss on thoughts (nats a token)")
        legend(axes)
        return Picture(figure, tips)


def _losses(
    axes: Axes,
    tips: dict[str, list[str]],
    line: pd.DataFrame,
    style: Style,
    label: str | None,
    linestyle: str,
) -> None:
    said = [
        f"{called(row['calibration'])}, {row['variant']}: thoughts {row['loss_thoughts']:.3f}, "
        f"text {row['loss_text']:.3f} nats a token (perplexities {row['perplexity_thoughts']:.4g} and "
        f"{row['perplexity_text']:.4g})"
        for row in line.to_dict("records")
    ]
    series(
        *(axes, tips, said, line["loss_text"], line["loss_thoughts"]),
        xerr=bars(line, "loss_text"),
        yerr=bars(line, "loss_thoughts"),
        label=label,
        color=style.colour,
        marker=style.marker,
        markerfacecolor="white" if linestyle == "none" else style.colour,
        linestyle=linestyle,
    )
