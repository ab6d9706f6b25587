"""The table and page of a run that is not finished, or that failed in places."""

from pathlib import Path

from rac.logs import error_line

KINDS = ("compression", "metrics", "generation", "scores", "diagnostics", "losses", "runtime")
LOGS = {  # what makes a kind of file, the last first
    "compression": ("compress",),
    "metrics": ("{eval}/score", "{eval}/generate"),
    "diagnostics": ("diagnostics/*",),
    "losses": ("losses/*",),
    "runtime": ("runtime/*",),
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
            if key in (*KINDS, "dense_scores", "model_json")
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
            reasons = [_error(logs, names, log) for kind in lacks for log in LOGS[kind]]
            found.append(names | {"lacks": lacks, "reason": next(filter(None, reasons), "")})
    return found


def _error(logs: Path, names: dict, log: str) -> str:
    """The last line of a log that says an error; empty if there is none."""
    folder = logs / names["model"] / names["calibration"] / names["variant"]
    for file in sorted(folder.glob(f"{log.format(**names)}.log")):
        if said := error_line(file.read_text(encoding="utf-8", errors="replace")):
            return said[:LONGEST]
    return ""
