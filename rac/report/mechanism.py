"""Why: where compression hurts, by layer and by token, and how alike calibrations choose."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rac.artifacts import read_jsonl
from rac.report.style import (
    INK,
    RC,
    SIZE,
    Picture,
    Style,
    legend,
    log_axis,
    percent_tick,
    series,
    spoken,
)

RESAMPLES = 1000
BINS = 40  # of token positions in a line
COLUMNS, PROBLEMS = (
    240,
    48,
)  # of the map of ratios: token positions are put together, problems left out


def tokens(cells: list[dict]) -> pd.DataFrame:
    """Errors of every token at one variant.

    Args:
        cells: dicts of "calibration" and "tokens", the path of a tokens.jsonl.zst that exists; of one model
            and variant.

    Returns:
        Columns calibration, sequence, position (0 is the first token that the model wrote; below are
        those of the prompt) and error.
    """
    parts = [pd.DataFrame(columns=["calibration", "sequence", "position", "error"])]
    for cell in cells:
        for i, row in enumerate(read_jsonl(cell["tokens"])):
            count = len(row["errors"])
            parts.append(
                pd.DataFrame(
                    {
                        "calibration": cell["calibration"],
                        "sequence": i,
                        "position": np.arange(count) - row["prompt_length"],
                        "error": row["errors"],
                    }
                )
            )
    return pd.concat(parts[1:] or parts, ignore_index=True)


def width(frame: pd.DataFrame, most: int) -> int:
    """How many positions of tokens go together, so that there are at most about so many places."""
    return max(1, -(-int(np.ptp(frame["position"]) + 1) // most))


def by_position(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean error of the tokens of about `BINS` spans of positions, by calibration.

    Args:
        frame: of `tokens`.

    Returns:
        Columns calibration, position (the middle of the span), tokens, error.
    """
    wide = width(frame, BINS)
    span = np.floor(frame["position"] / wide)
    grouped = frame.assign(position=span * wide + (wide - 1) / 2).groupby(
        ["calibration", "position"], sort=False
    )
    found = grouped["error"].agg(tokens="size", error="mean").reset_index()
    return found.sort_values(["calibration", "position"], kind="stable", key=_first_seen(frame))


def _first_seen(frame: pd.DataFrame):
    order = {name: i for i, name in enumerate(frame["calibration"].unique())}
    return lambda column: column.map(order) if column.name == "calibration" else column


def positions(frame: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """Error against the place of a token, the thought's first at 0.

    Args:
        frame: of `by_position`.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for calibration, line in frame.groupby("calibration", sort=False):
            said = [
                f"{calibration}, about token {row['position']:+.0f}: {spoken(row['error'], False)}, "
                f"{row['tokens']} tokens"
                for row in line.to_dict("records")
            ]
            series(
                *(axes, tips, said, line["position"], line["error"]),
                label=calibration,
                color=style[calibration].colour,
                marker=style[calibration].marker,
                markersize=3.5,
            )
        if (frame["error"] > 0).all():
            log_axis(axes, "y")
        _border(axes)
        axes.set_xlabel("token, counted from the first that the model wrote")
        axes.set_ylabel("relative error of layers")
        legend(axes)
        return Picture(figure, tips)


def ratios(frame: pd.DataFrame, baseline: str, subject: str) -> pd.DataFrame:
    """e(baseline) / e(subject) of every token that both have.

    Returns:
        Columns sequence, position, ratio.
    """
    keys = ["sequence", "position"]
    of_baseline, of_subject = (
        frame[frame["calibration"] == name].set_index(keys)["error"] for name in (baseline, subject)
    )
    ratio = (of_baseline / of_subject).replace([0, np.inf], np.nan).dropna()
    return ratio.rename("ratio").reset_index()


def median_ratio(frame: pd.DataFrame) -> tuple[float, float, float]:
    """The median ratio over tokens and its 95 % interval, from `RESAMPLES` bootstrap draws of problems.

    One problem has no interval (NaN).

    Args:
        frame: of `ratios`, of some positions.
    """
    ordered = frame.sort_values("ratio")
    problem, _ = pd.factorize(ordered["sequence"])
    count, numbers = problem.max() + 1, ordered["ratio"].to_numpy()
    if count < 2:
        return float(np.median(numbers)), math.nan, math.nan
    draws = np.random.default_rng(0).multinomial(count, [1 / count] * count, RESAMPLES)
    medians = []
    for times in draws:
        tokens = np.cumsum(times[problem])  # how many of the draw are no larger
        medians.append(numbers[np.searchsorted(tokens, tokens[-1] / 2)])
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(numbers)), float(low), float(high)


def first_problems(frame: pd.DataFrame) -> pd.DataFrame:
    """The ratios of the problems that a map has room for."""
    return frame[frame["sequence"].isin(sorted(frame["sequence"].unique())[:PROBLEMS])]


def heat(shown: pd.DataFrame, label: str) -> Picture:
    """Ratios as a map of problems × token positions, the border of prompt and thought drawn.

    Positions are put together (their geometric mean) where they are more than a figure has columns.

    Args:
        shown: of `first_problems`.
        label: of the colours.
    """
    wide = width(shown, COLUMNS)
    place = np.floor(shown["position"] / wide).astype(int)
    grid = np.log(shown["ratio"]).groupby([shown["sequence"], place]).mean().pipe(np.exp).unstack()
    grid = grid.reindex(columns=range(int(grid.columns.min()), int(grid.columns.max()) + 1))
    reach = float(np.exp(np.nanquantile(np.abs(np.log(grid.to_numpy())), 0.98))) or 1.0
    reach = max(reach, 1.05)
    left = int(grid.columns[0])
    edges = (left * wide - 0.5, (left + grid.shape[1]) * wide - 0.5)
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        image = axes.imshow(
            np.ma.masked_invalid(grid.to_numpy()),
            aspect="auto",
            cmap="PuOr_r",
            norm=LogNorm(1 / reach, reach),
            interpolation="nearest",
            extent=(*edges, len(grid) - 0.5, -0.5),
        )
        _border(axes)
        axes.grid(False)
        axes.set_xlabel("token, counted from the first that the model wrote")
        axes.set_ylabel("held-out problem")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar = figure.colorbar(image, ax=axes, pad=0.02)
        bar.set_label(label)
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if 1 / reach <= t <= reach]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.ax.minorticks_off()
        return Picture(figure, {})


def _border(axes: Axes) -> None:
    """The line between the prompt and what the model wrote."""
    axes.axvline(-0.5, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    look: dict[str, Any] = {
        "textcoords": "offset points",
        "fontsize": 7.5,
        "color": INK,
        "va": "bottom",
    }
    look["xycoords"] = axes.get_xaxis_transform()
    axes.annotate("prompt", (-0.5, 1), xytext=(-3, 1), ha="right", **look)
    axes.annotate("thought", (-0.5, 1), xytext=(3, 1), ha="left", **look)


def per_layer(frame: pd.DataFrame, value: str, label: str, style: dict[str, Style]) -> Picture:
    """A layer's relative error against its place in the model, a series a calibration.

    Args:
        frame: of `tidy.layers`.
        value: error_decode or error_prompt.
        label: of the vertical axis.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for calibration, group in frame.groupby("calibration", sort=False):
            said = [
                f"{calibration}, {row['name']}: {spoken(row[value], False)}"
                for row in group.to_dict("records")
            ]
            series(
                *(axes, tips, said, group["layer"], group[value]),
                label=calibration,
                color=style[calibration].colour,
                marker=style[calibration].marker,
                markersize=4,
                linewidth=0.6,
                alpha=0.9,
            )
        if (frame[value] > 0).all():
            log_axis(axes, "y")
        _block_ticks(axes, frame)
        axes.set_ylabel(label)
        legend(axes)
        return Picture(figure, tips)


def overlap(frame: pd.DataFrame, value: str, label: str, style: dict[str, Style]) -> Picture:
    """How alike pairs of calibrations are, layer by layer: a series a pair.

    Args:
        frame: a CSV of `rac.overlaps`.
        value: jaccard or rank_correlation.
        label: of the vertical axis.
        style: of `styles`; a pair has the colour of the first and the filling of the second.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for (calibration, baseline), pair in frame.groupby(["calibration", "baseline"], sort=False):
            said = [
                f"{calibration} and {baseline}, {row['name']}: {spoken(row[value], False)}"
                for row in pair.to_dict("records")
            ]
            series(
                *(axes, tips, said, pair["layer"], pair[value]),
                label=f"{calibration}, {baseline}",
                color=style[calibration].colour,
                marker=style[calibration].marker,
                markerfacecolor=style[baseline].colour,
                markeredgewidth=1.4,
                markersize=5,
                linewidth=0.6,
            )
        axes.set_ylim(min(0, frame[value].min() - 0.05), 1.03)
        _block_ticks(axes, frame)
        axes.set_ylabel(label)
        legend(axes)
        return Picture(figure, tips)


def _block_ticks(axes: Axes, frame: pd.DataFrame) -> None:
    """Name the decoder blocks on an axis of linear layers."""
    starts = frame.groupby("block")["layer"].min()
    for start in starts.iloc[1:]:
        axes.axvline(start - 0.5, color="#c9ced6", linewidth=0.7)
    shown = starts.iloc[:: max(1, -(-len(starts) // 10))]
    middle = (starts.diff().iloc[1:].min() - 1) / 2 if len(starts) > 1 else 0
    axes.set_xticks(shown + middle, [str(block) for block in shown.index])
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    axes.set_xlabel("decoder block (a point is a linear layer)")


def shares(frame: pd.DataFrame) -> Picture:
    """Tokens that were read and tokens that the model wrote, a bar a source or benchmark.

    Args:
        frame: columns name, model, prompt, decode (shares of tokens).
    """
    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0], max(1.5, 0.3 * len(frame) + 0.9)))
        axes = figure.add_subplot()
        places = [-i for i in range(len(frame))]
        axes.barh(places, frame["prompt"], color="#56B4E9", label="read (prompt)", height=0.62)
        axes.barh(
            *(places, frame["decode"]),
            left=frame["prompt"],
            color="#0072B2",
            label="written (decode)",
            height=0.62,
        )
        axes.set_yticks(places, frame["name"])
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(percent_tick)
        axes.grid(False, axis="y")
        axes.set_xlabel("share of tokens")
        legend(axes)
        return Picture(figure, {})
