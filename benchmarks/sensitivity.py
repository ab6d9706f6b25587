"""How few held-out thoughts order calibrations, beside how many problems accuracy needs.

    python benchmarks/sensitivity.py PROJECT EVAL CALIBRATION CALIBRATION …

PROJECT holds results/ of a run with held-out thoughts. Every two of the calibrations at a variant are a pair.
Thoughts and problems are drawn 200 times from those that are there, without putting back; a pair is told
apart where the paired 95 % interval (that of results/comparisons.csv) excludes zero. Divergence and loss are
lower, and accuracy is higher, where a calibration is better. Only intervals of stored values are computed.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rac.artifacts import read_json, read_jsonl
from rac.evaluate.statistics import Difference, by_problem, differences, paired_difference
from rac.report.compared import difference_of_texts

DRAWS = 200
PLACES = {"divergence": 1, "loss": 0}  # of a sequence's sums in losses.json


def main() -> None:
    project, name, *calibrations = sys.argv[1:]
    pairs = list(_pairs(Path(project) / "results", name, calibrations))
    problems, thoughts = len(pairs[0]["accuracy"]), len(pairs[0]["loss"])
    reference = [_sign(paired_difference(pair["accuracy"], samples=1)) for pair in pairs]
    known = [i for i, sign in enumerate(reference) if sign]
    print(f"{len(pairs)} pairs; all {problems} problems tell {len(known)} apart by accuracy.\n")
    print(f"| by | of | told apart, % of {len(pairs)} | of those {len(known)}, % | contrary, % |")
    print("|---|---:|---:|---:|---:|")
    sizes = {"accuracy": [n for n in (20, 50, 100, 200) if n <= problems]}
    sizes |= {value: [n for n in (5, 10, 20, 40) if n <= thoughts] for value in PLACES}
    for value, of_value in sizes.items():
        for size in of_value:
            found = np.array([_signs(pair[value], value, size) for pair in pairs])
            same = found[known] == np.array([reference[i] for i in known])[:, None]
            contrary = (found[known] != 0) & ~same
            numbers = [np.mean(found != 0), np.mean(same), np.mean(contrary)]
            what = "problems" if value == "accuracy" else "thoughts"
            print(
                f"| {value} | {size} {what} | "
                + " | ".join(f"{100 * one:.0f}" for one in numbers)
                + " |"
            )


def _pairs(results: Path, name: str, calibrations: list[str]) -> Iterator[dict[str, list]]:
    """Of every two calibrations of a variant: differences by problem, and sums of both by thought."""
    cells: dict[tuple[str, str], dict[str, tuple]] = {}
    for file in sorted(results.glob(f"*/*/*/{name}/scores.jsonl.zst")):
        model, calibration, variant = file.relative_to(results).parts[:3]
        measured = next((file.parents[1] / "losses").glob("*.json"), None)
        if calibration in calibrations and measured:
            found = read_jsonl(file), read_json(measured)["per_sequence"]["thoughts"]
            cells.setdefault((model, variant), {})[calibration] = found
    for of_variant in cells.values():
        for (ours, of_ours), (theirs, of_theirs) in itertools.combinations(of_variant.values(), 2):
            each = differences(*by_problem(ours, "correct"), *by_problem(theirs, "correct"))
            both = list(zip(of_ours, of_theirs, strict=True))
            yield {"accuracy": each} | dict.fromkeys(PLACES, both)


def _signs(each: list, value: str, size: int) -> list[int]:
    """Which of a pair is better by each draw: 1, −1, or 0 where the interval holds zero."""
    generator = np.random.default_rng(0)
    draws = 1 if size == len(each) else DRAWS
    judge: Callable[[list], int] = (
        (lambda drawn: _sign(paired_difference(drawn, samples=1)))
        if value == "accuracy"
        else (lambda drawn: -_sign(_of_texts(drawn, PLACES[value])))
    )
    found = [
        judge([each[i] for i in generator.choice(len(each), size, replace=False)])
        for _ in range(draws)
    ]
    return found * (DRAWS // draws)


def _of_texts(both: list, place: int) -> Difference:
    ours, theirs = ([(one[i][place], one[i][2]) for one in both] for i in (0, 1))
    return difference_of_texts(ours, theirs)


def _sign(found: Difference) -> int:
    return int(found.low > 0) - int(found.high < 0)


if __name__ == "__main__":
    main()
