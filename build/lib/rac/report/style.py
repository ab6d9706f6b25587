"""How figures look, and how they are written: the same figure gives the same bytes."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "axes.labelcolor": "#33383f",
    "axes.labelsize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "rac",
    "xtick.color": "#33383f",
    "ytick.color": "#33383f",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
SIZE = (4.1, 2.9)  # inches: a column of a paper, and legible at the width of a phone
INK = "#1b1f24"


class Style(NamedTuple):
    """How a calibration is drawn."""

    colour: str
    marker: str


FIXED = {
    "none": Style("#6b7078", "X"),
    "c4": Style("#D55E00", "o"),
    "prompts": Style("#009E73", "s"),
    "rac": Style("#0072B2", "D"),
}
OTHERS = (
    Style("#CC79A7", "^"),
    Style("#E69F00", "v"),
    Style("#56B4E9", "P"),
    Style("#000000", "*"),
    Style("#F0E442", "h"),
)


def percent_tick(share: float, _: Any) -> str:
    """A tick of a share."""
    return f"{round(100 * share, 6):g}%"


def points_tick(difference: float, _: Any) -> str:
    """A tick of a difference of shares, in percentage points."""
    return f"{round(100 * difference, 6):+g}".replace("-", "−") if difference else "0"


def styles(calibrations: Iterable[str]) -> dict[str, Style]:
    """A style for each calibration: fixed for the usual names, by first appearance for others."""
    others = [name for name in dict.fromkeys(calibrations) if name not in FIXED]
    return FIXED | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(others)}


def legend(axes: Axes) -> None:
    """A legend above the axes, each label once and dense first; the figure grows by its rows."""
    unique = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if not unique:
        return
    labels = sorted(unique, key=lambda label: label != "dense")
    row = 58  # characters, a key counting five
    if sum(len(label) + 5 for label in labels) <= row:
        columns = len(labels)
    else:
        columns = max(1, row // (max(map(len, labels)) + 5))
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(figure.get_figheight() + 0.18 * (-(-len(labels) // columns) - 1))
    figure.legend(
        [unique[label] for label in labels],
        labels,
        loc="outside upper left",
        ncols=columns,
        handlelength=1.8,
        columnspacing=1,
    )


def log_axis(axes: Axes, which: str) -> None:
    """Make what is drawn so far logarithmic, with plain numbers at as many places as have room."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    axis.set_major_locator(LogLocator(subs=(1,) if high > 300 * low else (1, 2, 3, 5)))
    axis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.set_minor_formatter(NullFormatter())


def svg(figure: Figure) -> str:
    """A figure as SVG text; the same figure gives the same bytes."""
    stream = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(RC):
        figure.savefig(stream, format="svg", metadata=unsaid)
    return stream.getvalue()


def inline(text: str, name: str, description: str) -> str:
    """An SVG file's text to stand in a page: ids of its own, a description, and the page's width.

    Args:
        text: of `svg`.
        name: unique in the page, of letters, digits, '.', '_' and '-'.
        description: what a screen reader says; plain text.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{view[0]} role="img" aria-label="{escape(description)}">'
    )
    return opening + text[text.index(">") + 1 :]


def save(figure: Figure, drawn: str, frame: pd.DataFrame, folder: Path, name: str) -> None:
    """Write name.svg (the text `drawn` by `svg`), name.pdf and, with what they show, name.csv."""
    (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    figure.set_layout_engine("none")  # keep the places that drawing gave
    with rc_context(RC):
        unsaid = dict.fromkeys(("Creator", "Producer", "CreationDate"))
        figure.savefig(folder / f"{name}.pdf", metadata=unsaid)
    frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
