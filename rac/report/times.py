"""What a run took and where it ran: Snakemake's benchmark files, and the records beside generations."""

import csv
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from rac.matrix import Cell
from rac.provenance import read_record

PER_CELL = ("compress", "generate", "score", "diagnostics", "losses", "runtime")


def benchmarks_of(results: Path, cell: Cell, names: Collection[str]) -> list[Path]:
    """Snakemake's benchmark files of a cell's jobs.

    Args:
        results: the folder of results.
        cell: the cell.
        names: of its jobs (`rac.matrix.job_names`); those of other evals, held-out data and workloads are
            left out.
    """
    folder = results / cell.model / "benchmarks"
    # A shard's has its number.
    named = re.compile(rf"({'|'.join(map(re.escape, names))})(\+[0-9]+)?")
    return [
        *sorted(folder.glob(f"*/{cell.calibration}/{cell.variant}.tsv")),
        *(
            file
            for file in sorted(folder.glob(f"*/{cell.calibration}/{cell.variant}/*.tsv"))
            if named.fullmatch(file.stem)
        ),
    ]


def stage_times(
    results: Path, models: Iterable[str], cells: Mapping[Cell, Collection[str]]
) -> list[dict]:
    """Jobs of each stage, their wall and processor time in seconds, and the largest memory in MiB.

    Args:
        results: the folder of results.
        models: those of the run.
        cells: cells of the run, and the names of their jobs: others are left out. Of a job its last execution
            counts; jobs of sources are counted whichever run they were for.

    Returns:
        Dicts of "stage", "jobs", "wall", "cpu", "memory"; stages without a file are left out.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for model in models:
        folder = results / model / "benchmarks"
        for file in sorted(folder.rglob("*.tsv")):
            stage, *_ = file.relative_to(folder).with_suffix("").parts
            if stage not in PER_CELL:
                found.setdefault(stage, []).extend(_rows(file))
    for cell, names in cells.items():
        for file in benchmarks_of(results, cell, names):
            stage = file.relative_to(results / cell.model / "benchmarks").parts[0]
            found.setdefault(stage, []).extend(_rows(file))
    for file in sorted((results / "benchmarks").rglob("*.tsv")):
        stage = file.relative_to(results / "benchmarks").with_suffix("").parts[0]
        found.setdefault(stage, []).extend(_rows(file))
    return [
        {
            "stage": stage,
            "jobs": len(rows),
            "wall": sum(_number(row, "s") for row in rows),
            "cpu": sum(_number(row, "cpu_time") for row in rows),
            "memory": max(_number(row, "max_rss") for row in rows),
        }
        for stage, rows in found.items()
        if rows
    ]


def seconds_of(file: Path) -> float:
    """Wall time of the last execution of a job; 0 where there is no benchmark file."""
    return sum(_number(row, "s") for row in _rows(file)) if file.is_file() else 0.0


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def _number(row: dict[str, str], column: str) -> float:
    """A number of a benchmark file; 0 where it says NA or, of a job too short to be looked at, -."""
    try:
        return float(row.get(column) or 0)
    except ValueError:
        return 0.0


def machine(system: Path = Path("/proc")) -> dict[str, str]:
    """What is known of this machine's "processor" (its model) and "memory" where Linux says it.

    Args:
        system: the folder of cpuinfo and meminfo.
    """
    found = {}
    for key, file, line in (
        ("processor", "cpuinfo", r"^model name\s*:\s*(.+)$"),
        ("memory", "meminfo", r"^MemTotal:\s*(\d+) kB$"),
    ):
        try:
            text = (system / file).read_text(encoding="utf-8")
        except OSError:
            continue
        if said := re.search(line, text, flags=re.MULTILINE):
            found[key] = said[1].strip()
    if "memory" in found:
        found["memory"] = f"{int(found['memory']) / 2**20:.1f} GiB"
    return found


def machines(generations: list[dict]) -> list[dict]:
    """The machines that generated, each once: what is known of it by key, and how many "cells" it ran."""
    counts: dict[tuple, int] = {}
    for cell in generations:
        record = Path(cell["generations"]).with_name("generation.json")
        if record.exists():
            made = read_record(record).get("provenance", {})
            known = made.get("machine", {}) | made.get("versions", {})
            key = tuple((name, str(value)) for name, value in known.items())
            counts[key] = counts.get(key, 0) + bool(key)
    return [dict(key) | {"cells": str(count)} for key, count in counts.items() if key]
