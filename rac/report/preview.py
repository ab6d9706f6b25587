"""The table and page of a run that is not finished, or that failed in places."""

from pathlib import Path

from rac import matrix
from rac.logs import error_line

LOGS = {  # what makes a kind of file, the last first; the star is of shards
    "compression": ("compress",),
    "metrics": ("{eval}/score", "{eval}/generate", "{eval}/generate+*"),
    "diagnostics": ("diagnostics/{diagnostics}",),
    "losses": ("losses/{losses}",),
    "runtime": ("runtime/{runtime}",),
}
LONGEST = 300  # characters of a reason


def so_far(cells: list[dict]) -> list[dict]:
    """The cells with only those of their files that are there.

    Args:
        cells: of `rac.matrix.summary_cells`.
    """
    found = []
    for cell in cells:
        there = {
            key: path if path and Path(path).exists() else None
            for key, path in cell.items()
            if key in (*matrix.KINDS, "dense_scores", "model_json")
        }
        if not (there["metrics"] and there["scores"] and there["generation"]):
            there |= dict.fromkeys(("metrics", "scores", "generation"))
        if not there["model_json"]:
            there = dict.fromkeys(there)
        found.append(cell | there)
    return found


def lacking(cells: list[dict], logs: Path = Path("logs")) -> list[dict]:
    """The cells that lack something, and why as far as a log says so.

    Args:
        cells: of `rac.matrix.summary_cells`.
        logs: the folder of the stages' logs.

    Returns:
        Dicts of "model", "calibration", "variant", "eval", "lacks" (kinds of files) and "reason" (the
        line of an error, or empty: not computed yet).
    """
    found = []
    for cell in cells:
        lacks = [kind for kind in LOGS if cell[kind] and not Path(cell[kind]).exists()]
        if lacks:
            names = {key: cell[key] for key in ("model", "calibration", "variant", "eval")}
            reasons = [_error(file) for kind in lacks for file in logs_of(cell, kind, logs)]
            found.append(names | {"lacks": lacks, "reason": next(filter(None, reasons), "")})
    return found


def logs_of(cell: dict, kind: str, logs: Path = Path("logs")) -> list[Path]:
    """The logs that are there of what makes a kind of a cell's files (a key of `LOGS`)."""
    folder = logs / cell["model"] / cell["calibration"] / cell["variant"]
    names = matrix.job_names(cell)
    return [
        file for log in LOGS[kind] for file in sorted(folder.glob(f"{log.format(**names)}.log"))
    ]


def _error(log: Path) -> str:
    """The last line of a log that says an error; empty if there is none."""
    said = error_line(log.read_text(encoding="utf-8", errors="replace"))
    return said[:LONGEST] if said else ""
