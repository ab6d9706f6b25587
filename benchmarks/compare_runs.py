"""The same run in two folders, cell by cell: what another engine, machine or version changes.

    python benchmarks/compare_runs.py PROJECT OTHER

PROJECT and OTHER hold results/ with scores of the same problems. A line of the table is a cell: accuracy in
% ± standard error in each, and the difference of OTHER to PROJECT, paired by problem, with the 95 % interval
that results/comparisons.csv has. The last line counts the intervals that hold zero.
"""

import sys
from pathlib import Path

from rac.artifacts import read_jsonl
from rac.evaluate.statistics import (
    by_problem,
    clustered_mean,
    differences,
    fewest_samples,
    paired_difference,
)


def main() -> None:
    project, other = map(Path, sys.argv[1:])
    files = sorted(file.relative_to(project) for file in project.glob("results/*/*/*/*/scores.*"))
    shared = [file for file in files if (other / file).exists()]
    print("| model | calibration | variant | eval | first | second | difference |")
    print("|---|---|---|---|---:|---:|---:|")
    holding = 0
    for file in shared:
        ours, theirs = (
            by_problem(read_jsonl(folder / file), "correct") for folder in (project, other)
        )
        samples = fewest_samples(ours[1], theirs[1])
        found = paired_difference(differences(*theirs, *ours), samples)
        holding += found.low <= 0 <= found.high
        accuracies = [
            "{:.1f} ± {:.1f}".format(*(100 * number for number in clustered_mean(*each)))
            for each in (ours, theirs)
        ]
        ends = f"{100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
        print(f"| {' | '.join(file.parts[1:5])} | {' | '.join(accuracies)} | {ends} |")
    print(f"\n{holding} of {len(shared)} intervals hold zero.")


if __name__ == "__main__":
    main()
