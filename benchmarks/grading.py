"""How rightly and how fast math answers are graded, on the data of the tests.

    python benchmarks/grading.py [--workers 2] [--pairs 2000] [--data tests/evaluate/data]

1. Graded answers (GSM8K) and graded solutions (MATH): how many agree with their labels; answers a second,
   the start of the processes counted.
2. Golds of MATH-500 that are no integers, each against another one: comparisons a second once the processes
   run, for what text alone decides and for what Math-Verify is asked (`--pairs 0`: all ordered pairs), and
   the pairs that are found equal.
3. The cases of equality.txt: how many are right, beside Math-Verify alone (gold first, in `$…$`).
"""

import argparse
import itertools
import random
import time
from collections import Counter
from pathlib import Path

from rac.artifacts import read_jsonl
from rac.evaluate.comparer import compare
from rac.evaluate.equality import decided
from rac.evaluate.math import grade_many
from rac.evaluate.spelling import normalise


def agreement(data: Path, workers: int) -> None:
    """Print, for each set of graded answers, how many labels our grades agree with."""
    for name in ("gsm8k", "math_cot"):
        rows = read_jsonl(data / f"{name}.jsonl.zst")
        texts = [
            row["response"] if "response" in row else rf"\boxed{{{row['answer'] or ''}}}"
            for row in rows
        ]
        start = time.monotonic()
        grades = grade_many(
            [(text, row["gold"], True) for text, row in zip(texts, rows, strict=True)], workers
        )
        seconds = time.monotonic() - start
        wrong = [row for row, grade in zip(rows, grades, strict=True) if grade[0] != row["correct"]]
        print(f"{name}: {len(rows) - len(wrong)} of {len(rows)} labels agree, ", end="")
        print(f"{len(rows) / seconds:.0f} answers/s; {dict(Counter(grade[1] for grade in grades))}")
        for row in wrong:
            print(f"    {row['id']}: labelled {row['correct']}, gold {row['gold']}")


def throughput(data: Path, workers: int, count: int) -> None:
    """Print comparisons a second of golds with one another."""
    golds = {normalise(row["gold"]) for row in read_jsonl(data / "math500.jsonl.zst")}
    pairs = list(itertools.permutations(sorted(g for g in golds if not g.isdigit()), 2))
    if count:
        pairs = random.Random(0).sample(pairs, min(count, len(pairs)))
    start = time.monotonic()
    verdicts = [decided(*pair) for pair in pairs]
    seconds = time.monotonic() - start
    asked = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is None]
    print(f"text alone: {len(pairs) - len(asked)} of {len(pairs)} pairs decided, ", end="")
    print(f"{len(pairs) / seconds:.0f} pairs/s")
    compare([("x", str(n)) for n in range(16 * workers)], workers)  # the processes start
    start = time.monotonic()
    words = compare(asked, workers)
    rate = len(asked) / (time.monotonic() - start)
    print(f"Math-Verify: {len(asked)} pairs, {rate:.0f} pairs/s over {workers} processes; ", end="")
    print(dict(Counter(words)))
    equal = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict]
    equal += [pair for pair, word in zip(asked, words, strict=True) if word == "equal"]
    for gold, answer in sorted({tuple(sorted(pair)) for pair in equal}):
        print(f"    found equal: {gold} and {answer}")


def corrections(data: Path, workers: int) -> None:
    """Print how many cases of equality.txt are right, by us and by Math-Verify alone."""
    from math_verify import parse, verify

    cases, gold = [], ""
    for line in (data / "equality.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(("  = ", "  ! ")):
            cases.append((gold, line[4:], line[2] == "="))
        elif line and not line.startswith("# "):
            gold = line
    grades = grade_many(
        [(rf"\boxed{{{answer}}}", gold, True) for gold, answer, _ in cases], workers
    )
    for name, verdicts in (
        ("here", [grade.correct for grade in grades]),
        ("Math-Verify", [verify(parse(f"${g}$"), parse(f"${a}$")) for g, a, _ in cases]),
    ):
        pairs = list(zip(cases, verdicts, strict=True))
        accepted = sum(verdict and not same for (_, _, same), verdict in pairs)
        refused = sum(same and not verdict for (_, _, same), verdict in pairs)
        print(f"{name}: {len(cases)} cases, {accepted} wrong accepted, {refused} right refused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs of golds (0: all)")
    parser.add_argument("--data", type=Path, default=Path("tests/evaluate/data"))
    arguments = parser.parse_args()
    agreement(arguments.data, arguments.workers)
    throughput(arguments.data, arguments.workers, arguments.pairs)
    corrections(arguments.data, arguments.workers)


if __name__ == "__main__":
    main()
