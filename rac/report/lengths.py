"""The price of rambling: how long thoughts are, and what a smaller budget of tokens would have left."""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from rac.artifacts import read_jsonl
from rac.report.answers import there
from rac.report.figures import called
from rac.report.style import (
    INK,
    RC,
    SIZE,
    Picture,
    Style,
    bars,
    legend,
    log_axis,
    percent_tick,
    series,
    spoken,
)

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)  # where a curve says its numbers


def lengths(cells: list[dict], missing: list[str]) -> pd.DataFrame:
    """Tokens of every sample: columns calibration, variant, tokens, finished.

    Args:
        cells: dicts of "calibration", "variant" and "scores", of one (model, eval).
        missing: paths that were not found are added.
    """
    rows = [
        {key: cell[key] for key in ("calibration", "variant")}
        | {"tokens": row["tokens"], "finished": row["finished"]}
        for cell in cells
        if there(cell["scores"], missing)
        for row in read_jsonl(cell["scores"])
        if "tokens" in row
    ]
    return pd.DataFrame(rows, columns=["calibration", "variant", "tokens", "finished"])


def distribution(frame: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """The share of samples that are at most so long, a curve a cell; those cut at the end never close.

    Args:
        frame: of `lengths`.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for (calibration, variant), group in frame.groupby(["calibration", "variant"], sort=False):
            name, colour = called(calibration), style[calibration].colour
            if variant == "dense":
                name, colour = "dense", INK
            ended = np.sort(group.loc[group["finished"], "tokens"].to_numpy(dtype=float))
            if not len(ended):
                axes.plot([], [], color=colour, label=f"{name} (none ended)")
                continue
            shares = np.arange(1, len(ended) + 1) / len(group)
            axes.step(ended, shares, where="post", color=colour, linewidth=1.6)
            reached = [i for q in QUANTILES if (i := int(np.ceil(q * len(group))) - 1) < len(ended)]
            # The last of as many tokens: all of them have ended by then.
            marks = sorted({int(np.searchsorted(ended, ended[i], "right")) - 1 for i in reached})
            said = [
                f"{name}: {spoken(shares[i], True)} ended within {ended[i]:,.0f} tokens"
                for i in marks
            ]
            series(
                *(axes, tips, said, ended[marks], shares[marks]),
                label=name,
                color=colour,
                marker=style[calibration].marker,
                linestyle="none",
            )
        if frame["tokens"].min() > 0 and frame["tokens"].max() > 8 * frame["tokens"].min():
            log_axis(axes, "x")
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(percent_tick)
        axes.set_xlabel("tokens of a sample")
        axes.set_ylabel("samples that ended by then")
        legend(axes)
        return Picture(figure, tips)


def quantiles(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a cell of `lengths`: samples, share that ended, and quantiles of the tokens of all samples."""
    grouped = frame.groupby(["calibration", "variant"], sort=False)
    columns = {
        f"{q:.0%}".replace("%", " % below"): grouped["tokens"].quantile(q) for q in QUANTILES
    }
    counts = {"samples": grouped.size(), "ended": grouped["finished"].mean()}
    return pd.DataFrame(counts | columns).reset_index()


def budget_lines(frame: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """Accuracy if samples were cut at fewer tokens, a line a cell.

    Args:
        frame: rows of budgets.csv of one (model, eval).
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for (calibration, variant), line in frame.groupby(["calibration", "variant"], sort=False):
            dense = variant == "dense"
            name = "dense" if dense else called(calibration)
            said = [
                f"{name}, at most {row['budget']:,} tokens: "
                + spoken(row["accuracy"], True, row["accuracy_low"], row["accuracy_high"])
                for row in line.to_dict("records")
            ]
            series(
                *(axes, tips, said, line["budget"], line["accuracy"]),
                yerr=bars(line, "accuracy"),
                label=name,
                color=INK if dense else style[calibration].colour,
                marker=style[calibration].marker,
                linestyle=(0, (4, 2)) if dense else "-",
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(frame["budget"].unique()), sorted(frame["budget"].unique()))
        axes.minorticks_off()
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(percent_tick)
        axes.set_xlabel("tokens allowed")
        axes.set_ylabel("accuracy")
        legend(axes)
        return Picture(figure, tips)
