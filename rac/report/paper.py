"""What the paper printed, to set ours beside it.

rac/report/paper.csv names cells as config.yaml does, and says of every value in its column `source` where it
was read. All sources are secondary, as the paper's own text was not at hand:

- the README of the port in deepspeedai/DeepSpeedExamples (compression/reasoning_aware_compression, commit
  a801dbef), which has Tables 1 and 2 at 40 and 50 %, minutes without decimals;
- reading notes of the ICLR version at papernotes.org (zhaoyang97/Paper-Notes);
- other reading notes of it (on OpenReview's tyGfwG6xTh), which quote Tables 1 and 6 to 10.

What none of them names is left out, and so is what they say differently (LiveCodeBench).
"""

import csv
import functools
from pathlib import Path

FILE = Path(__file__).with_name("paper.csv")
Cell = tuple[str, str, str, str]  # model, calibration, variant, eval


@functools.cache
def printed(column: str, budget: int | None = None) -> dict[Cell, float]:
    """The printed values of a column (accuracy, minutes, tokens_per_second) by cell.

    Args:
        column: which.
        budget: generated tokens that samples were cut at, where that is less than the eval's own.
    """
    with FILE.open(encoding="utf-8", newline="") as stream:
        return {
            (row["model"], row["calibration"], row["variant"], row["eval"]): float(row["value"])
            for row in csv.DictReader(stream)
            if row["column"] == column and row["budget"] == str(budget or "")
        }
