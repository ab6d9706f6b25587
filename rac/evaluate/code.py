"""Does the program of a response pass its tests?

A test is an input and the output that it must give, or a function and code that calls it. Programs
run in rac.evaluate.sandbox; what they wrote is compared here, and what they returned is asserted
in another sandbox than theirs (rac.evaluate.functions).
"""

import contextlib
import json
import os
import re
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from rac.artifacts import processors
from rac.errors import RacError
from rac.evaluate import functions
from rac.evaluate.sandbox import Ended, Limits, check, finish, run, start
from rac.evaluate.thoughts import answer_part

# What Python's site module, which is left out, would have done; then the program, as a script.
LAUNCH = """\
__import__("builtins").exit = __import__("builtins").quit = __import__("sys").exit
exec(compile(open(__file__[:-9] + "program.py", "rb").read(), "program.py", "exec"))
"""
TIME, MEMORY = Limits().seconds, Limits().memory
FEED, CALL = ("input", "output"), ("entry_point", "test_code")  # what a test of either form has


class Grade(NamedTuple):
    """`passed`, a fixed word or two that say why, and what happened in which test."""

    passed: bool
    verdict: str
    detail: str


def grade_code(
    program: str,
    tests: Sequence[dict[str, Any]],
    time_limit: float = TIME,
    memory_limit: int = MEMORY,
    sandbox: str = "bubblewrap",
) -> Grade:
    """Run a Python program on tests, until one fails.

    Args:
        program: Python source.
        tests: each {"input", "output"}: text for standard input, and what must come out of it
            (`same_output`); or {"entry_point", "test_code"}: the name of a function (or of a method
            of `Solution`), and Python that asserts what it returns and sees it under its name and
            as `candidate`; a `check(candidate)` that it defines is called.
        time_limit: seconds of processor time a test; by the clock, 2 · time_limit + 10 pass.
        memory_limit: bytes of address space of a process, and of memory of all of them.
        sandbox: "bubblewrap", or "rlimits" for programs that are trusted (rac.evaluate.sandbox).

    Returns:
        A grade whose verdict is "passed", "wrong answer", "runtime error", "time limit",
        "memory limit" or "output limit", and whose detail says in one line which test failed how.

    Raises:
        RacError: there are no tests, one has neither form or calls nothing, or this machine lacks the
            sandbox.
    """
    check_tests(tests)
    check(sandbox)
    limits = Limits(seconds=time_limit, memory=memory_limit)
    for i, test in enumerate(tests, 1):
        verdict, detail = (_call if _has(test, CALL) else _feed)(program, test, limits, sandbox)
        if verdict == functions.UNTESTED:
            raise RacError(
                f"tests: number {i} of '{test['entry_point']}' never calls it, so any program would pass"
            )
        if verdict != "passed":
            return Grade(False, verdict, f"test {i} of {len(tests)}: {_line(detail)}")
    return Grade(True, "passed", "")


def check_tests(tests: Sequence[dict[str, Any]]) -> None:
    """Refuse tests that cannot be run.

    Raises:
        RacError: there are none, one has neither form, or what it holds is no text.
    """
    if not tests:
        raise RacError("tests: a program without tests is neither right nor wrong; give one")
    for i, test in enumerate(tests, 1):
        form = next((keys for keys in (CALL, FEED) if _has(test, keys)), None)
        if form is None:
            raise RacError(
                f"tests: number {i} has neither input and output nor entry_point and test_code "
                f"(it has: {', '.join(test)})"
            )
        for key in form:
            if not isinstance(test[key], str):
                kind = type(test[key]).__name__
                raise RacError(f"tests: number {i}: its {key} is of type {kind}, not text")
        if form is CALL and not test["test_code"].strip():
            raise RacError(f"tests: number {i}: its test_code is empty")


def _has(test: dict[str, Any], keys: tuple[str, str]) -> bool:
    return all(test.get(key) is not None for key in keys)


def grade_many(
    jobs: Iterable[tuple[str, Sequence[dict[str, Any]]]],
    time_limit: float = TIME,
    memory_limit: int = MEMORY,
    sandbox: str = "bubblewrap",
    parallel: int | None = None,
) -> list[Grade]:
    """`grade_code` of many (program, tests), in their order.

    Args:
        jobs: programs with their tests.
        time_limit: as for `grade_code`.
        memory_limit: as for `grade_code`.
        sandbox: as for `grade_code`.
        parallel: how many run at a time; one a processor if left out.

    Raises:
        RacError: as `grade_code`.
    """
    parallel = parallel or processors()
    workers = ThreadPoolExecutor(parallel)
    waiting: deque[Future[Grade]] = deque()
    grades = []
    try:
        for program, tests in jobs:
            if len(waiting) >= 4 * parallel:  # tests can be large: few are held at a time
                grades.append(waiting.popleft().result())
            waiting.append(
                workers.submit(grade_code, program, tests, time_limit, memory_limit, sandbox)
            )
        return grades + [grade.result() for grade in waiting]
    finally:
        workers.shutdown(cancel_futures=True)


_LANGUAGE = re.compile(r"[\w+#.-]*")
_PYTHON = re.compile(r"(?:py|python|pypy)[\d.]*")


def extract_program(response: str, finished: bool = True) -> tuple[str | None, str]:
    """The last complete fenced block after the last `</think>`, Python before other languages.

    Args:
        response: the whole response, with the `<think>` that the prompt may have opened.
        finished: the model stopped by itself, and was not cut at the token limit.

    Returns:
        The program and "", or None and why: "no code", "unfinished" (cut before there was a
        complete block) or "unfinished thought".
    """
    answer, reason = answer_part(response, finished)
    if answer is None:
        return None, reason
    blocks: dict[str, str] = {}  # the last of each language
    fence, language, indent = "", "", 0
    lines: list[str] = []
    for line in answer.splitlines(keepends=True):
        mark, info = _fence(line.rstrip())
        spaces = len(line) - len(line.lstrip(" "))
        if not fence:
            if mark:
                fence, language, indent, lines = mark, info.lower(), spaces, []
        elif mark.startswith(fence) and line.strip() == mark and spaces <= indent + 3:
            blocks.pop(language, None)
            blocks[language] = "".join(lines)
            fence = ""
        else:
            lines.append(line[min(spaces, indent) :])  # a block in a list is as deep as its fence
    python = [blocks[language] for language in blocks if _PYTHON.fullmatch(language)]
    for found in (python, list(blocks.values())):
        if found:
            return found[-1], ""
    return None, "no code" if finished else "unfinished"


def _fence(line: str) -> tuple[str, str]:
    """The fence that a line opens or closes, and the language that it names; "" where it is none."""
    text = line.lstrip(" ")
    rest = text.lstrip(text[:1]) if text[:1] in ("`", "~") else text
    mark = text[: len(text) - len(rest)]
    if len(mark) < 3 or "`" in rest:
        return "", ""
    found = _LANGUAGE.match(rest.lstrip(" \t"))
    return mark, found[0] if found else ""


_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,6})?", re.ASCII)


def same_output(output: str, expected: str) -> tuple[bool, str]:
    """Whether two outputs agree as LiveCodeBench's checker has it, and where they differ first.

    Line by line, without the white space around them: the same words, or the same numbers (1.0 is
    1; nothing is rounded).
    """
    mine, right = output.strip().split("\n"), expected.strip().split("\n")
    for i, (line, wanted) in enumerate(zip(mine, right, strict=False), 1):
        a, b = line.split(), wanted.split()
        if a != b and not (
            _numbers(a) and _numbers(b) and [*map(Decimal, a)] == [*map(Decimal, b)]
        ):
            return False, f"line {i} is {_short(line)}, not {_short(wanted)}"
    if len(mine) != len(right):
        return False, f"{len(mine)} lines, not {len(right)}"
    return True, ""


def _numbers(words: list[str]) -> bool:
    return all(map(_NUMBER.fullmatch, words))


def _line(text: str) -> str:
    """At most 200 characters that print: what a program wrote reaches terminals and pages."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _feed(program: str, test: dict[str, Any], limits: Limits, sandbox: str) -> tuple[str, str]:
    """One test of the kind {"input", "output"}."""
    files = {"launch.py": LAUNCH, "program.py": program}
    ended = run(files, "launch.py", test["input"].encode("utf-8", "surrogatepass"), limits, sandbox)
    if ended.how != "exited":
        return ended.how, _spent(ended)
    if ended.status != 0:
        return "runtime error", _why(ended)
    same, where = same_output(ended.stdout.decode("utf-8", "replace"), test["output"])
    return ("passed", "") if same else ("wrong answer", where)


def _call(program: str, test: dict[str, Any], limits: Limits, sandbox: str) -> tuple[str, str]:
    """One test of the kind {"entry_point", "test_code"}: program and test in a sandbox each."""
    source = Path(functions.__file__).read_text(encoding="utf-8")
    token = secrets.token_hex(16)
    asked = {key: test[key] for key in ("entry_point", "test_code")} | {"token": token}
    patient = limits._replace(seconds=limits.seconds + 10, memory=limits.memory + 2**30)
    with contextlib.ExitStack() as stack:
        requests, answers = os.pipe(), os.pipe()
        try:
            tested = stack.enter_context(
                start(
                    {"functions.py": source, "program.py": program},
                    *("functions.py", limits, sandbox, requests[0], answers[1]),
                )
            )
            tester = stack.enter_context(
                start(
                    {"functions.py": source, "test.json": json.dumps(asked)},
                    *("functions.py", patient, sandbox, answers[0], requests[1]),
                )
            )
        finally:
            for descriptor in (*requests, *answers):
                os.close(descriptor)
        ended, checked = finish([tested, tester], tester)
    if ended.how not in ("exited", "stopped"):
        return ended.how, _spent(ended)
    verdict = _verdict(checked.stderr, token)
    if verdict:
        return verdict
    if checked.how != "exited":  # such as a huge value that the program returned
        return checked.how, f"in the test, {_spent(checked)}"
    return "wrong answer", f"the test did not end by itself: {_why(checked)}"


def _verdict(stderr: bytes, token: str) -> tuple[str, str] | None:
    """The verdict that the test's own process wrote last."""
    line = stderr.strip().rpartition(b"\n")[2]
    if token.encode() not in line:
        return None
    said, verdict, detail = json.loads(line)
    return (verdict, detail) if said == token else None


def _spent(ended: Ended) -> str:
    return f"after {ended.seconds:.1f} s of processor time"


def _why(ended: Ended) -> str:
    """The last line that a program wrote to standard error."""
    lines = ended.stderr[-4096:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {ended.status}"
