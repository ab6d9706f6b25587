"""Relative errors of the layers of any checkpoint, by stored Hessians, and its loss on stored sequences.

python benchmarks/layer_errors.py MODEL CHECKPOINT HESSIANS SEQUENCES

MODEL is the dense model's folder under resources/models, CHECKPOINT any Hugging Face folder of dense numbers,
or one of this project's, whose compression.json has the errors. HESSIANS is a folder under
results/{model}/hessians, SEQUENCES a source's sequences.safetensors. The last lines are the mean over layers,
and the loss in nats a token with its standard error over sequences.
"""

import statistics
import sys
from pathlib import Path

from rac import hessians, solvers, sources
from rac.artifacts import read_json
from rac.definitions import Calibration
from rac.linear import decoder_groups
from rac.losses import score_sequences
from rac.models import checkpoint, weights
from rac.ratio import ratio


def measured(model: Path, other: Path, stored: Path) -> dict[str, float]:
    """Relative errors of the layers of a checkpoint that says nothing of them."""
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
    return errors


def main() -> None:
    model, other, stored, sequences = map(Path, sys.argv[1:])
    record = other / "compression.json"
    if record.exists():
        found = {layer["name"]: layer["relative_error"] for layer in read_json(record)["layers"]}
        errors = {name: error for name, error in found.items() if error is not None}
    else:
        errors = measured(model, other, stored)
    for name, error in errors.items():
        print(f"{name} {error:.6f}")
    print(f"mean {statistics.mean(errors.values()):.6f}")
    network = checkpoint.load_model(other, "bfloat16")
    scored, _ = score_sequences(network, None, sources.read(sequences), skip_prompt=False)
    print("loss {:.4f} ± {:.4f}".format(*ratio([(one.loss, one.tokens) for one in scored])))


if __name__ == "__main__":
    main()
