from datetime import date
from typing import get_args

import pytest

from rac.datasets.livecodebench import FILES, MARKS, files, select
from rac.definitions import Release
from rac.errors import RacError

ROWS = [
    {"question_id": "a", "contest_date": "2024-07-31T23:30:00"},
    {"question_id": "b", "contest_date": "2024-08-01T00:00:00"},
    {"question_id": "c", "contest_date": "2025-01-31T00:00:00"},
    {"question_id": "d", "contest_date": "2025-02-01T00:00:00"},
]


def test_a_release_is_all_files_up_to_its_own():
    assert files("release_v1") == ("test.jsonl",)
    assert files("release_v5")[-1] == "test5.jsonl" and len(files("release_v5")) == 5
    assert [len(files(release)) for release in get_args(Release)] == [1, 2, 3, 4, 5, 6]
    assert files(get_args(Release)[-1]) == FILES


def test_the_window_takes_its_first_day_and_not_its_last():
    rows = select(iter(ROWS), "release_v5", date(2024, 8, 1), date(2025, 2, 1), "lcb")
    window = "2024-08-01/2025-02-01"
    assert [(row["id"], *(row[mark] for mark in MARKS)) for row in rows] == [
        ("b", "release_v5", window, "2024-08-01"),
        ("c", "release_v5", window, "2025-01-31"),
    ]


def test_what_is_wrong_with_the_window_or_the_rows():
    with pytest.raises(RacError, match="no problem of 2026-01-01 to .*of 2024-07-31 to 2025-02-01"):
        list(select(ROWS, "release_v5", date(2026, 1, 1), date(2027, 1, 1), "lcb"))
    for row in ({"id": 1}, {"id": 1, "contest_date": "2024-09-01"}):
        with pytest.raises(RacError, match="row 0 has no question_id, or no contest_date .*: id"):
            list(select([row], "release_v5", date(2024, 8, 1), date(2025, 2, 1), "lcb"))
    with pytest.raises(RacError, match="it has no rows"):
        list(select([], "release_v5", date(2024, 8, 1), date(2025, 2, 1), "lcb"))
