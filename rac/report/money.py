"""Accuracy for money: which cells are best for their speed, memory and size."""

from collections.abc import Collection

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from rac.report import tidy
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

KINDS = {  # how a kind of compression is marked; colours are calibrations
    "dense": "*",
    "unstructured": "o",
    "n:m": "s",
    "structured": "^",
    "quantized": "D",
    "pruned and quantized": "P",
    "structured and quantized": "X",
}
NARROWER = ("structured", "structured and quantized")  # whose matrices are smaller


def kinds(rows: pd.DataFrame) -> pd.Series:
    """What was done to each cell: a key of `KINDS`."""

    def kind(row: pd.Series) -> str:
        if row["variant"] == "dense":
            return "dense"
        if row["quantization"]:
            if row["solver"] in ("", "none"):
                return "quantized"
            how = "structured" if row["solver"] == "structured" else "pruned"
            return f"{how} and quantized"
        if row["solver"] == "structured":
            return "structured"
        return "n:m" if ":" in row["pattern"] else "unstructured"

    return rows.apply(kind, axis=1) if len(rows) else pd.Series(dtype=str)


def beside_dense(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with speeds that can be compared: the dense model's times each cell's speed-up.

    A cell is timed in turn with the dense model in a process of its own, and processes differ in speed.

    Args:
        rows: of one (model, eval).

    Returns:
        The rows, with such `tokens_per_second_batch` and, of batch 1, `milliseconds_1` a token.
    """
    dense = rows["variant"] == "dense"

    def speed(batch: str) -> pd.Series:
        own = rows[f"tokens_per_second_{batch}"].astype(float)
        return own.where(dense, own[dense].mean() * rows[f"speedup_{batch}"].astype(float))

    return rows.assign(tokens_per_second_batch=speed("batch"), milliseconds_1=1000 / speed("1"))


def pareto(rows: pd.DataFrame, cost: str, more: bool, able: Collection[str]) -> pd.DataFrame:
    """The cells where accuracy and a cost were measured, and whether a cell is on the front.

    A cell is on the front if no other is at least as accurate and as cheap, and better in one of them.

    Args:
        rows: of one (model, eval), with `kinds` as column "kind".
        cost: a column.
        more: more of it is better, as of a speed.
        able: the kinds that can be cheaper than the dense model; one of another kind that was measured to
            be counts as the dense model here.
    """
    frame = tidy.measured(rows.assign(**{cost: rows[cost].astype(float)}), "accuracy")
    keys = ["calibration", "variant"]
    frame = frame.merge(rows[[*keys, "kind", cost]], on=keys).dropna(subset=["accuracy", cost])
    signed = frame[cost] if more else -frame[cost]
    dense = signed[frame["kind"] == "dense"].max()
    signed = signed.where(frame["kind"].isin(able) | ~(signed > dense), dense)
    best = [
        not (
            (frame["accuracy"] >= a) & (signed >= c) & ((frame["accuracy"] > a) | (signed > c))
        ).any()
        for a, c in zip(frame["accuracy"], signed, strict=True)
    ]
    return frame.assign(front=best).reset_index(drop=True)


def fronts(
    frame: pd.DataFrame, cost: str, label: str, scale: float, style: dict[str, Style]
) -> Picture:
    """Accuracy against a cost, marked by what was done, with 95 % intervals; a line joins the front.

    Args:
        frame: of `pareto`.
        cost: its column.
        label: of the horizontal axis.
        scale: what the axis multiplies the column with.
        style: of `styles`.
    """
    tips: dict[str, list[str]] = {}
    with rc_context(RC):
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        best = frame[frame["front"]].sort_values(cost)
        axes.plot(best[cost] * scale, best["accuracy"], color="#8a8f98", linewidth=1, zorder=1)
        for (calibration, kind), group in frame.groupby(["calibration", "kind"], sort=False):
            said = [
                f"{called(row['calibration'])}, {row['variant']}: "
                + spoken(row["accuracy"], True, row["accuracy_low"], row["accuracy_high"])
                + f" at {row[cost] * scale:,.4g} ({label})"
                for row in group.to_dict("records")
            ]
            colour = INK if kind == "dense" else style[calibration].colour
            series(
                *(axes, tips, said, group[cost] * scale, group["accuracy"]),
                yerr=bars(group, "accuracy"),
                elinewidth=0.6,
                capsize=0,
                color=colour,
                marker=KINDS[kind],
                markersize=9 if kind == "dense" else 5,
                linestyle="none",
            )
            axes.plot(
                [], [], color=colour, label="dense" if kind == "dense" else called(calibration)
            )
        for kind in frame["kind"].unique():
            if kind != "dense":
                axes.plot([], [], color=INK, marker=KINDS[kind], linestyle="none", label=kind)
        for i, row in enumerate(best.to_dict("records")[:8]):
            axes.annotate(
                row["variant"],
                (row[cost] * scale, row["accuracy"]),
                xytext=(0, -14 if i % 2 else 7),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
        if frame[cost].min() > 0 and frame[cost].max() > 10 * frame[cost].min():
            log_axis(axes, "x")
        axes.margins(x=0.14)
        axes.set_ylim(-0.03, 1.12)
        axes.yaxis.set_major_formatter(percent_tick)
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy")
        legend(axes)
        return Picture(figure, tips)


def timed(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells whose speed was measured, each once whatever evals it has."""
    speeds = rows[["tokens_per_second_1", "tokens_per_second_batch"]]
    found = rows[speeds.notna().any(axis="columns")]
    return found.drop_duplicates(["model", "calibration", "variant"])


def measured_speed(rows: pd.DataFrame) -> list[dict]:
    """Speed-ups that were measured, by kind.

    Returns:
        Dicts of "kind", "cells", "low" and "high" (of both batches) and "se", the largest standard error.
    """
    cells = timed(rows)
    found = []
    for kind in KINDS:
        group = cells[cells["kind"] == kind]
        speeds = pd.concat([group["speedup_1"], group["speedup_batch"]]).dropna().astype(float)
        shown = rows["kind"] == kind
        if shown.any() and kind != "dense":
            errors = group[["speedup_1_se", "speedup_batch_se"]].astype(float).max(axis=None)
            found.append(
                {"kind": kind, "cells": len(group), "low": speeds.min(), "high": speeds.max()}
                | {"se": errors}
            )
    return found
