"""LiveCodeBench's code generation problems: a release, and the window of contest dates within it.

A number on LiveCodeBench means nothing without both, so every row carries `release`, `window` and `date`.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from typing import get_args

from rac.datasets.files import Wanted
from rac.definitions import Release
from rac.errors import RacError

# Each release adds a file to those before it. The hub's own loader is a script, which no current
# version of `datasets` runs.
FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
MARKS = ("release", "window", "date")  # of every row


def files(release: Release) -> tuple[str, ...]:
    """The files of livecodebench/code_generation_lite that make up a release."""
    return FILES[: get_args(Release).index(release) + 1]


def wanted(columns: Wanted) -> Wanted:
    """The columns that are wanted, and those that tell a problem's contest and name."""
    if columns.others is None:
        return columns
    return columns._replace(others=columns.others | {"contest_date", "question_id"})


def select(rows: Iterable[dict], release: str, start: date, end: date, name: str) -> Iterator[dict]:
    """The rows whose contest was on `start` or later and before `end`, with `id` and MARKS.

    `window` is the two dates, as start/end.

    Raises:
        RacError: a row has no contest date or no name, or none is in the window.
    """
    found, first, last = False, date.max, date.min
    for i, row in enumerate(rows):
        try:
            day = date.fromisoformat(str(row.get("contest_date"))[:10])
            named = row["question_id"]
        except (ValueError, KeyError):
            raise RacError(
                f"datasets.{name}: row {i} has no question_id, or no contest_date such as 2024-08-03 "
                f"(it has: {', '.join(map(str, row))})"
            ) from None
        first, last = min(first, day), max(last, day)
        if start <= day < end:
            found = True
            of_row = {"release": release, "window": f"{start}/{end}", "date": day.isoformat()}
            yield row | {"id": named} | of_row
    if not found:
        has = f"its contests are of {first} to {last}" if first <= last else "it has no rows"
        raise RacError(f"datasets.{name}: {release} has no problem of {start} to {end}; {has}")
