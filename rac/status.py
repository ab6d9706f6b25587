"""Where a run stands: what is done, runs, failed or is missing, from the files that are there.

Whether what is there is up to date only Snakemake knows: `snakemake -n`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from rac import artifacts, inventory, matrix
from rac.config import Config
from rac.errors import error_line
from rac.report.preview import LOGS
from rac.report.times import seconds_of

LOCK = Path("results/.lock")
LONGEST = 160  # characters of a log's line


class Row(NamedTuple):
    """An artefact that several cells hang on, or a cell."""

    name: str
    state: Literal["done", "running", "failed", "missing"]
    seconds: float  # of the jobs that made what is there
    bytes: int
    said: str  # the last line of the log of what is not there, or what is not there


def status(config: Config) -> list[Row]:
    """A row an artefact and a cell of the active run, in the order in which they are made."""
    since = LOCK.stat().st_mtime if artifacts.is_held(LOCK) else None
    rows = []
    for made in inventory.shared(config):
        done = Path(made.path).exists()
        logs = [] if done else [Path(made.log), *_of_shards(Path(made.log))]
        state, said = _look(logs, since)
        seconds = seconds_of(Path(made.benchmark))
        rows.append(Row(made.name, "done" if done else state, seconds, size(Path(made.path)), said))
    cells: dict[tuple[str, str, str], list[dict]] = {}
    for row in matrix.summary_cells(config):
        cells.setdefault((row["model"], row["calibration"], row["variant"]), []).append(row)
    for (model, calibration, variant), of_cell in cells.items():
        wanted = dict.fromkeys(file for row in of_cell for file in matrix.files_of(row))
        absent = [file for file in wanted if not Path(file).exists()]
        state, said = _look(_logs(of_cell), since)
        if absent and not said:
            said = f"{len(absent)} of {len(wanted)} files are missing"
        benchmarks = Path("results", model, "benchmarks")
        times = [
            *benchmarks.glob(f"*/{calibration}/{variant}.tsv"),
            *benchmarks.glob(f"*/{calibration}/{variant}/*.tsv"),
        ]
        seconds = sum(map(seconds_of, times))
        folder = matrix.Cell(model, calibration, variant).folder
        name = f"{model} {calibration} {variant}"
        rows.append(Row(name, state if absent else "done", seconds, size(Path(folder)), said))
    return rows


def table(rows: Iterable[Row]) -> str:
    """The rows as text, and how many are in which state."""
    rows = list(rows)
    lines = [
        (row.name, row.state, f"{row.seconds:,.0f}", f"{row.bytes / 1e6:,.1f}", row.said)
        for row in rows
    ]
    head = ("", "state", "seconds", "MB", "")
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    text = []
    for name, state, seconds, size, said in (head, *lines):
        start = f"{name:{widths[0]}}  {state:{widths[1]}}"
        text.append(f"{start}  {seconds:>{widths[2]}}  {size:>{widths[3]}}  {said}".rstrip())
    states = [row.state for row in rows]
    counts = [
        f"{states.count(state)} {state}" for state in ("done", "running", "failed", "missing")
    ]
    return "\n".join([*text, "", ", ".join(counts)]) + "\n"


def _logs(of_cell: list[dict]) -> list[Path]:
    """The logs of what a cell lacks."""
    return [
        log
        for row in of_cell
        for kind, names in LOGS.items()
        if row[kind] and not Path(row[kind]).exists()
        for name in names
        for log in Path("logs", row["model"], row["calibration"], row["variant"]).glob(
            f"{name.format(**row)}*.log"
        )
    ]


def _look(
    logs: Iterable[Path], since: float | None
) -> tuple[Literal["running", "failed", "missing"], str]:
    """The state of what lacks a file, by the newest of its logs, and that log's last line."""
    there = sorted((log for log in logs if log.exists()), key=lambda log: log.stat().st_mtime)
    for log in reversed(there):
        text = log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        running = since is not None and log.stat().st_mtime >= since
        wrong = error_line(text)
        if wrong:
            return "failed", _plain(wrong)
        if running:
            return "running", _plain(lines[-1]) if lines else ""
    return "missing", ""


def _plain(line: str) -> str:
    """A line of a log as a terminal may show it."""
    return "".join(c if c.isprintable() else " " for c in line).strip()[:LONGEST]


def _of_shards(log: Path) -> list[Path]:
    return sorted(log.parent.glob(f"{log.stem}-*.log"))


def size(path: Path) -> int:
    """Bytes of a file or of all below a folder, links counted as links."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())
