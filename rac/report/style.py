"""How figures look, and how they are written: the same figure gives the same bytes."""

import functools
import io
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing import util
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd
from fontTools import subset
from markupsafe import escape
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

FONT = "DejaVu Sans Latin"
RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "axes.labelcolor": "#33383f",
    "axes.labelsize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.family": FONT,
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
TIPS = 800  # points of a figure that say what they are, at most
SIZE = (4.1, 2.9)  # inches: a column of a paper, and legible at the width of a phone
INK = "#1b1f24"
UNSOLVED = "none solved"  # so that a solved problem has no cost
BARS: dict[str, Any] = {"capsize": 2.5, "elinewidth": 1.1, "capthick": 1.1}


@functools.cache
def font() -> tempfile.TemporaryDirectory:
    """Make DejaVu's Latin letters and signs a font of its own, which goes into a PDF in milliseconds.

    matplotlib cuts the whole font down for each PDF, tables for Arabic and all, which takes longer than the
    drawing. Names in config.yaml are ASCII, so no other letters are needed.
    """
    folder = tempfile.TemporaryDirectory(prefix="rac-font-")
    util.Finalize(None, folder.cleanup, exitpriority=1)  # also where a pool's worker ends
    options = subset.Options(layout_features=[], name_IDs=["*"])
    options.drop_tables += ["FFTM"]
    whole = subset.load_font(font_manager.findfont("DejaVu Sans"), options)
    cut = subset.Subsetter(options)
    cut.populate(unicodes=[*range(0x20, 0x250), *range(0x2010, 0x2300)])
    cut.subset(whole)
    for record in whole["name"].names:
        if record.nameID in (1, 4, 16):
            record.string = FONT
    file = Path(folder.name) / "font.ttf"
    subset.save_font(whole, file, options)
    font_manager.fontManager.addfont(file)
    return folder


class Style(NamedTuple):
    """How a calibration is drawn."""

    colour: str
    marker: str


class Picture(NamedTuple):
    """A figure, and what the points of its series say when one looks closer."""

    figure: Figure
    tips: dict[str, list[str]]  # id of a series in the SVG → a text a point


FIXED = {
    "none": Style("#6b7078", "X"),
    "c4": Style("#D55E00", "o"),
    "prompts": Style("#009E73", "s"),
    "rac": Style("#0072B2", "D"),
}
ROLES = {"web": "c4"}  # the paper's C4
# Far apart, from those above and from INK, also for who sees no red or no green (tests/report/test_style.py).
OTHERS = (
    *("#CC79A7", "#E69F00", "#56B4E9", "#993322", "#7766FF", "#99CC77", "#1F2FA8", "#FF99AA"),
)
MARKERS = ("^", "v", "P", "*", "h", "p", "<", ">", "d", "8")


def percent_tick(share: float, _: Any) -> str:
    """A tick of a share."""
    return f"{round(100 * share, 6):g}%"


def plain_tick(number: float, _: Any) -> str:
    """A tick without powers of ten."""
    return f"{number:g}"


def points_tick(difference: float, _: Any) -> str:
    """A tick of a difference of shares, in percentage points."""
    return f"{round(100 * difference, 6):+g}".replace("-", "−") if difference else "0"


def styles(calibrations: Iterable[str]) -> dict[str, Style]:
    """A style for each calibration: fixed for the usual names, by first appearance for others.

    A name that ends like a usual one (math-rac), or else begins like one (web-60k), looks like it, if no
    other of the run does. Where there are more others than colours, a colour comes again with another marker.
    """
    names = list(dict.fromkeys(calibrations))
    roles: dict[str, str] = {}
    for part in (lambda name: name, _last_part, _first_part):
        for name in names:
            role = ROLES.get(part(name), part(name))
            if role in FIXED and name not in roles and role not in roles.values():
                roles[name] = role
    others = [name for name in names if name not in roles]
    found = {
        name: Style(OTHERS[i % len(OTHERS)], MARKERS[(i + i // len(OTHERS)) % len(MARKERS)])
        for i, name in enumerate(others)
    }
    return FIXED | found | {name: FIXED[role] for name, role in roles.items()}


def _last_part(name: str) -> str:
    return name.rpartition("-")[2]


def _first_part(name: str) -> str:
    return name.partition("-")[0]


def series(
    axes: Axes, tips: dict[str, list[str]], texts: Iterable[str], x: Any, y: Any, **look: Any
) -> None:
    """Points with error bars, which say `texts` (one each) when one looks closer.

    Args:
        axes: to draw on.
        tips: of the picture; the series is added.
        texts: plain text.
        x, y: coordinates; a point without one is not drawn.
        look: of `Axes.errorbar`.
    """
    container = axes.errorbar(x, y, **BARS | look)
    name = f"tip-{len(tips)}"
    container.lines[0].set_gid(name)
    shown = [pd.notna(a) and pd.notna(b) for a, b in zip(x, y, strict=True)]
    tips[name] = [text for text, drawn in zip(texts, shown, strict=True) if drawn]


def bars(
    points: pd.DataFrame, value: str, ends: tuple[str, str] | None = None
) -> list[pd.Series] | None:
    """Lengths of the error bars below and above; None where there are none.

    Args:
        points: a row a point.
        value: the column that is drawn.
        ends: the columns of its interval, if they are not called after it.
    """
    low, high = ends or (f"{value}_low", f"{value}_high")
    if points[low].isna().all():
        return None
    lengths = points[value] - points[low], points[high] - points[value]
    return [length.astype(float).clip(lower=0) for length in lengths]  # rounding leaves −1e-17


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


def share_axis(axes: Axes, frame: pd.DataFrame, value: str) -> None:
    """A vertical axis of shares, from 0 to 100 %, or to what is drawn if that is less than half."""
    drawn = [column for column in (value, f"{value}_high", f"paper_{value}") if column in frame]
    highest = frame[drawn].astype(float).max().max()
    top = 1.0 if not highest < 0.5 else max(1.05 * highest, 0.05)
    axes.set_ylim(-0.03 * top, 1.03 * top)


def log_axis(axes: Axes, which: str) -> None:
    """Make what is drawn so far logarithmic, with plain numbers at as many places as have room."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = getattr(axes, f"get_{which}lim")()
    wide = high / low
    subs = (1,) if wide > 300 else (1, 3) if wide > 30 else (1, 2, 3, 5)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(plain_tick)
    axis.set_minor_formatter(NullFormatter())


def write(figure: Figure, method: Callable, stream: IO, metadata: dict[str, None]) -> None:
    """Call the method of a figure's canvas that writes it; it is laid out the first time and then stays so.

    The figure's savefig would draw all of it once more each time, for the sake of the layout.
    """
    dpi = figure.dpi  # of images; whatever measures or writes changes it
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.dpi = dpi
    with rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
    method(stream, metadata=metadata)
    figure.dpi = dpi


def svg(figure: Figure) -> str:
    """A figure as SVG text; the same figure gives the same bytes."""
    font()
    stream = io.StringIO()
    unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(RC):
        write(figure, FigureCanvasSVG(figure).print_svg, stream, unsaid)
    # Coordinates to a tenth of a point; what follows a colon is a style's.
    places = r"(?<!: )(?<=[ \"(,LMCQ-])(\d+\.\d)\d+(?=[ \"),\n])"
    text = re.sub(places, r"\1", stream.getvalue())
    text = text.replace(f"font-family: '{FONT}'", "font-family: 'DejaVu Sans', sans-serif")
    text = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", text)
    return re.sub(r"(<g clip-path=\"[^\"]*\")>(\s*(?:<use [^>]*/>\s*)+)</g>", _one_style, text)


def _one_style(markers: re.Match) -> str:
    """A group of markers with the style of all of them said once."""
    opening, inner = markers.groups()
    styles = set(re.findall(r' style="[^"]*"', inner))
    if len(styles) != 1:
        return markers[0]
    style = styles.pop()
    return f"{opening}{style}>{inner.replace(style, '')}</g>"


def _one_path(paths: re.Match) -> str:
    """Paths beside each other that look alike, such as error bars, as one."""
    joined = "".join(re.findall(r' d="([^"]*)"', paths[0]))
    return f'<path d="{joined}"{paths[1]}'


def inline(text: str, name: str, description: str, tips: dict[str, list[str]]) -> str:
    """An SVG file's text to stand in a page: ids of its own, a description, and the page's width.

    Args:
        text: of `svg`.
        name: unique in the page, of letters, digits, '.', '_' and '-'.
        description: what a screen reader says; plain text.
        tips: of the picture: `data-tip` of the points of its series, if they are not too many.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*(; )?", "", text)
    text = re.sub(r">\s+<", "><", text)
    for series, texts in tips.items() if sum(map(len, tips.values())) <= TIPS else ():
        text = _with_tips(text, series, texts)
    text = re.sub(r'style="[^"]*"', lambda one: re.sub(r"([:;]) ", r"\1", one[0]), text)
    text = re.sub(r";stroke-line(cap|join):\w+", "", text)  # page.css says how lines end
    text = re.sub(
        r' d="[^"]*"', lambda one: re.sub(r" ?\s?([A-Z]) ?|\s+(?=\")", r"\1", one[0]), text
    )
    same = r'<path d="[^"]*"( clip-path="[^"]*" style="[^"]*"/>)(?:<path d="[^"]*"\1)+'
    text = re.sub(same, _one_path, text)
    text = re.sub(r"<g>(<(?:path|text|use) [^>]*(?:/>|>[^<]*</text>))</g>", r"\1", text)
    used = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    short = {old: f"{name}-{i}" for i, old in enumerate(used)}
    text = re.sub(
        r' id="([^"]+)"', lambda one: f' id="{short[one[1]]}"' if one[1] in short else "", text
    )
    text = re.sub(r"url\(#([^)]+)", lambda one: f"url(#{short[one[1]]}", text)
    text = re.sub(r'xlink:href="#([^"]+)', lambda one: f'href="#{short[one[1]]}', text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{view[0]} role="img" aria-label="{escape(description)}">'
    )
    return opening + text[text.index(">") + 1 :]


def classes(texts: list[str]) -> tuple[list[str], str]:
    """The SVGs of a page with the styles that come again as classes, and the rules of these.

    Args:
        texts: of `inline`; their elements have no other classes.
    """
    counts = Counter(found for text in texts for found in re.findall(r' style="([^"]*)"', text))
    names = {of: f"s{i}" for i, (of, count) in enumerate(counts.most_common()) if count > 1}

    def named(found: re.Match) -> str:
        return f' class="{names[found[1]]}"' if found[1] in names else found[0]

    rules = "".join(f"svg .{name}{{{of}}}\n" for of, name in names.items())
    return [re.sub(r' style="([^"]*)"', named, text) for text in texts], rules


def _with_tips(text: str, series: str, texts: list[str]) -> str:
    """The SVG with `data-tip` on the markers of a series, which matplotlib draws in their order."""
    before, found, after = text.partition(f'<g id="{series}">')
    own, end, rest = after.partition('<g id="')
    waiting = iter(texts)
    own = re.sub(r"<use ", lambda use: f'<use data-tip="{escape(next(waiting))}" ', own)
    assert next(waiting, None) is None, f"{series} draws fewer points than it has texts"
    rest = rest.replace(f'<g id="{series}">', "<g>")  # its key
    return before + found + own + end + rest


def spoken(number: float, share: bool, low: float = math.nan, high: float = math.nan) -> str:
    """A number as text, in % if it is a share, with its interval if it has one; of infinite cost, why."""
    if math.isinf(number):
        return UNSOLVED
    form = "{:.1%}" if share else "{:,.4g}"
    ends = f" [{form.format(low)}, {form.format(high)}]" if pd.notna(low) else ""
    return (form.format(number) + ends).replace("-", "−").replace("%", " %")
