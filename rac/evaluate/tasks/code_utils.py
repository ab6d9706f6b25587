"""What the task files of programs share: which tests a row has, and how they are graded.

All programs of a benchmark are graded at once, by the filter, in many sandboxes beside each other;
`process_results` hands out what it found.
"""

import ast
import base64
import functools
import io
import json
import pickle
import re
import statistics
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from rac.errors import RacError
from rac.evaluate.code import MEMORY, TIME, check_tests, extract_program, grade_many
from rac.evaluate.harness import cause
from rac.evaluate.tasks.utils import whole

PRIVATE = 2**30  # bytes of private tests of one problem, unpacked
_MODULES = [
    "string",
    "re",
    "datetime",
    "collections",
    "heapq",
    "bisect",
    "copy",
    "math",
    "random",
    "statistics",
    "itertools",
    "functools",
    "operator",
    "io",
    "sys",
    "json",
    "builtins",
    "typing",
]
# What LiveCodeBench's checker puts before every program: its starter code says List unimported.
IMPORTS = "".join(f"from {name} import *\n" for name in _MODULES)
IMPORTS += "".join(f"import {name}\n" for name in _MODULES[:-2]) + "sys.setrecursionlimit(50000)\n"
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)


def grade_all(
    tests: Callable[[dict], list[dict]],
    time_limit: float,
    memory_limit: int,
    before: str,
    responses: list[list[str]],
    docs: list[dict],
) -> list[list[dict]]:
    """A filter: in place of each response its grade (`correct`, `reason`, `detail`, `sandbox`).

    Args:
        tests: those of a row.
        time_limit: seconds of processor time a test.
        memory_limit: bytes a program.
        before: what a program may take for granted, put before it.
        responses: all repeats of each problem.
        docs: the row of each problem; its column `sandbox`, if it has one, is the level.

    Raises:
        RacError: a row has no tests that can be run, or this machine lacks the sandbox.
    """
    level = (docs[0].get("sandbox") if docs else None) or "bubblewrap"
    found = [[extract_program(*whole(response)) for response in repeats] for repeats in responses]
    # All answers are empty when requests are made; then all tests are read, as a row may lack them.
    rehearsed = not any(map(any, responses))

    def jobs() -> Iterator[tuple[str, list[dict]]]:
        for doc, programs in zip(docs, found, strict=True):
            given = [program for program, _ in programs if program is not None]
            if given or rehearsed:
                unpacked = _read(tests, doc)
                yield from ((prefixed(before, program), unpacked) for program in given)

    graded = iter(grade_many(jobs(), time_limit, memory_limit, level))

    def grade(program: str | None, reason: str) -> dict:
        if program is None:
            return {"correct": False, "reason": reason, "detail": "", "sandbox": level}
        passed, verdict, detail = next(graded)
        return {"correct": passed, "reason": verdict, "detail": detail, "sandbox": level}

    return [[grade(*program) for program in programs] for programs in found]


def _read(tests: Callable[[dict], list[dict]], doc: dict) -> list[dict]:
    """The tests of a row.

    Raises:
        RacError: it has none that can be run; names the row.
    """
    try:
        found = tests(doc)
        check_tests(found)
    except Exception as error:
        why = error if isinstance(error, RacError) else cause(error)
        raise RacError(f"problem '{doc.get('id')}' cannot be graded by its tests: {why}") from error
    return found


def prefixed(before: str, program: str) -> str:
    """A program below `before`; its imports from __future__ stay first."""
    if not before:
        return program
    future = "".join(_FUTURE.findall(program))
    return f"{future}\n{before}{_FUTURE.sub('', program)}"


def process_results(doc: dict, results: list[list[dict]]) -> dict:
    """The share of a problem's repeats that pass, and why and in which sandbox each does or not."""
    grades = results[0]
    return {
        "correct": statistics.mean(float(grade["correct"]) for grade in grades),
        "reason": [grade["reason"] for grade in grades],
        "sandbox": [grade["sandbox"] for grade in grades],
    }


def stdin_tests(doc: dict) -> list[dict]:
    """`tests`, a list of {"input", "output"}, or the same as JSON."""
    tests = doc["tests"]
    return json.loads(tests) if isinstance(tests, str) else tests


def humaneval_tests(doc: dict) -> list[dict]:
    """`test`, which defines check(candidate), below what its `prompt` defines beside the function.

    Three of its tests call such helpers; the program could make its own agree with it.
    """
    tree = ast.parse(doc["prompt"])
    tree.body = [node for node in tree.body if getattr(node, "name", "") != doc["entry_point"]]
    code = f"{ast.unparse(tree)}\n{doc['test']}"
    return [{"entry_point": doc["entry_point"], "test_code": code}]


def mbpp_tests(doc: dict) -> list[dict]:
    """`test` below `test_imports`; the function is the one of `code` that the first test calls."""
    defined = {getattr(node, "name", "") for node in ast.walk(ast.parse(doc["code"]))}
    calls = [
        node for node in ast.walk(ast.parse(doc["test_list"][0])) if isinstance(node, ast.Name)
    ]
    entry = next((node.id for node in calls if node.id in defined), None)
    if entry is None:
        raise RacError("its first test calls no function that its code defines")
    code = "\n".join([*(doc.get("test_imports") or []), doc["test"]])
    return [{"entry_point": entry, "test_code": code}]


# As LiveCodeBench compares what a method returns: a tuple may stand for a list.
_METHOD = """\
import json
result = candidate(*map(json.loads, {arguments!r}.split("\\n")))
assert (list(result) if isinstance(result, tuple) else result) == json.loads({expected!r})
"""


def livecodebench_tests(doc: dict) -> list[dict]:
    """Public and private tests: of standard input, or of a method of `Solution`."""
    cases = json.loads(doc["public_test_cases"]) + unpack(doc["private_test_cases"])
    name = json.loads(doc["metadata"] or "{}").get("func_name")
    return [
        {
            "entry_point": name,
            "test_code": _METHOD.format(arguments=case["input"], expected=case["output"]),
        }
        if case["testtype"] == "functional"
        else {"input": case["input"], "output": case["output"]}
        for case in cases
    ]


class _Text(pickle.Unpickler):
    """Unpickles text and other plain values; a pickle that names anything to call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"private tests may not name {module}.{name}")


def unpack(tests: str) -> list[dict]:
    """LiveCodeBench's private tests: JSON, or JSON that was pickled, compressed and in base64.

    Raises:
        pickle.UnpicklingError: the pickle holds more than plain values.
        ValueError: what it holds is not JSON, or is larger than PRIVATE.
    """
    try:
        return json.loads(tests)
    except ValueError:
        pass
    decompress = zlib.decompressobj()
    pickled = decompress.decompress(base64.b64decode(tests), PRIVATE)
    if decompress.unconsumed_tail:
        raise ValueError(f"private tests of more than {PRIVATE} bytes")
    return json.loads(_Text(io.BytesIO(pickled)).load())


grade_stdin = functools.partial(grade_all, stdin_tests, TIME, MEMORY, "")
grade_humaneval = functools.partial(grade_all, humaneval_tests, TIME, MEMORY, "")
grade_mbpp = functools.partial(grade_all, mbpp_tests, TIME, MEMORY, "")
# With the limits of LiveCodeBench's own checker.
grade_livecodebench = functools.partial(grade_all, livecodebench_tests, 6.0, 4 * 2**30, IMPORTS)
