"""Figures of a run: a tidy data frame in, a matplotlib figure out.

A calibration has one colour and one marker everywhere (Okabe and Ito's palette, which the
colour-blind tell apart). What is drawn is what the frame holds, in its units.
"""

from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rac.report import tidy
from rac.report.style import INK, RC, SIZE, Style, legend, log_axis, percent_tick, points_tick

LINES = ("-", "--", ":", "-.")
BARS: dict[str, Any] = {"capsize": 2.5, "elinewidth": 1.1, "capthick": 1.1}


def _called(calibration: Any) -> str:
    return "uncalibrated" if calibration == "none" else str(calibration)


def against_sparsity(
    frame: pd.DataFrame,
    value: str,
    label: str,
    style: dict[str, Style],
    share: bool = False,
    log: bool = False,
    zero: bool = True,
) -> Figure:
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
    points = tidy.lines(frame)
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        families = list(dict.fromkeys(points["family"]))
        _dense_band(axes, frame, value, vertical=False)
        for (family, calibration), line in points.groupby(["family", "calibration"], sort=False):
            line = line.sort_values("sparsity_asked", kind="stable")
            axes.errorbar(
                line["sparsity_asked"],
                line[value],
                yerr=_bars(line, value),
                label=_called(calibration),
                color=style[calibration].colour,
                marker=style[calibration].marker,
                linestyle=_line_kind(axes, families, family),
                **BARS,
            )
        if log and (points[value] > 0).all():
            log_axis(axes, "y")
        elif share:
            axes.set_ylim(-0.03, 1.03)
        elif zero:
            axes.set_ylim(bottom=0)
        if share:
            axes.yaxis.set_major_formatter(percent_tick)
        axes.set_xticks(sorted(points["sparsity_asked"].unique()))
        axes.xaxis.set_major_formatter(percent_tick)
        axes.set_xlabel("sparsity (share of zeros)")
        axes.set_ylabel(label)
        legend(axes)
        return figure


def dots(
    frame: pd.DataFrame, value: str, label: str, style: dict[str, Style], share: bool = False
) -> Figure:
    """`value` of the cells on no line, a row a variant, with 95 % intervals; dense a band.

    Args:
        frame: of `tidy.measured`.
        value: the column to draw.
        label: of the horizontal axis.
        style: of `styles`.
        share: the value is a share, shown in %.
    """
    points = frame[~tidy.sweeps(frame) & (frame["variant"] != "dense")]
    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0], max(1.6, 0.24 * len(points) + 1.1)))
        axes = figure.add_subplot()
        _dense_band(axes, frame, value, vertical=True)
        rows = _rows(axes, points, "calibration")
        for calibration, group in points.groupby("calibration", sort=False):
            axes.errorbar(
                group[value],
                [rows[key] for key in zip(group["variant"], group["calibration"], strict=True)],
                xerr=_bars(group, value),
                label=_called(calibration),
                color=style[calibration].colour,
                marker=style[calibration].marker,
                linestyle="none",
                **BARS,
            )
        if share:
            axes.set_xlim(-0.03, 1.03)
            axes.xaxis.set_major_formatter(percent_tick)
        else:
            axes.set_xlim(left=0)
        axes.set_xlabel(label)
        legend(axes)
        return figure


def differences(frame: pd.DataFrame, style: dict[str, Style]) -> Figure:
    """Paired differences of accuracy to each baseline, a row a variant, with 95 % intervals.

    Args:
        frame: of `tidy.against`, of one (model, eval).
        style: of `styles`.
    """
    with rc_context(RC):
        figure = Figure(figsize=(SIZE[0], max(1.6, 0.2 * len(frame) + 1.1)))
        axes = figure.add_subplot()
        rows = _rows(axes, frame, "baseline")
        axes.axvline(0, color=INK, linewidth=1)
        for baseline, group in frame.groupby("baseline", sort=False):
            axes.errorbar(
                group["difference"],
                [rows[key] for key in zip(group["variant"], group["baseline"], strict=True)],
                xerr=[group["difference"] - group["low"], group["high"] - group["difference"]],
                label=f"{group['calibration'].iloc[0]} − {baseline}",
                color=style[baseline].colour,
                marker=style[baseline].marker,
                linestyle="none",
                **BARS,
            )
        ends = frame[["difference", "low", "high"]]
        left, right = 1.05 * ends.min().min(), 1.05 * ends.max().max()
        margin = 0.25 * max(-left, right, 0.05)  # zero stands inside, not at an edge
        axes.set_xlim(min(left, -margin), max(right, margin))
        axes.xaxis.set_major_formatter(points_tick)
        axes.set_xlabel("difference in accuracy, percentage points")
        legend(axes)
        return figure


def per_layer(frame: pd.DataFrame, value: str, label: str, style: dict[str, Style]) -> Figure:
    """A layer's relative error against its place in the model, a series a calibration.

    Args:
        frame: of `tidy.layers`.
        value: error_decode or error_prompt.
        label: of the vertical axis.
        style: of `styles`.
    """
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for calibration, group in frame.groupby("calibration", sort=False):
            axes.plot(
                group["layer"],
                group[value],
                label=calibration,
                color=style[calibration].colour,
                marker=style[calibration].marker,
                markersize=4,
                linewidth=0.6,
                alpha=0.9,
            )
        if (frame[value] > 0).all():
            log_axis(axes, "y")
        starts = frame.groupby("block")["layer"].min()
        for start in starts.iloc[1:]:
            axes.axvline(start - 0.5, color="#c9ced6", linewidth=0.7)
        shown = starts.iloc[:: max(1, -(-len(starts) // 10))]
        middle = (starts.diff().iloc[1:].min() - 1) / 2 if len(starts) > 1 else 0
        axes.set_xticks(shown + middle, [str(block) for block in shown.index])
        axes.tick_params(axis="x", length=0)
        axes.grid(False, axis="x")
        axes.set_xlabel("decoder block (a point is a linear layer)")
        axes.set_ylabel(label)
        legend(axes)
        return figure


def price(frame: pd.DataFrame, style: dict[str, Style]) -> Figure:
    """Loss on held-out thoughts against loss on held-out text; lines join sparsities.

    Args:
        frame: of `tidy.losses`.
        style: of `styles`.
    """
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        points = tidy.lines(frame)
        families = list(dict.fromkeys(points["family"]))
        for (family, calibration), line in points.groupby(["family", "calibration"], sort=False):
            line = line.sort_values("sparsity_asked", kind="stable")
            kind = _line_kind(axes, families, family)
            _losses(axes, line, style[calibration], _called(calibration), kind)
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
            name = _called(calibration)
            _losses(axes, group, style[calibration], None if calibration in named else name, "none")
        for _, dense in frame[frame["variant"] == "dense"].iterrows():
            axes.plot(dense["loss_text"], dense["loss_thoughts"], "k*", markersize=9, label="dense")
        for axis, column in (("x", "loss_text"), ("y", "loss_thoughts")):
            if frame[column].min() > 0 and frame[column].max() > 10 * frame[column].min():
                log_axis(axes, axis)
        axes.set_xlabel("loss on text (nats a token)")
        axes.set_ylabel("loss on thoughts (nats a token)")
        legend(axes)
        return figure


def _losses(
    axes: Axes, line: pd.DataFrame, style: Style, label: str | None, linestyle: str
) -> None:
    axes.errorbar(
        line["loss_text"],
        line["loss_thoughts"],
        xerr=_bars(line, "loss_text"),
        yerr=_bars(line, "loss_thoughts"),
        label=label,
        color=style.colour,
        marker=style.marker,
        markerfacecolor="white" if linestyle == "none" else style.colour,
        linestyle=linestyle,
        **BARS,
    )


def _bars(points: pd.DataFrame, value: str) -> list[pd.Series] | None:
    if points[f"{value}_low"].isna().all():
        return None
    return [points[value] - points[f"{value}_low"], points[f"{value}_high"] - points[value]]


def _dense_band(axes: Axes, frame: pd.DataFrame, value: str, vertical: bool) -> None:
    span, line = (axes.axvspan, axes.axvline) if vertical else (axes.axhspan, axes.axhline)
    for _, dense in frame[frame["variant"] == "dense"].iterrows():
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


def _line_kind(axes: Axes, families: list[str], family: Any) -> str:
    """The line style of a variant; a key explains it where there are several, colours being calibrations."""
    kind = LINES[families.index(family) % len(LINES)]
    if len(families) > 1 and family not in axes.get_legend_handles_labels()[1]:
        axes.plot([], [], color=INK, linestyle=kind, label=family)
    return kind
