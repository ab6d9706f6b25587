"""Is the boxed answer of a response equal to the gold answer?

Equal strings and integers are told apart here. All else goes to Math-Verify in another process,
where an expression such as 10^(10^10) costs its time limit and nothing else.
"""

import atexit
import contextlib
import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

from rac.errors import RacError
from rac.evaluate.thoughts import answer_part

SECONDS = 5.0  # of processor time, so that a verdict does not hang on what else the machine does
READY = "ready"  # what a comparer says when its imports and limits are in place
MEMORY = 2 * 2**30  # bytes of address space


class Grade(NamedTuple):
    """`correct`, and a fixed word or two that say why."""

    correct: bool
    reason: str


def grade_math(response: str, gold: str, finished: bool = True) -> Grade:
    r"""Grade a response by the last complete `\boxed{…}` after its last `</think>`.

    Args:
        response: the whole response, with the `<think>` that the prompt may have opened.
        gold: the right answer, LaTeX or plain, with or without `$…$`.
        finished: the model stopped by itself, and was not cut at the token limit.

    Returns:
        A grade whose reason is "exact" (equal strings or integers), "equal" (by Math-Verify),
        "different", "no boxed answer", "unfinished thought" (a `<think>` was never closed),
        "unfinished" (cut before there was an answer), "time limit" or "crashed" (the comparison).
    """
    answer, reason = answer_part(response, finished)
    if answer is None:
        return Grade(False, reason)
    boxed = last_boxed(answer)
    if boxed is None:
        return Grade(False, "no boxed answer" if finished else "unfinished")
    mine, right = normalise(boxed), normalise(gold)
    if mine == right:
        return Grade(True, "exact")
    if not mine or (is_integer(mine) and is_integer(right)):
        return Grade(False, "different")
    reason = _comparer(os.getpid()).compare(right, mine)
    return Grade(reason == "equal", reason)


_TOKENS = re.compile(r"(?P<box>\\boxed\s*\{)|\\.|(?P<brace>[{}])", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""The inside of the last `\boxed{…}` whose brace is closed; None if there is none.

    One pass, however many braces there are. Of boxes within boxes it is the innermost.
    """
    open_braces: list[int] = []  # where the inside of a box starts; -1 for any other brace
    start = end = -1
    for token in _TOKENS.finditer(text):
        if token["box"]:
            open_braces.append(token.end())
        elif token["brace"] == "{":
            open_braces.append(-1)
        elif token["brace"] == "}" and open_braces:
            opened = open_braces.pop()
            if opened > start:
                start, end = opened, token.start()
    return None if start < 0 else text[start:end]


_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?:,\\!|,|\{,\}|\\[,!;: ]|\s)\d{3})+(?:\.\d+)?")
_INTEGER = re.compile(r"([+-]?)0*(\d+)")


def normalise(answer: str) -> str:
    """Write an answer in one of its equal forms: same value, fewer spellings."""
    answer = answer.strip()
    if answer.startswith("$") and answer.endswith("$"):
        answer = answer.strip("$").strip()
    answer = answer.removesuffix(".").replace("−", "-")
    if _THOUSANDS.fullmatch(answer):
        answer = re.sub(r"[^\d.+-]", "", answer)
    if number := _INTEGER.fullmatch(answer):
        return ("-" if number[1] == "-" and number[2] != "0" else "") + number[2]
    answer = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", answer)
    answer = re.sub(r"\\(?:left|right)(?![A-Za-z])|\\[!,;:]", "", answer)
    return re.sub(r"\s+", " ", answer).strip()


def is_integer(answer: str) -> bool:
    """Whether a normalised answer is an integer."""
    return _INTEGER.fullmatch(answer) is not None


class _Comparer:
    """Math-Verify in a process that may die; started when first needed, and again after a death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        atexit.register(self._close)

    def compare(self, gold: str, answer: str) -> str:
        """One word: "equal", "different", "time limit" or "crashed"."""
        with self._lock:
            process = self._process or self._start()
            assert process.stdin and process.stdout
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps([gold, answer]) + "\n")
                    process.stdin.flush()
                if reply := process.stdout.readline():
                    return reply.strip()
            except BaseException:  # interrupted: its answer must not be taken for the next one's
                process.kill()
                self._close()
                raise
            self._close()
            return "time limit" if process.returncode == -signal.SIGPROF else "crashed"

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from rac.evaluate.math import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdout
        if self._process.stdout.readline().strip() != READY:
            self._close()
            raise RacError(
                "Math-Verify cannot be started; this says why: "
                "python -c 'from rac.evaluate.math import serve; serve()'"
            )
        return self._process

    def _close(self) -> None:
        if self._process is not None:
            assert self._process.stdin and self._process.stdout
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


@functools.cache
def _comparer(pid: int) -> _Comparer:
    """The comparer of this process: a forked child must not share its parent's pipes."""
    return _Comparer()


def serve() -> None:
    """Answer pairs (gold, answer) from standard input, a JSON list a line, one word each.

    The kernel ends the process (SIGPROF) when one pair takes longer than its time, even inside one
    multiplication of big integers, where Python's own signal handlers would wait for the end.
    """
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX alone: nothing of a model reaches sympy's parse_expr, which runs Python.
    latex = [LatexExtractionConfig()]
    logging.disable()  # a warning that the limits below are ours, and one for each failed parse
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(READY, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            # It sees LaTeX only between dollars, and the order of its arguments matters.
            left, right = (
                parse(f"${side}$", latex, parsing_timeout=None) for side in (gold, answer)
            )
            equal = verify(left, right, timeout_seconds=None)
        except (Exception, MemoryError):
            equal = False  # it cannot be read as mathematics, and is not the same text
        signal.setitimer(signal.ITIMER_PROF, 0)
        print("equal" if equal else "different", flush=True)
