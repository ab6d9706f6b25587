"""Where a run stands: what is done, runs, failed or is missing, from the files that are there.

Whether what is there is up to date only Snakemake knows: `snakemake -n`.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from rac import artifacts, inventory, matrix
from rac.config import Config
from rac.logs import error_line
from rac.progress import LINE_EVERY, PATIENCE
from rac.report.preview import LOGS, logs_of
from rac.report.times import benchmarks_of, seconds_of

LOCK = Path("results/.lock")
LONGEST = 160  # characters of a log's line


class Log(NamedTuple):
    """A job's log, and Snakemake's benchmark file of it."""

    path: Path
    benchmark: Path


class Row(NamedTuple):
    """An artefact that several cells hang on, a cell, or what is made from cells."""

    name: str
    state: Literal["done", "running", "failed", "missing"]
    seconds: float  # of the jobs that made what is there
    bytes: int
    said: str  # the last line of the log of what is not there, or what is not there


def status(config: Config, over: bool = False) -> list[Row]:
    """A row an artefact and a cell of the active run, in the order in which they are made.

    Args:
        config: the configuration.
        over: nothing is started any more, though this process holds the workflow's lock.
    """
    locked = not over and artifacts.is_held(LOCK)
    rows = [_shared(made, locked) for made in inventory.shared(config)]
    jobs = matrix.jobs(config)
    cells: dict[tuple[str, str, str], list[dict]] = {}
    for row in matrix.summary_cells(config):
        cells.setdefault((row["model"], row["calibration"], row["variant"]), []).append(row)
    for (model, calibration, variant), of_cell in cells.items():
        wanted = dict.fromkeys(file for row in of_cell for file in matrix.files_of(row))
        absent = [file for file in wanted if not Path(file).exists()]
        state, said = _look(_logs(of_cell), locked)
        if absent and not said:
            said = f"{len(absent)} of {len(wanted)} files are missing"
        cell = matrix.Cell(model, calibration, variant)
        seconds = sum(map(seconds_of, benchmarks_of(Path("results"), cell, jobs[cell])))
        folder = cell.folder
        name = f"{model} {calibration} {variant}"
        rows.append(Row(name, state if absent else "done", seconds, size(Path(folder)), said))
    return rows + [_shared(made, locked) for made in inventory.of_cells(config)]


def _shared(made: inventory.Shared, locked: bool) -> Row:
    """The row of an artefact that is not a cell's."""
    path, benchmark, done = Path(made.path), Path(made.benchmark), Path(made.path).exists()
    state, said = _look([] if done else _with_shards(Path(made.log), benchmark), locked)
    return Row(made.name, "done" if done else state, seconds_of(benchmark), size(path), said)


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


def _logs(of_cell: list[dict]) -> list[Log]:
    """The logs of what a cell lacks."""
    return [
        Log(log, _benchmark(row, log.with_suffix("").parts[4:]))
        for row in of_cell
        for kind in LOGS
        if row[kind] and not Path(row[kind]).exists()
        for log in logs_of(row, kind)
    ]


def _benchmark(row: dict, log: tuple[str, ...]) -> Path:
    """The benchmark file of a job of a cell, by the names of its log below the cell's folder."""
    folder, cell = (
        Path("results", row["model"], "benchmarks"),
        Path(row["calibration"], row["variant"]),
    )
    match log:
        case (stage,):  # compress
            return folder / stage / f"{cell}.tsv"
        case (stage, name) if stage in matrix.PER_FILE:
            return folder / stage / cell / f"{name}.tsv"
        case (name, stage):  # {eval}/score, {eval}/generate+{shard}
            stage, plus, shard = stage.partition("+")
            return folder / stage / cell / f"{name}{plus}{shard}.tsv"
    raise ValueError(f"no log of a cell: {log}")


def _look(logs: Iterable[Log], locked: bool) -> tuple[Literal["running", "failed", "missing"], str]:
    """The state of what lacks a file, by its logs, and the last line of the one that tells.

    A job holds a lock on its log (`rac.logs`): one that was killed, or ran out of time, holds none. While a
    workflow runs (`locked`), a log that is younger than a few lines of progress may be of a job that starts.
    """
    there = [log for log in logs if log.path.exists()]
    there.sort(key=lambda log: log.path.stat().st_mtime, reverse=True)
    for log in there:
        silent = time.time() - log.path.stat().st_mtime
        text = log.path.read_text(encoding="utf-8", errors="replace")
        lines = [_plain(line) for line in text.splitlines() if line.strip()]
        last, wrong = lines[-1] if lines else "", error_line(text)
        if artifacts.is_held(log.path):
            late = f"silent for {silent / 60:.0f} minutes; " if silent > PATIENCE else ""
            return "running", f"{late}{last}"
        if wrong:
            return "failed", _plain(wrong)
        if locked and silent < 3 * LINE_EVERY:
            return "running", last
        if not _ended_well(log):
            return "failed", last or "it ended without a word"
    return "missing", ""


def _ended_well(log: Log) -> bool:
    """Whether the job came to its end, which Snakemake notes after it; what it made was removed since."""
    made = log.benchmark.stat().st_mtime if log.benchmark.exists() else 0.0
    return made >= log.path.stat().st_mtime


def _plain(line: str) -> str:
    """A line of a log as a terminal may show it."""
    return "".join(c if c.isprintable() else " " for c in line).strip()[:LONGEST]


def _with_shards(log: Path, benchmark: Path) -> list[Log]:
    """The logs of an artefact and of its shards, whose numbers follow a `+`, which no name holds."""
    return [Log(log, benchmark)] + [
        Log(shard, benchmark.with_name(f"{shard.stem}.tsv"))
        for shard in log.parent.glob(f"{log.stem}+*.log")
        if shard.stem.rpartition("+")[2].isdecimal()
    ]


def size(path: Path) -> int:
    """Bytes of a file or of all below a folder, links counted as links."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())
