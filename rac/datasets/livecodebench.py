"""LiveCodeBench's code generation problems: a release, and the window of contest dates within it.

A number on LiveCodeBench means nothing without both, so every row carries `release` and `date`.
"""

from datetime import date

from rac.artifacts import parse_jsonl
from rac.errors import RacError

HUB = "livecodebench/code_generation_lite"
# Each release adds a file to those before it. The hub's own loader is a script, which no current
# version of `datasets` runs.
FILES = ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl")
RELEASES = {f"release_v{n}": FILES[:n] for n in range(1, len(FILES) + 1)}


def read(
    revision: str, release: str, start: date, end: date, name: str
) -> tuple[list[dict], dict[str, str]]:
    """The problems of a release within a window, and their origin and licence.

    Args:
        revision: the commit of HUB.
        release: one of RELEASES.
        start: the first contest date.
        end: the first contest date that is too late.
        name: of the dataset in the configuration, for messages.

    Raises:
        RacError: the release is unknown, cannot be reached or has no problem in the window.
    """
    from huggingface_hub import hf_hub_download

    rows: list[dict] = []
    for file in files(release, name):
        try:
            path = hf_hub_download(HUB, file, repo_type="dataset", revision=revision)
        except (OSError, ValueError) as error:
            raise RacError(
                f"datasets.{name}: cannot read {file} of {HUB}@{revision} "
                f"({' '.join(str(error).split())})"
            ) from None
        with open(path, "rb") as stream:
            rows += parse_jsonl(stream.read(), None)
    origin = f"{HUB}@{revision} {release} {start} to {end}"
    return select(rows, release, start, end, name), {"origin": origin, "licence": "CC"}


def files(release: str, name: str) -> tuple[str, ...]:
    """The files of HUB that make up a release.

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
