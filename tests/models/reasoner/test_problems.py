import hashlib
import itertools
import json
import os
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rac.models.reasoner import problems

DIGEST = "4dde77e55ca7d30cbf574ac862de83d83d1652f6979556e8452ef901692783c2"
GROWS, SHRINKS = {"buys", "finds", "gets", "wins"}, {"drops", "gives away", "loses", "sells"}


def read_problem(text: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    """The arithmetic of a problem, read from its words alone."""
    first, *events, question = text.split("\n")
    name, start = re.fullmatch(r"(\w+) has (\d+) \w+\.", first).groups()
    assert re.fullmatch(rf"How many \w+ does {name} have now\?", question)
    operations = []
    ordinals = ("First", "Second", "Third", "Fourth", "Fifth")
    for ordinal, event in zip(ordinals, events, strict=False):
        if match := re.fullmatch(rf"{ordinal}, {name} ends up with (\d+) times as many\.", event):
            operations.append(("*", int(match[1])))
        else:
            verb, number = re.fullmatch(rf"{ordinal}, {name} ([a-z ]+) (\d+)\.", event).groups()
            assert verb in GROWS | SHRINKS
            operations.append(("+" if verb in GROWS else "-", int(number)))
    assert len(operations) == len(events)
    return int(start), tuple(operations)


def check_work(value: int, sign: str, number: int, work: str) -> None:
    """Every equation, digit and carry of one operation written out."""
    carry, written = 0, ""
    for i, step in enumerate(work.split("; ")):
        if last := re.fullmatch(r"write(\d)", step):
            assert int(last[1]) == carry > 0
            written, carry = last[1] + written, 0
            continue
        a, op, b, op2, c, total, write, word, out = re.fullmatch(
            r"(\d)([-+*])(\d)([-+])(\d)=(-?\d+) write(\d) (carry|borrow)(\d)", step
        ).groups()
        a, b, c, total, write, out = map(int, (a, b, c, total, write, out))
        assert op == sign
        assert a == int(str(value)[::-1][i : i + 1] or 0)
        assert b == (number if sign == "*" else int(str(number)[::-1][i : i + 1] or 0))
        assert c == carry
        if sign == "-":
            assert (op2, word) == ("-", "borrow") and total == a - b - c == write - 10 * out
        else:
            assert (op2, word) == ("+", "carry")
            assert total == (a * b if sign == "*" else a + b) + c == 10 * out + write
        written, carry = str(write) + written, out
    assert carry == 0
    assert int(written) == {"+": value + number, "-": value - number, "*": value * number}[sign]


@pytest.mark.parametrize("split", problems.SPLITS)
def test_solutions_are_right_in_every_step(split):
    for row in problems.generate(split, 300, seed=3):
        value, operations = read_problem(row["problem"])
        thought, final = row["solution"].split("\n</think>\n")
        first, *lines = thought.split("\n")
        assert first == f"Start with {value}."
        events = row["problem"].split("\n")[1:-1]
        for line, event, (sign, number) in zip(lines, events, operations, strict=True):
            begin = re.escape(f"{event} {value}{sign}{number}: ")
            work, result = re.fullmatch(rf"{begin}(.*)\. So \w+ has (\d+)\.", line).groups()
            check_work(value, sign, number, work)
            value = int(result)
            assert 1 <= value <= 999
        assert row["answer"] == str(value)
        assert final == f"The answer is \\boxed{{{value}}}."


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=5)
def test_no_arithmetic_is_in_two_splits_or_twice_in_one(seed, other_seed):
    found = {}
    for split in problems.SPLITS:
        rows = [read_problem(row["problem"]) for row in problems.generate(split, 100, seed)]
        assert len(set(rows)) == len(rows)
        more = problems.generate(split, 100, other_seed)
        found[split] = set(rows) | {read_problem(row["problem"]) for row in more}
    for one, other in itertools.combinations(problems.SPLITS, 2):
        assert not found[one] & found[other]


def test_short_problems_of_the_splits_are_disjoint_in_bulk():
    # Problems of one operation are the few that could be met twice by chance.
    found = {}
    for split in problems.SPLITS:
        rows = (read_problem(row["problem"]) for row in problems.generate(split, 800))
        found[split] = {row for row in rows if len(row[1]) == 1}
    assert all(len(rows) > 100 for rows in found.values())
    for one, other in itertools.combinations(problems.SPLITS, 2):
        assert not found[one] & found[other]


def test_split_shares():
    keys = [problems.canonical(start, [("+", n)]) for start in range(100) for n in range(200)]
    splits = [problems.split_of(key) for key in keys]
    for split in ("validation", "calibration", "test"):
        assert 0.04 < splits.count(split) / len(keys) < 0.06


@given(st.sampled_from(problems.SPLITS), st.integers(0, 60), st.integers(0, 60), st.integers(0, 99))
@settings(max_examples=20)
def test_fewer_rows_are_a_prefix(split, few, more, seed):
    rows = problems.generate(split, few + more, seed)
    assert problems.generate(split, few, seed) == rows[:few]
    assert len({row["id"] for row in rows}) == few + more


def test_the_same_rows_in_every_process():
    # The digest is what the shipped weights were trained and measured on.
    script = (
        "import json; from rac.models.reasoner.problems import SPLITS, generate;"
        "print(json.dumps([generate(split, 50, 1) for split in SPLITS]))"
    )
    for hash_seed in ("0", "1"):
        output = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        assert hashlib.sha256(output.strip()).hexdigest() == DIGEST
    assert json.loads(output)[1] == problems.generate("validation", 50, 1)


def test_seeds_differ():
    assert problems.generate("test", 5, 0) != problems.generate("test", 5, 1)


def test_unknown_split():
    with pytest.raises(ValueError, match="'dev' is none of train, validation, calibration, test"):
        problems.generate("dev", 1)
