"""What the paper printed, to set ours beside it.

rac/report/paper.csv names cells as config.yaml does. Its values were read from secondary sources, as the
paper's own text was not at hand: published reading notes of the ICLR version (papernotes.org) and the README
of the port in DeepSpeedExamples. What neither names is left out.
"""

import csv
import functools
from pathlib import Path

FILE = Path(__file__).with_name("paper.csv")
Cell = tuple[str, str, str, str]  # model, calibration, variant, eval


@functools.cache
def printed(column: str) -> dict[Cell, float]:
    """The printed values of a column (accuracy, minutes, tokens_per_second) by cell."""
    with FILE.open(encoding="utf-8", newline="") as stream:
        return {
            (row["model"], row["calibration"], row["variant"], row["eval"]): float(row["value"])
            for row in csv.DictReader(stream)
            if row["column"] == column
        }
