"""Programs that are right, wrong, or pretend to be right."""

import ast
import base64
import gzip
import json
import pickle
import subprocess
import sys
import threading
import time
import zlib
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rac
from rac.errors import RacError
from rac.evaluate import functions
from rac.evaluate.code import check_tests, extract_program, grade_code, grade_many, same_output
from rac.evaluate.sandbox import check
from rac.evaluate.tasks import code_utils, utils

DATA = Path(__file__).parent / "data"
try:
    check("bubblewrap")
    WHY = ""
except RacError as error:
    WHY = str(error)
sandboxed = pytest.mark.skipif(bool(WHY), reason=WHY)

DOUBLE = [{"input": "21\n", "output": "42\n"}, {"input": "-3", "output": "-6"}]
SQUARE = [
    {
        "entry_point": "square",
        "test_code": "def check(candidate):\n    assert candidate(7) == 49\n    assert square(-12) == 144\n",
    }
]


@sandboxed
@pytest.mark.parametrize(
    "program",
    [
        "print(2 * int(input()))",
        "import sys\nfor line in sys.stdin: sys.stdout.write(f'  {2 * int(line)} \\n\\n')",
        "import os, sys\nos.write(1, b'%d' % (2 * int(os.read(0, 99))))\nos._exit(0)",
        "print(2 * int(open(0).read()), file=__import__('sys').stdout)\nexit()",
        "def main(): print(float(input()) * 2)\nif __name__ == '__main__': main()",
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**26)\n"
        "def f(n): return f(n - 1) if n else 2\n"
        "t = threading.Thread(target=lambda: print(f(10**4) * int(input())))\nt.start()\nt.join()",
        "import sys\nprint('a warning', file=sys.stderr)\nprint(int(input()) << 1)\nsys.exit(0)",
        "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\n"
        "class A:\n    x: int\n"
        "print(A(int(input())).x * 2)",
    ],
)
def test_a_right_program_passes(program):
    assert grade_code(program, DOUBLE) == (True, "passed", "")


@sandboxed
@pytest.mark.parametrize(
    ("program", "verdict", "detail"),
    [
        ("print(42)", "wrong answer", "test 2 of 2: line 1 is '42', not '-6'"),
        ("pass", "wrong answer", "test 1 of 2: line 1 is '', not '42'"),
        ("print(2 * int(input()), 0)", "wrong answer", "test 1 of 2: line 1 is '42 0', not '42'"),
        ("print(2 * int(input()), 0, sep='\\n')", "wrong answer", "test 1 of 2: 2 lines, not 1"),
        ("print(1 / 0)", "runtime error", "test 1 of 2: ZeroDivisionError: division by zero"),
        ("print(2 * int(input()))\nexit(3)", "runtime error", "test 1 of 2: exit status 3"),
        (
            "print(2 * int(input())",
            "runtime error",
            "test 1 of 2: SyntaxError: '(' was never closed",
        ),
        ("print('\0')", "runtime error", "test 1 of 2: SyntaxError"),
        ("import torch_is_not_here", "runtime error", "test 1 of 2: ModuleNotFoundError"),
        ("x = bytearray(2**29)", "memory limit", "test 1 of 2: after "),
        ("while True: print('x' * 999)", "output limit", "test 1 of 2: after "),
        ("", "wrong answer", "test 1 of 2"),
        ("\ud800", "runtime error", "test 1 of 2: SyntaxError"),
    ],
)
def test_a_wrong_program_fails_with_a_reason(program, verdict, detail):
    grade = grade_code(program, DOUBLE, time_limit=8, memory_limit=2**28)
    assert (grade.passed, grade.verdict) == (False, verdict)
    assert grade.detail.startswith(detail) and "\n" not in grade.detail


# What a program can think of to look right without being so, or to break what tests it.
FORGED = (
    "import os\nfor fd in range(64):\n    try: os.write(fd, %r * 3)\n    except OSError: pass\n"
)
FAKES = {
    "quits when loaded": ("import os\nos._exit(0)", "ended before"),
    "quits when called": ("import os\ndef square(x): os._exit(0)", "ended before"),
    "exits when loaded": ("exit(0)", "SystemExit"),
    "exits when called": ("import sys\ndef square(x): sys.exit(0)", "SystemExit: 0"),
    "raises what ends a test": ("def square(x): raise KeyboardInterrupt", "KeyboardInterrupt"),
    "equal to all": (
        "class A:\n    def __eq__(self, other): return True\ndef square(x): return A()",
        "AssertionError",
    ),
    "integer equal to all": (
        "class A(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def square(x): return A(1)",
        "AssertionError",
    ),
    "lies about its class": (
        "class A:\n    __class__ = int\n    def __abs__(self): return 0\n    def __int__(self): return 49\n"
        "    def __eq__(self, other): return True\ndef square(x): return A()",
        "",
    ),
    "text that is a number": ("def square(x): return str(x * x)", "AssertionError"),
    "not a number": ("def square(x): return float('nan')", "AssertionError"),
    "patches builtins": (
        "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.len = lambda x: 0\n"
        "builtins.isinstance = lambda *a: True\ndef square(x): return 1",
        "",
    ),
    "patches json": (
        "import json\njson.dumps = lambda *a, **k: 'true'\ndef square(x): return 1",
        "malformed",
    ),
    "answers with a class": (
        'import json\njson.dumps = lambda *a, **k: \'["value", {"type": "exit"}]\'\ndef square(x): return 1',
        "malformed",
    ),
    "answers with a false reference": (
        'import json\njson.dumps = lambda *a, **k: \'["value", {"ref": "__class__"}]\'\n'
        "def square(x): return 1",
        "malformed",
    ),
    "answers with an unhashable set": (
        'import json\njson.dumps = lambda *a, **k: \'["value", {"set": [[]]}]\'\ndef square(x): return 1',
        "malformed",
    ),
    "answers with depth": (
        "import json\njson.dumps = lambda *a, **k: '[\"value\", ' + '[' * 99999 + ']' * 99999 + ']'\n"
        "def square(x): return 1",
        "malformed",
    ),
    "raises what it made up": (
        'import json\njson.dumps = lambda *a, **k: \'["raise", ["SystemExit", "exit"], "0"]\'',
        "SystemExit",
    ),
    "forges verdicts": (FORGED % b'\n["", "passed", ""]\n' + "def square(x): return 1", ""),
    "forges answers": (FORGED % b'["value", 49]\n' + "def square(x): return 1", ""),
    "prints passes": ("def square(x): print('passed', 49, 144)", "AssertionError"),
    "reads the test": (
        "import os\nfound = []\nfor folder, _, files in os.walk('/box'): found += files\n"
        "assert 'test.json' in found\ndef square(x): return 1",
        "AssertionError",
    ),
    "looks for the test in memory": (
        "import gc, re, sys\ndef square(x):\n    for o in gc.get_objects():\n"
        "        if isinstance(o, dict) and 'test_' + 'code' in o: return x * x\n"
        "    f = sys._getframe()\n    while f:\n"
        "        if 'candi' + 'date(' in str(f.f_locals): return x * x\n"
        "        f = f.f_back\n    return 1",
        "AssertionError",
    ),
    "looks for the test in processes": (
        "import glob\ndef square(x):\n    if len(glob.glob('/proc/[0-9]*')) > 1: return x * x\n    return 1",
        "AssertionError",
    ),
    "replaces modules": (
        "import sys\nfor name in list(sys.modules): sys.modules[name] = None\ndef square(x): return 1",
        "",
    ),
    "replaces the server": (
        "import __main__, sys\n__main__.encode = lambda *a: 49\nsys.modules['__main__'] = None\n"
        "def square(x): return 1",
        "",
    ),
    "ends its parents": (
        "import os\ndef square(x):\n    for p in (os.getppid(), 0, -1):\n        try: os.kill(p, 9)\n"
        "        except OSError: pass\n    return 1",
        "",
    ),
    "speaks at its end": (
        "import atexit, os\natexit.register(lambda: os.write(1, b'[\"value\", 49]\\n'))\n"
        "def square(x): exit(0)",
        "SystemExit",
    ),
    "closes everything": (
        "import os\nos.closerange(0, 64)\ndef square(x): return 1",
        "ended before",
    ),
    "an error that cannot be told": (
        "class E(Exception):\n    def __str__(self): raise self\ndef square(x): raise E",
        "ended before",
    ),
    "an error with a false name": (
        "AssertionError = type('AssertionError', (Exception,), {})\n"
        "def square(x): raise AssertionError('ok')",
        "AssertionError: ok",
    ),
    "a list in itself": (
        "def square(x):\n    x = []\n    x.append(x)\n    return x",
        "RecursionError",
    ),
    "an endless iterator": (
        "import itertools\ndef square(x): return itertools.count()",
        "Assertion",
    ),
    "a huge answer": ("def square(x): return 'x' * 2**27", "an answer is too long"),
    "no function": ("x = 1", "NameError: the program defines no 'square'"),
    "another function": ("def cube(x): return x ** 3", "NameError"),
    "not a function": ("square = 49", "TypeError"),
    "right once": ("def square(x): return 49", "AssertionError"),
    "reads what it is asked": ("def square(x): return int(input())", "EOFError"),
}


@sandboxed
@pytest.mark.parametrize("name", FAKES)
def test_no_fake_passes(name):
    program, detail = FAKES[name]
    grade = grade_code(program, SQUARE, time_limit=5)
    assert not grade.passed
    assert grade.verdict in ("wrong answer", "runtime error")
    assert detail in grade.detail and "\n" not in grade.detail


@sandboxed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("import time\ndef square(x): time.sleep(99)", "time limit"),
        ("def square(x):\n    while True: pass", "time limit"),
        ("import os\nwhile True: os.write(1, b'1')", "time limit"),
        ("def square(x): return bytearray(2**30)", "memory limit"),
        (
            "import os\nif not os.fork():\n    while True: pass\ndef square(x): return x",
            "wrong answer",
        ),
    ],
)
def test_a_function_that_takes_too_much(program, verdict):
    assert grade_code(program, SQUARE, time_limit=0.5, memory_limit=2**28).verdict == verdict


@sandboxed
def test_what_a_test_may_ask():
    program = """
import collections, decimal, fractions, functools, math
class Node:
    def __init__(self, value): self.value, self.next = value, None
    def __eq__(self, other): return True
def length(node): return 1 + length(node.next) if node else 0
def echo(*values, **named): return (values, named) if named else values[0] if len(values) == 1 else values
def fail(kind): raise {'json': __import__('json').JSONDecodeError('bad', '', 0), 'own': Own('x')}[kind]
class Own(ValueError): pass
def chars(text): yield from text
def adder(n): return lambda m: n + m
def counts(text): return collections.Counter(text)
def same(kind): return kind
"""
    test = """
first, second = Node(1), Node(2)
first.next = second
assert candidate(first) == 2 and first.next.value == 2 and length(None) == 0
assert first == first and first != second and not (first == 1)
for value in (None, True, 0, -2**70, 10**5000, 1.5, -0.0, 1e300, 2j, '',
              'é\\ud800\\n', b'\\xff', bytearray(b'x'), [], [[1], (2,)], (), {1, 2}, frozenset('ab'),
              {'a': {1: (2,)}, (1, 2): None}, range(1, 9, 2), int):
    assert echo(value) == value and type(echo(value)) is type(value), value
assert echo(1, 2, a=3) == ((1, 2), {'a': 3})
assert math.isnan(echo(math.nan)) and echo(math.inf) == math.inf
assert echo(decimal.Decimal('0.10')) == decimal.Decimal('0.1')
assert echo(fractions.Fraction(1, 3)) * 3 == 1
for kind, wanted in (('json', ValueError), ('own', ValueError), ('none', KeyError)):
    try:
        fail(kind)
    except wanted:
        pass
    else:
        raise AssertionError(kind)
assert list(chars('ab')) == ['a', 'b'] and next(chars('z')) == 'z'
assert adder(2)(3) == 5 and bool(adder(2))
assert counts('aab') == {'a': 2, 'b': 1} and same(str) is str
"""
    assert grade_code(program, [{"entry_point": "length", "test_code": test}]) == (
        True,
        "passed",
        "",
    )


@sandboxed
def test_a_method_of_solution_as_leetcode_calls_it():
    program = "class Solution:\n    def square(self, x): return x * x"
    assert grade_code(program, SQUARE).passed


@sandboxed
def test_a_function_that_is_called_check_is_not_taken_for_the_tests_own():
    test = {"entry_point": "check", "test_code": "assert candidate(3) == 9"}
    assert grade_code("def check(x): return int(x) ** 2", [test]).passed


@sandboxed
def test_a_test_that_fails_by_itself_is_no_pass():
    good = "def square(x): return x * x"
    for code in (
        "assert square(2) == 5",
        "square(",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
    ):
        grade = grade_code(good, [{"entry_point": "square", "test_code": code}])
        assert (grade.passed, grade.verdict) == (False, "wrong answer")


@sandboxed
def test_many_are_graded_in_order_and_alike():
    jobs = [(f"print(int(input()) * {n})", DOUBLE) for n in range(12)]
    grades = grade_many(iter(jobs), parallel=3)
    assert [grade.passed for grade in grades] == [n == 2 for n in range(12)]
    assert grades == grade_many(jobs, parallel=1)
    assert grade_many([]) == []


@sandboxed
def test_threads_may_grade_and_the_api_is_the_packages():
    grades = []
    threads = [
        threading.Thread(
            target=lambda: grades.append(rac.grade_code("print(2*int(input()))", DOUBLE))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert grades == [(True, "passed", "")] * 3


def test_tests_that_are_none():
    with pytest.raises(RacError, match="give one"):
        grade_code("pass", [])
    with pytest.raises(RacError, match=r"number 1 has neither .* \(it has: stdin\)"):
        grade_code("pass", [{"stdin": ""}], sandbox="rlimits")
    for test, message in (
        ({"input": 5, "output": "5"}, "number 1: its input is of type int, not text"),
        ({"input": "", "output": ["5"]}, "number 1: its output is of type list, not text"),
        ({"entry_point": "f", "test_code": " \n"}, "number 1: its test_code is empty"),
    ):
        with pytest.raises(RacError, match=message):
            check_tests([test])


@sandboxed
@pytest.mark.parametrize("code", ["x = 1", "def test_f():\n    assert f(1) == 2\n", "square"])
def test_a_test_that_calls_nothing_is_no_test(code):
    tests = [*SQUARE, {"entry_point": "square", "test_code": code}]
    with pytest.raises(RacError, match="number 2 of 'square' never calls it"):
        grade_code("def square(x): return x * x", tests)


def test_a_weaker_sandbox_must_be_asked_for():
    assert grade_code("print(2 * int(input()))", DOUBLE, sandbox="rlimits").passed
    assert grade_code("def square(x): return x * x", SQUARE, sandbox="rlimits").passed
    with pytest.raises(RacError, match="'none' is none of bubblewrap, rlimits"):
        grade_code("pass", DOUBLE, sandbox="none")


@pytest.mark.parametrize(
    ("response", "finished", "found"),
    [
        ("<think>```python\n1\n```", True, (None, "unfinished thought")),
        ("<think>```python\n1\n```", False, (None, "unfinished thought")),
        ("<think>\n```python\n1\n```\n</think>\nso", True, (None, "no code")),
        ("<think></think>\n```python\n1\n```", False, ("1\n", "")),
        ("<think></think>\n```python\n1\n", False, (None, "unfinished")),
        ("<think></think>\n```python\n1\n", True, (None, "no code")),
        ("```python\n1\n```", False, (None, "unfinished")),
        ("print(1)", True, (None, "no code")),
        ("", True, (None, "no code")),
        ("```python\n1\n```\nor\n```python\n2\n```", True, ("2\n", "")),
        ("```python\n1\n```\nor\n```python\n2\n", True, ("1\n", "")),
        ("```python\n1\n```\ngives\n```\n7\n```", True, ("1\n", "")),
        ("```\n1\n```\ngives\n```text\n7\n```", True, ("7\n", "")),
        ("```Py3\n1\n```\n```cpp\n2\n```", True, ("1\n", "")),
        ("~~~python\n1\n```\n~~~", True, ("1\n```\n", "")),
        ("````python\ns = '''\n```\n'''\n````", True, ("s = '''\n```\n'''\n", "")),
        ("- so:\n  ```python\n  1\n  ```", True, ("1\n", "")),
        (
            "10. so:\n\n    ```python\n    if 1:\n        2\n\n   3\n    ```",
            True,
            ("if 1:\n    2\n\n3\n", ""),
        ),
        ('```py\n"""\n    ```\n"""\n```', True, ('"""\n    ```\n"""\n', "")),
        ("```python\n1\n```\n```pycon\n>>> 1\n1\n```", True, ("1\n", "")),
        ("```python3.11\n1\n```\n```pytb\n2\n```", True, ("1\n", "")),
        ("```python title=x\n1\r\n```\r\n", True, ("1\r\n", "")),
        ("a ```python``` b", True, (None, "no code")),
        ("```python\n```", True, ("", "")),
    ],
)
def test_the_last_complete_block_after_the_thought(response, finished, found):
    assert extract_program(response, finished) == found


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1 2\n3", " 1  2 \r\n3\n\n", True),
        ("1.0 2e1", "1 20", True),
        ("0.30000000000000004", "0.3", False),
        ("1\n\n2", "1\n2", False),
        ("YES", "Yes", False),
        ("nan", "nan", True),
        ("nan 1.0", "nan 1", False),
        ("1_0", "10", False),
        ("x 1.0", "x 1", False),
        ("", "", True),
        ("1", "", False),
        ("1e999999", "1e999998", False),
        ("1e9999999999", "1", False),
        ("٣", "3", False),
    ],
)
def test_outputs_agree_as_text_or_as_numbers(output, expected, same):
    assert same_output(output, expected)[0] is same


@pytest.mark.parametrize("before", ["", "-", ".", "1.", "1e"])
@pytest.mark.parametrize("after", ["x", ".", "e"])
def test_outputs_are_compared_in_a_time_that_grows_with_their_length(before, after):
    """Its square would take ten seconds of the process that scores."""
    start = time.process_time()
    for part in ("1", "0", "1.", " 1", "e1"):
        line = before + part * (100_000 // len(part)) + after
        assert not same_output(line, "1")[0]
    assert time.process_time() - start < 2


@pytest.mark.parametrize("opening", ["```", "~~~", "   ```\t", " ```py "])
def test_fences_are_found_in_a_time_that_grows_with_the_length_of_a_response(opening):
    start = time.process_time()
    for part in ("a", "`", "~", " ", "\t", "~~~\n", "```\n", " `", "~ "):
        extract_program(opening + part * (100_000 // len(part)) + "`")
    assert time.process_time() - start < 2


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
    | st.binary() | st.fractions() | st.decimals(allow_nan=False),
    lambda inside: st.lists(inside) | st.tuples(inside, inside)
    | st.dictionaries(st.text() | st.tuples(st.integers()), inside) | st.sets(st.integers()),
    max_leaves=12,
)  # fmt: skip


@given(plain)
def test_plain_values_cross_the_wire_exactly(value):
    def refuse(_):
        raise AssertionError("not plain")

    text = json.dumps(functions.encode(value, refuse))
    assert _exact(functions.decode(json.loads(text), refuse)) == _exact(value)


def _exact(value):
    """A text that tells apart what == does not, such as 1, 1.0 and True, and 0.0 and -0.0."""
    if isinstance(value, set):
        return f"set {sorted(value)}"
    if isinstance(value, dict):
        return [(_exact(k), _exact(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value).__name__, [_exact(item) for item in value]
    return repr(value)


def test_the_wire_makes_exact_types_alone():
    class Liar(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    value = functions.decode(
        functions.encode([Liar(3), {Liar(4): Decimal(1)}, Fraction(1, 2)], id), id
    )
    assert type(value[0]) is int and type(next(iter(value[1]))) is int
    for hostile in ({"exec": "1"}, {"int": []}, {"a": 1, "b": 2}, {"getattr": 1}, {"float": "x"}):
        with pytest.raises((ValueError, TypeError)):
            functions.decode(hostile, id)


def _rows(name):
    text = gzip.decompress((DATA / f"{name}.jsonl.gz").read_bytes()).decode()
    return map(json.loads, text.splitlines())


def _humaneval():
    for row in _rows("humaneval"):
        yield row["prompt"] + row["canonical_solution"], row


def _entry(row):
    defined = {getattr(node, "name", "") for node in ast.walk(ast.parse(row["code"]))}
    names = [n for n in ast.walk(ast.parse(row["test_list"][0])) if isinstance(n, ast.Name)]
    return next(node.id for node in names if node.id in defined)


def _mbpp():
    for row in _rows("mbpp"):
        code = "\n".join([row["test_setup_code"], *row["test_list"], *row["challenge_test_list"]])
        yield row["code"], [{"entry_point": _entry(row), "test_code": code}]


@sandboxed
@pytest.mark.slow
def test_every_reference_of_humaneval_passes_and_no_stub_does():
    rows = list(_humaneval())
    assert len(rows) == 164
    for tests in (
        code_utils.humaneval_tests,
        lambda row: [{"entry_point": row["entry_point"], "test_code": row["test"]}],
    ):
        grades = grade_many((program, tests(row)) for program, row in rows)
        assert [
            row["task_id"] for (_, row), g in zip(rows, grades, strict=True) if not g.passed
        ] == []
    stubs = grade_many((row["prompt"], code_utils.humaneval_tests(row)) for _, row in rows[::4])
    assert not any(grade.passed for grade in stubs)


@sandboxed
@pytest.mark.slow
def test_every_reference_of_mbpp_passes_and_its_neighbour_does_not():
    jobs = list(_mbpp())
    assert len(jobs) == 974
    grades = grade_many(jobs)
    assert [i for i, grade in enumerate(grades) if not grade.passed] == []
    wrong = [(a[0], b[1]) for a, b in zip(jobs[:60], jobs[1:61], strict=True)]
    assert sum(grade.passed for grade in grade_many(wrong)) == 0


LIVECODEBENCH = {
    "question_content": "Double it.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}]),
    "metadata": "{}",
}


def _packed(tests):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


@sandboxed
def test_livecodebench_rows_as_published():
    hidden = _packed([{"input": "4", "output": "8", "testtype": "stdin"}])
    doc = LIVECODEBENCH | {"private_test_cases": hidden}
    tests = code_utils.livecodebench_tests(doc)
    assert tests == [{"input": "1", "output": "2"}, {"input": "4", "output": "8"}]
    case = {"input": '[3, 1]\n"a"', "output": "[1, 3]", "testtype": "functional"}
    doc = LIVECODEBENCH | {
        "public_test_cases": json.dumps([case]),
        "private_test_cases": _packed([case | {"input": '[2, 2]\n"a"', "output": "[2, 2]"}]),
        "metadata": json.dumps({"func_name": "arrange"}),
    }
    tests = code_utils.livecodebench_tests(doc)
    for body, passed in (("sorted(a)", True), ("tuple(sorted(a))", True), ("a", False)):
        program = f"class Solution:\n    def arrange(self, a, b): return {body}"
        assert grade_code(program, tests).passed is passed


def test_private_tests_are_never_unpickled_into_calls(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    for evil in (Evil(), [Evil()]):
        text = base64.b64encode(zlib.compress(pickle.dumps(evil))).decode()
        with pytest.raises(pickle.UnpicklingError, match="may not name"):
            code_utils.unpack(text)
    assert not (tmp_path / "owned").exists()
    assert code_utils.unpack("[]") == []
    with pytest.raises(ValueError):
        code_utils.unpack("not base64!")


def test_what_a_program_may_take_for_granted_comes_after_the_future():
    program = "from __future__ import annotations\nprint(sqrt(4))\n"
    assert code_utils.prefixed("", program) == program
    namespace = {}
    exec(code_utils.prefixed(code_utils.IMPORTS, "x: List[int] = [ceil(1.5), math.inf]"), namespace)
    assert namespace["x"] == [2, float("inf")]
    compile(code_utils.prefixed(code_utils.IMPORTS, program), "p", "exec")


@sandboxed
def test_what_a_program_says_is_one_line_that_prints():
    program = "raise ValueError('a\\nb\\x1b[2J\\u202e' + 'x' * 999)"
    detail = grade_code(program, DOUBLE).detail
    assert detail.isprintable() and len(detail) < 230
    program = (
        "class E(Exception): pass\nE.__name__ = 'E\\n\\x1b'\ndef square(x): raise E('\\ud800\\n')"
    )
    assert grade_code(program, SQUARE).detail.isprintable()


def _graded(task, rows, responses, tmp_path):
    """The samples of a task as lm-eval logs them, one response a row."""
    from rac.artifacts import write_jsonl
    from rac.evaluate.harness import load_task

    write_jsonl(tmp_path / "data.jsonl", rows)
    loaded = load_task(task, tmp_path / "data.jsonl")
    loaded.build_all_requests(apply_chat_template=False)
    prompts = [instance.args[0] for instance in loaded.instances]
    for instance, response in zip(loaded.instances, responses, strict=True):
        instance.resps = [response]
    loaded.apply_filters()
    results = [
        loaded.process_results(instance.doc, [instance.filtered_resps["all"]])
        for instance in loaded.instances
    ]
    return prompts, results


@sandboxed
def test_the_task_of_livecodebench(tmp_path):
    row = LIVECODEBENCH | {"id": "a", "private_test_cases": "[]"}
    starter = row | {
        "starter_code": "class Solution:\n    def f(self): ...\n",
        "public_test_cases": json.dumps([{"input": "3", "output": "6", "testtype": "functional"}]),
        "metadata": json.dumps({"func_name": "f"}),
    }
    prompts, results = _graded(
        "livecodebench",
        [row, starter, row],
        [
            "<think>```python\nprint(int(input()) * 2)\n```</think>It is above.",
            "<think>x</think>\n```python\nclass Solution:\n"
            "    def f(self, x: List[int]) -> int: return comb(x, 1) * 2\n```",
            "<think>so\n```python\nprint(int(input()) * 2)\n```",
        ],
        tmp_path,
    )
    head = (
        "You will be given a question (problem specification) and will generate a correct Python "
        "program that matches the specification and passes all tests.\n\nQuestion: Double it.\n\n"
    )
    assert prompts[0] == (
        head
        + "Read the inputs from stdin solve the problem and write the answer to stdout (do not "
        "directly test on the sample inputs). Enclose your code within delimiters as follows. Ensure "
        "that when the python program runs, it reads the inputs, runs the algorithm and writes output "
        "to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
    )
    assert prompts[1] == (
        head + "You will use the following starter code to write the solution to the problem and "
        "enclose your code within delimiters.\n```python\nclass Solution:\n    def f(self): ...\n\n"
        "```\n\n"
    )
    assert [(r["correct"], r["reason"], r["sandbox"]) for r in results] == [
        (0.0, ["no code"], ["bubblewrap"]),
        (1.0, ["passed"], ["bubblewrap"]),
        (0.0, ["unfinished thought"], ["bubblewrap"]),
    ]


@sandboxed
def test_the_tasks_of_evalplus_and_codeforces(tmp_path):
    _, row = next(_humaneval())
    body = row["prompt"] + row["canonical_solution"]
    prompts, results = _graded("humaneval_plus", [row], [f"```python\n{body}\n```"], tmp_path)
    assert prompts[0].startswith("Please provide a self-contained Python script") and (
        "has_close_elements" in prompts[0]
    )
    assert results[0]["correct"] == 1.0
    row = {
        "prompt": "Write a function to square a number.",
        "code": "def square(x): return x ** 2",
        "test_imports": ["import math"],
        "test_list": ["assert square(3) == 9"],
        "test": "for i in range(9):\n    assert math.isclose(square(i), i * i)",
    }
    answers = ["```python\ndef square(x): return x * x\n```", "```\ndef square(x): return 9\n```"]
    prompts, results = _graded("mbpp_plus", [row, row], answers, tmp_path)
    assert "assert square(3) == 9" in prompts[0]
    assert [result["correct"] for result in results] == [1.0, 0.0]
    row = {"problem": "Double.", "tests": DOUBLE}
    _, results = _graded("codeforces", [row], ["```python\nprint(2*int(input()))\n```"], tmp_path)
    assert results[0] == {"correct": 1.0, "reason": ["passed"], "sandbox": ["bubblewrap"]}


@sandboxed
def test_stored_generations_are_scored_by_running_them(tmp_path, checkpoint, documented):
    from rac.artifacts import read_json, read_jsonl, write_jsonl
    from rac.definitions import Eval
    from rac.evaluate.requests import build_requests
    from rac.evaluate.score import score

    data, requests = tmp_path / "data.jsonl", tmp_path / "requests.jsonl.zst"
    marks = {"release": "v5", "window": "2024-08-01/2025-02-01", "date": "2024-08-03"}
    row = {"problem": "Double it.", "tests": DOUBLE, **marks}
    write_jsonl(data, [{"id": key} | row for key in "ab"])
    build_requests("codeforces", data, checkpoint, requests)
    right, wrong = "print(2 * int(input()))", "print(42)"
    answers = [[f"so</think>\n```python\n{right}\n```", f"```python\n{right}\n```"]]
    answers += [[f"so</think>\n```python\n{wrong}\n```", f"so</think>\n```python\n{right}"]]
    rows = [
        {"doc_id": i, "id": "ab"[i], "sample": j, "seed": 0, "token_ids": [1], "text": text}
        | {"finish_reason": "length" if i and j else "stop", "tokens": 9}
        for i, texts in enumerate(answers)
        for j, text in enumerate(texts)
    ]
    write_jsonl(tmp_path / "generations.jsonl.zst", rows)
    files = [
        tmp_path / name for name in ("generations.jsonl.zst", "scores.jsonl.zst", "metrics.json")
    ]
    score(Eval(task="codeforces", dataset="bench", samples=2), data, requests, *files)
    assert [(row["correct"], row["reason"]) for row in read_jsonl(files[1])] == [
        (True, "passed"),
        (False, "unfinished thought"),
        (False, "wrong answer"),
        (False, "unfinished"),
    ]
    assert read_json(files[2])["accuracy"] == 0.25
    of_programs = {"sandbox": "bubblewrap", **marks}
    assert read_jsonl(files[1])[0].items() >= of_programs.items()
    assert read_jsonl(files[1])[0].keys() <= documented("scores.jsonl.zst")


def test_a_weaker_sandbox_is_in_every_score():
    docs = [{"tests": DOUBLE, "sandbox": "rlimits"}] * 2
    responses = [
        ["```python\nprint(2*int(input()))\n```", "no"],
        ["```python\nprint(1)\n```", "no"],
    ]
    graded = code_utils.grade_stdin(responses, docs)
    assert [[(g["reason"], g["sandbox"]) for g in grades] for grades in graded] == [
        [("passed", "rlimits"), ("no code", "rlimits")],
        [("wrong answer", "rlimits"), ("no code", "rlimits")],
    ]
    assert code_utils.process_results({}, [graded[0]])["correct"] == 0.5
    assert utils.count([["a"], ["b", "a"]]) == {"a": 2, "b": 1}


def test_grading_code_imports_nothing_heavy():
    code = (
        "import sys; import rac; rac.grade_code; "
        "assert not {'torch', 'numpy', 'lm_eval', 'sympy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
