"""What a sweep costs beside one solve, from a million calibration tokens: added up from measured parts.

    python benchmarks/sweep.py HESSIANS.json SOLVERS.json

The files are those of hessians.py and solvers.py, of one machine. Counted are the Hessians of one block of
a 1.5B Qwen2 and the solves of its layers; the pass of the model over the tokens would come on top, once
for us, and once for each cell for who caches nothing.
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


def main() -> None:
    accumulated, solved = (json.loads(Path(file).read_text()) for file in sys.argv[1:])
    rows = {row["columns"]: row for row in accumulated["rows"]}
    layers = {(row["rows"], row["columns"]): row for row in solved["layers"]}
    factors = {columns: layers[shape]["factor"] for shape in BLOCK for columns in (shape[1],)}

    def added(who: str, hessian: str) -> tuple[float, float, float]:
        """Seconds of the Hessians, of one solve with its factors, and of a sweep with its own."""
        hessians = sum(
            count * rows[columns][hessian]["seconds"] * TOKENS / accumulated["tokens"]
            for columns, count in INPUTS.items()
        )
        one = sum(
            count * layers[shape]["solve"]["unstructured 0.5"][who]
            for shape, count in BLOCK.items()
        )
        one += sum(count * factors[columns][who] for columns, count in INPUTS.items())
        sweep = sum(count * layers[shape]["sweep"][who] for shape, count in BLOCK.items())
        return hessians, one, sweep

    print("| seconds | Hessians | one solve | seven cells | sum, one | sum, seven | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    hessians, one, sweep = added("ours", "ours")
    ours = hessians + one, hessians + sweep
    plain_hessians, plain_one, plain_sweep = added("published", "published hook")
    theirs = plain_hessians + plain_one, CELLS * plain_hessians + plain_sweep
    for name, parts, sums in (
        ("ours", (hessians, one, sweep), ours),
        ("published loops", (plain_hessians, plain_one, plain_sweep), theirs),
    ):
        numbers = " | ".join(f"{value:,.1f}" for value in (*parts, *sums))
        print(f"| {name} | {numbers} | {sums[1] / sums[0]:.2f} |")


if __name__ == "__main__":
    main()
