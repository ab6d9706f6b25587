"""What a sweep costs beside one solve, from a million calibration tokens: added up from measured parts.

    python benchmarks/sweep.py HESSIANS.json SOLVERS.json

The files are those of hessians.py and solvers.py, of one machine. Counted are the Hessians of one block of
a 1.5B Qwen2 and the solves of its layers; the pass of the model over the tokens would come on top, once
for us, and once for each cell for who caches nothing.

Ours are two rows: a job a cell, as the workflow runs it, in which every cell factorizes anew, and all cells
in one process, which factorizes twice (the columns in their order, and by their activations) and settles
sparsities of small layers in one loop. The second factor counts as much as the first.
"""

import json
import sys
from pathlib import Path

TOKENS = 1_000_000
CELLS = 7  # five sparsities, 2:4, W4A16
BLOCK = {  # layers of a block by shape, and the inputs that they read
    (1536, 1536): 2,
    (256, 1536): 2,
    (8960, 1536): 2,
    (1536, 8960): 1,
}
INPUTS = {1536: 3, 8960: 1}
SOLVES = {
    "unstructured 0.5": 5,
    "2:4": 1,
    "W4A16": 1,
}  # of a layer in seven cells; the five take alike


def main() -> None:
    accumulated, solved = (json.loads(Path(file).read_text()) for file in sys.argv[1:])
    rows = {row["columns"]: row for row in accumulated["rows"]}
    layers = {(row["rows"], row["columns"]): row for row in solved["layers"]}
    factors = {columns: layers[shape]["factor"] for shape in BLOCK for columns in (shape[1],)}

    def hessians(method: str) -> float:
        """Seconds of those of a block."""
        return sum(
            count * rows[columns][method]["seconds"] * TOKENS / accumulated["tokens"]
            for columns, count in INPUTS.items()
        )

    def factorizing(who: str, counts: dict[int, int]) -> float:
        """Seconds of so many factors, by their columns."""
        return sum(count * factors[columns][who] for columns, count in counts.items())

    def solving(who: str, of_cells: dict[str, int]) -> float:
        """Seconds of all the layers, each solved so many times, the factors ready."""
        return sum(
            count * times * layers[shape]["solve"][kind][who]
            for shape, count in BLOCK.items()
            for kind, times in of_cells.items()
        )

    def sweeping(who: str) -> float:
        """Seconds of all the layers' sweeps, as if each had an input of its own."""
        return sum(count * layers[shape]["sweep"][who] for shape, count in BLOCK.items())

    shared = {
        columns: sum(count for shape, count in BLOCK.items() if shape[1] == columns) - count
        for columns, count in INPUTS.items()
    }  # factors that layers of an input need not make again
    cached, hooked = hessians("ours"), hessians("published hook")
    one, plain = (
        solving(who, {"unstructured 0.5": 1}) + factorizing(who, INPUTS)
        for who in ("ours", "published")
    )
    by_job = solving("ours", SOLVES) + CELLS * factorizing("ours", INPUTS)
    together = sweeping("ours") - 2 * factorizing("ours", shared)
    theirs = sweeping("published")
    print("| seconds | Hessians | one solve | seven cells | sum, one | sum, seven | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, parts, times in (
        ("ours, a job a cell", (cached, one, by_job), 1),
        ("ours, all cells in one process", (cached, one, together), 1),
        ("published loops", (hooked, plain, theirs), CELLS),
    ):
        sums = parts[0] + parts[1], times * parts[0] + parts[2]
        numbers = " | ".join(f"{value:,.1f}" for value in (*parts, *sums))
        print(f"| {name} | {numbers} | {sums[1] / sums[0]:.2f} |")


if __name__ == "__main__":
    main()
