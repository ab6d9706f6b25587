"""Figures are drawn several at a time: most of a page's time is spent here."""

import gc
import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from rac.report.style import RC, Picture, svg, write

PROCESSES = 8  # at most


class Drawn(NamedTuple):
    """A figure with the frame that it shows."""

    topic: str  # the section of the page that it stands in
    name: str  # of its files
    frame: pd.DataFrame
    picture: Picture
    caption: str
    description: str  # for those who cannot see it
    table: pd.DataFrame | None = None  # what the page shows of the frame, if not all


class Finished(NamedTuple):
    """What is kept of a figure."""

    drawn: Drawn  # its figure empty
    svg: str
    pdf: bytes


def finish(jobs: Sequence[Callable[[], Iterable[Drawn]]]) -> list[Finished]:
    """What the jobs draw, in their order; each is done by a process of its own."""
    workers = min(os.cpu_count() or 1, PROCESSES)
    # Figures are cycles of objects: looking for them costs a tenth of the time, and the processes end soon.
    with ProcessPoolExecutor(workers, initializer=gc.disable) as pool:
        return [one for of_job in pool.map(_finish, jobs) for one in of_job]


def _finish(job: Callable[[], Iterable[Drawn]]) -> list[Finished]:
    found = []
    for one in job():
        text, pdf = rendered(one.picture.figure)
        found.append(Finished(one._replace(picture=Picture(Figure(), one.picture.tips)), text, pdf))
    return found


def rendered(figure: Figure) -> tuple[str, bytes]:
    """A figure as SVG text and as PDF; the same figure gives the same bytes."""
    text, stream = svg(figure), io.BytesIO()
    with rc_context(RC):
        unsaid = dict.fromkeys(("Creator", "Producer", "CreationDate"))
        write(figure, FigureCanvasPdf(figure).print_pdf, stream, unsaid)
    return text, stream.getvalue()


def save(one: Finished, folder: Path) -> None:
    """Write the figure as SVG and PDF and, with what they show, as CSV."""
    name = one.drawn.name
    (folder / f"{name}.svg").write_text(one.svg, encoding="utf-8")
    (folder / f"{name}.pdf").write_bytes(one.pdf)
    one.drawn.frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
