"""Relative errors of the layers of any checkpoint, by stored Hessians.

python benchmarks/layer_errors.py MODEL CHECKPOINT HESSIANS
"""

import statistics
import sys
from pathlib import Path

from rac import hessians, solvers
from rac.artifacts import read_json
from rac.definitions import Calibration
from rac.linear import decoder_groups
from rac.models import checkpoint, weights


def main() -> None:
    model, other, stored = map(Path, sys.argv[1:])
    kept = hessians.terms(
        Calibration(sum={stored.name: 1}), {stored.name: stored}, checkpoint.identity(model)
    )
    dense, compressed = weights.locate(model), weights.locate(other)
    errors = {}
    for group in decoder_groups(read_json(model / "model.json")["linear_groups"]):
        hessian = hessians.combine(kept[stored.name], group["block"])[group["name"]]
        for name in (f"{layer}.weight" for layer in group["layers"]):
            before = weights.read(dense[name], name).float()
            after = weights.read(compressed[name], name).float()
            errors[name] = solvers.relative_error(before, after, hessian)
    for name, error in errors.items():
        print(f"{name} {error:.6f}")
    print(f"mean {statistics.mean(errors.values()):.6f}")


if __name__ == "__main__":
    main()
