"""Figures of a summary's columns: a tidy data frame in, a matplotlib figure with its tips out.

A calibration has one colour and one marker everywhere (Okabe and Ito's palette, which the
colour-blind tell apart). What is drawn is what the frame holds, in its units; a cell of the run that
has no number is marked × where the axis begins, one whose number is infinite × where it ends.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rac.report import tidy
from rac.report.style import (
    INK,
    RC,
    SIZE,
    UNSOLVED,
    Picture,
    Style,
    bars,
    legend,
    log_axis,
    percent_tick,
    points_tick,
    series,
    share_axis,
    spoken,
)

LINES = ("-", "--", ":", "-.")


def called(calibration: Any) -> str:
    """A calibration's name in a key."""
    return "uncalibrated" if calibration == "none" else str(calibration)


def texts(points: pd.DataFrame, value: str, share: bool) -> list[str]:
    """What each point says when one looks closer."""
    return [
        f"{called(row['calibration'])}, {row['variant']}: "
        + spoken(row[value], share, row[f"{value}_low"], row[f"{value}_high"])
        for row in points.to_dict("records")
    ]


def against_sparsity(
    frame: pd.DataFrame,
    value: str,
    label: str,
    style: dict[str, Style],
    share: bool = False,
    log: bool = False,
    zero: bool = True,
) -> Picture:
    """`value` against sparsity, a line a (variant, calibration), with 95 % intervals; dense a band.

    Args:
        frame: of `tidy.measured`.
        value: the column to draw.
        label: of the vertical axis.
        style: of `styles`.
        share: the value is a share, shown in %.
        log: a logarithmic axis, if all values are above zero.
        zero: the axis starts at zero.
    """
    points, tips = tidy.lines(frame), dict[str, list[str]]()
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        families = list(dict.fromkeys(points["family"]))
        _dense_band(axes, frame, value, vertical=False)
        for (family, calibration), line in points.groupby(["family", "calibration"], sort=False):
            line = line.sort_values("sparsity_asked", kind="stable")
            series(
                *(
                    axes,
                    tips,
                    texts(line, value, share),
                    line["sparsity_asked"],
                    finite(line[value]),
                ),
                yerr=bars(line, value),
                label=called(calibration),
                color=style[calibration].colour,
                marker=style[calibration].marker,
                linestyle=line_kind(axes, families, family),
            )
            _edges(axes, line[value], line["sparsity_asked"], style[calibration], "x")
            if f"paper_{value}" in line:
                _printed(axes, tips, line, value, style[calibration], x=line["sparsity_asked"])
        if log and finite(points[value]).notna().any() and not (points[value] <= 0).any():
            log_axis(axes, "y")
        elif share:
            share_axis(axes, frame, value)
        elif zero:
            axes.set_ylim(bottom=0)
        if share:
            axes.yaxis.set_major_formatter(percent_tick)
        axes.set_xticks(sorted(points["sparsity_asked"].unique()))
        axes.xaxis.set_major_formatter(percent_tick)
        axes.set_xlabel("sparsity (share of zeros)")
        axes.set_ylabel(label)
        legend(axes)
        return Picture(figure, tips)


def dots(
    frame: pd.DataFrame, value: str, label: str, style: dict[str, Style], share: bool = False
) -> Picture:
    """`value` of the cells on no line, a row a variant, with 95 % intervals; dense a band.

    Args:
        frame: of `tidy.measured`.
        value: the column to draw.
        label: of the horizontal axis.
        style: of `styles`.
        share: the value is a share, shown in %.
    """
    points, tips = (
        frame[~tidy.sweeps(frame) & (frame["variant"] != "dense")],
        dict[str, list[str]](),
    )
    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0], max(1.6, 0.24 * len(points) + 1.1)))
        axes = figure.add_subplot()
        _dense_band(axes, frame, value, vertical=True)
        rows = _rows(axes, points, "calibration")
        for calibration, group in points.groupby("calibration", sort=False):
            heights = [
                rows[key] for key in zip(group["variant"], group["calibration"], strict=True)
            ]
            series(
                *(axes, tips, texts(group, value, share), finite(group[value]), heights),
                xerr=bars(group, value),
                label=called(calibration),
                color=style[calibration].colour,
                marker=style[calibration].marker,
                linestyle="none",
            )
            _edges(axes, group[value], heights, style[calibration], "y")
            if f"paper_{value}" in group:
                _printed(axes, tips, group, value, style[calibration], y=heights)
        if share:
            axes.set_xlim(-0.03, 1.03)
            axes.xaxis.set_major_formatter(percent_tick)
        else:
            axes.set_xlim(left=0)
        axes.set_xlabel(label)
        legend(axes)
        return Picture(figure, tips)


def calibrations(frame: pd.DataFrame, dense: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """Accuracy of one variant, a row a calibration, with 95 % intervals; dense a band.

    Args:
        frame: of `tidy.measured`, of one variant.
        dense: the same of the dense model; it may be empty.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0], max(1.6, 0.24 * len(frame) + 0.9)))
        axes = figure.add_subplot()
        _dense_band(axes, dense, "accuracy", vertical=True)
        for i, calibration in enumerate(frame["calibration"]):
            point = frame.iloc[[i]]
            series(
                *(axes, tips, texts(point, "accuracy", True), point["accuracy"], [-i]),
                xerr=bars(point, "accuracy"),
                color=style[calibration].colour,
                marker=style[calibration].marker,
                linestyle="none",
            )
            _edges(axes, point["accuracy"], [-i], style[calibration], "y")
        axes.set_yticks([-i for i in range(len(frame))], frame["calibration"])
        axes.set_ylim(-len(frame) + 0.4, 0.6)
        axes.grid(False, axis="y")
        axes.set_xlim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(percent_tick)
        axes.set_xlabel("accuracy")
        legend(axes)
        return Picture(figure, tips)


def differences(frame: pd.DataFrame, style: dict[str, Style]) -> Picture:
    """Paired differences of accuracy to each baseline, a row a variant, with 95 % intervals.

    Args:
        frame: of `tidy.against`, of one (model, eval).
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0], max(1.6, 0.2 * len(frame) + 1.1)))
        axes = figure.add_subplot()
        rows = _rows(axes, frame, "baseline")
        axes.axvline(0, color=INK, linewidth=1)
        for baseline, group in frame.groupby("baseline", sort=False):
            heights = [rows[key] for key in zip(group["variant"], group["baseline"], strict=True)]
            said = [
                f"{row['variant']}, {row['calibration']} − {row['baseline']}: "
                + spoken(row["difference"], True, row["low"], row["high"])
                for row in group.to_dict("records")
            ]
            series(
                *(axes, tips, said, group["difference"], heights),
                xerr=bars(group, "difference", ("low", "high")),
                label=f"{group['calibration'].iloc[0]} − {baseline}",
                color=style[baseline].colour,
                marker=style[baseline].marker,
                linestyle="none",
            )
        ends = frame[["difference", "low", "high"]]
        left, right = 1.05 * ends.min().min(), 1.05 * ends.max().max()
        margin = 0.25 * max(-left, right, 0.05)  # zero stands inside, not at an edge
        axes.set_xlim(min(left, -margin), max(right, margin))
        axes.xaxis.set_major_formatter(points_tick)
        axes.set_xlabel("difference in accuracy, percentage points")
        legend(axes)
        return Picture(figure, tips)


def finite(numbers: pd.Series) -> pd.Series:
    """The numbers that an axis can show; NaN for others."""
    return numbers.where(np.isfinite(numbers.astype(float)))


def _edges(axes: Axes, numbers: pd.Series, at: Any, style: Style, data: str) -> None:
    """× where a cell is missing, at the axis' beginning, and where its number is infinite, at its end.

    Args:
        axes: to draw on.
        numbers: a cell each.
        at: their other coordinate.
        style: of the crosses.
        data: the axis that `at` is on.
    """
    transform = axes.get_xaxis_transform() if data == "x" else axes.get_yaxis_transform()
    for marked, edge, label, width in (
        (numbers.isna(), 0.03, "missing", 2),
        (np.isinf(numbers.astype(float)), 0.97, f"{UNSOLVED} (at the end)", 1),
    ):
        places = [place for place, one in zip(at, marked, strict=True) if one]
        look: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 7}
        look["markeredgewidth"] = width
        if places:
            x, y = places, [edge] * len(places)
            if data == "y":
                x, y = y, x
            axes.plot(x, y, color=style.colour, transform=transform, clip_on=False, **look)
            axes.plot([], [], color=INK, label=label, **look)


def _printed(
    axes: Axes,
    tips: dict[str, list[str]],
    points: pd.DataFrame,
    value: str,
    style: Style,
    **at: Any,
) -> None:
    """The paper's printed numbers, as hollow markers `at` so much of x, or of y."""
    there = points[f"paper_{value}"].notna().to_numpy()
    if there.any():
        shown = points[there]
        said = [
            f"printed in the paper (secondary source), {row['calibration']}, {row['variant']}: "
            + spoken(row[f"paper_{value}"], True)
            for row in shown.to_dict("records")
        ]
        look: dict[str, Any] = {"color": style.colour, "marker": style.marker}
        look |= {"markerfacecolor": "white", "linestyle": "none", "markersize": 6.5, "zorder": 3}
        numbers = dict.fromkeys("xy", shown[f"paper_{value}"])
        places = numbers | {axis: pd.Series(list(given))[there] for axis, given in at.items()}
        series(axes, tips, said, places["x"], places["y"], **look)
        axes.plot([], [], label="printed in the paper", **look | {"color": INK, "marker": "o"})


def _dense_band(axes: Axes, frame: pd.DataFrame, value: str, vertical: bool) -> None:
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    known = (frame["variant"] == "dense") & finite(frame[value]).notna()
    for _, dense in frame[known].iterrows():
        if pd.notna(dense[f"{value}_low"]):
            span(dense[f"{value}_low"], dense[f"{value}_high"], color=INK, alpha=0.12, linewidth=0)
        line(dense[value], color=INK, linewidth=1.2, linestyle=(0, (4, 2)), label="dense")


def _rows(axes: Axes, points: pd.DataFrame, series: str) -> dict[tuple[str, str], float]:
    """Heights of the points of a dot plot, first variant on top, its series beside each other."""
    variants = list(dict.fromkeys(points["variant"]))
    heights = {}
    for i, variant in enumerate(variants):
        names = list(dict.fromkeys(points[points["variant"] == variant][series]))
        for j, name in enumerate(names):
            heights[variant, name] = -i - (j - (len(names) - 1) / 2) * min(0.22, 0.8 / len(names))
    axes.set_yticks([-i for i in range(len(variants))], variants)
    axes.set_ylim(-len(variants) + 0.4, 0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    for i in range(len(variants) - 1):
        axes.axhline(-i - 0.5, color="#e3e6ea", linewidth=0.7)
    return heights


def line_kind(axes: Axes, families: list[str], family: Any) -> str:
    """The line style of a variant; a key explains it where there are several, colours being calibrations."""
    kind = LINES[families.index(family) % len(LINES)]
    if len(families) > 1 and family not in axes.get_legend_handles_labels()[1]:
        axes.plot([], [], color=INK, linestyle=kind, label=family)
    return kind
