"""Progress: plain lines where no terminal shows a bar, a bar where one does."""

import re
import subprocess
import sys

import pytest

from rac import progress as module
from rac.progress import progress


def test_lines_tell_what_is_done_how_fast_and_what_is_left(capsys, monkeypatch):
    now = iter([100.0, 105.0, 110.0, 112.0, 120.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    with module._shown("traces x", 10_000, "tokens") as update:
        update(400)  # after 5 s: too early for a line
        update(600)  # after 10 s
        update(500)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "traces x: 1,000 of at most 10,000 tokens, 100 tokens/s, 90 s left",
        "traces x: 1,500 of at most 10,000 tokens, 75 tokens/s, 113 s left",
    ]


def test_nothing_done_is_no_division_by_zero(capsys):
    with progress("x", 10):
        pass
    assert "0 of at most 10 tokens" in capsys.readouterr().err


def test_more_than_the_total_leaves_no_time(capsys):
    with progress("x", 10) as update:
        update(25)
    assert re.search(r"25 of at most 10 tokens, .* 0 s left", capsys.readouterr().err)


def test_other_units_are_named(capsys):
    with progress("compress", 4, "layers") as done:
        done(3)
    assert re.search(r"compress: 3 of at most 4 layers, .* layers/s, ", capsys.readouterr().err)


def test_a_terminal_shows_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    with progress("traces x", 10) as update:
        assert update(10) is None
    shown = capsys.readouterr().err
    assert "traces x: 100%" in shown and "\r" in shown


HANGS = """
import sys, time
from rac import progress as module
module.PATIENCE, step, module.TIMES = float(sys.argv[1]), float(sys.argv[2]), 10
with module.progress("traces x", 100) as update:
    time.sleep(float(sys.argv[3]))  # loading is no step
    update(0)
    time.sleep(float(sys.argv[5]))  # nor is there a step to measure the first one by
    for _ in range(3):
        update(0)
        time.sleep(step)
    time.sleep(float(sys.argv[4]))
print("went on")
"""


def hang(patience, step, loading, silence, first=0):
    numbers = map(str, (patience, step, loading, silence, first))
    arguments = [sys.executable, "-c", HANGS, *numbers]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120)


def test_a_stage_without_progress_is_ended_and_says_where_it_was():
    done = hang(patience=0.5, step=0.1, loading=0, silence=60)
    assert done.returncode == 1 and "went on" not in done.stdout
    assert "rac: error: traces x: no progress for" in done.stderr
    assert 'File "<string>", line 11' in done.stderr or "Thread" in done.stderr  # a traceback


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "loading", "silence", "first"),
    [(0.6, 0, 2, 0), (0.1, 3, 0, 0), (0.1, 0, 0, 3)],
    ids=["slow", "loading", "first"],
)
def test_a_slow_stage_is_left_alone(step, loading, silence, first):
    done = hang(1.5, step, loading, silence, first)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
