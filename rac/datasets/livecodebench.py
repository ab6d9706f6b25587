"""LiveCodeBench's code generation problems: a release, and the window of contest dates within it.

A number on LiveCodeBench means nothing without both, so every row carries `release` and `date`.
"""

from datetime import date

from rac.errors import RacError

# Each release adds a file to those before it. The hub's own loader is a script, which no current
# version of `datasets` runs.
FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
RELEASES = {f"release_v{n}": FILES[:n] for n in range(1, len(FILES) + 1)}


def files(release: str, name: str) -> tuple[str, ...]:
    """The files of livecodebench/code_generation_lite that make up a release.

    Raises:
        RacError: there is no such release.
    """
    if release not in RELEASES:
        raise RacError(f"datasets.{name}.release: '{release}' is none of {', '.join(RELEASES)}")
    return RELEASES[release]


def select(rows: list[dict], release: str, start: date, end: date, name: str) -> list[dict]:
    """The rows whose contest was on `start` or later and before `end`, with `id`, `release`, `date`.

    Raises:
        RacError: a row has no contest date, or none is in the window.
    """
    found, dates = [], []
    for i, row in enumerate(rows):
        try:
            day = date.fromisoformat(str(row.get("contest_date"))[:10])
        except ValueError:
            raise RacError(
                f"datasets.{name}: row {i} has no contest_date such as 2024-08-03 "
                f"(it has: {', '.join(map(str, row))})"
            ) from None
        dates.append(day)
        if start <= day < end:
            found.append(
                row | {"id": row["question_id"], "release": release, "date": day.isoformat()}
            )
    if not found:
        has = f"its contests are of {min(dates)} to {max(dates)}" if dates else "it has no rows"
        raise RacError(f"datasets.{name}: {release} has no problem of {start} to {end}; {has}")
    return found
