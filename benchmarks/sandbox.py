"""What a sandbox costs, and how many programs a second are graded in several beside each other.

    python benchmarks/sandbox.py [--programs 200] [--parallel 1,2] --output FILE.json

Two tables go to standard output:

1. one program that does nothing: Python alone, under limits, and in bubblewrap (median milliseconds);
2. right programs a second, by how many run at a time, and the processor time of each, ours included:
   a test of standard input takes one sandbox, a test of a function two.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rac.evaluate.code import grade_many
from rac.evaluate.sandbox import Limits, check, run

STDIN = ("print(2 * int(input()))", [{"input": "21", "output": "42"}])
FUNCTION = (
    "def double(x): return 2 * x",
    [{"entry_point": "double", "test_code": "assert double(21) == 42"}],
)


def milliseconds(action: Callable[[], object], repeats: int) -> float:
    """The median time of an action."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def overhead(repeats: int) -> dict[str, float]:
    """Milliseconds from start to end of a program that does nothing."""
    plain = [os.path.realpath(sys.executable), "-s", "-S", "-P", "-B", "-c", ""]

    def sandboxed(level: str) -> Callable[[], object]:
        return lambda: run({"main.py": ""}, "main.py", b"", Limits(), level)

    return {
        "Python alone": milliseconds(lambda: subprocess.run(plain, check=True), repeats),
        "rlimits": milliseconds(sandboxed("rlimits"), repeats),
        "bubblewrap": milliseconds(sandboxed("bubblewrap"), repeats),
    }


def throughput(programs: int, parallel: int) -> dict[str, dict[str, float]]:
    """Programs a second, and milliseconds of processor time of each, by kind of test."""
    rates = {}
    for kind, job in (("standard input", STDIN), ("function", FUNCTION)):
        start, spent = time.perf_counter(), processor()
        grades = grade_many([job] * programs, parallel=parallel)
        assert all(grade.passed for grade in grades)
        rates[kind] = {
            "per_second": programs / (time.perf_counter() - start),
            "processor_ms": 1000 * (processor() - spent) / programs,
        }
    return rates


def processor() -> float:
    """Seconds of processor time of this process and of all that it waited for."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--parallel", default="1,2")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    check("bubblewrap")
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "root": os.geteuid() == 0,  # for whom another sandbox is made around each
        "load": os.getloadavg()[0],
        "milliseconds": overhead(max(5, arguments.programs // 5)),
        "throughput": {
            parallel: throughput(arguments.programs, int(parallel))
            for parallel in arguments.parallel.split(",")
        },
    }
    print("| a program that does nothing | ms |\n|---|---|")
    for name, value in result["milliseconds"].items():
        print(f"| {name} | {value:.0f} |")
    print("\n| at a time | test | programs/s | processor ms |\n|---|---|---|---|")
    for parallel, rates in result["throughput"].items():
        for kind, rate in rates.items():
            print(
                f"| {parallel} | {kind} | {rate['per_second']:.0f} | {rate['processor_ms']:.0f} |"
            )
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
