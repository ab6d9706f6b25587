"""Stage `diagnostics`: layer by layer, what compression lost on cached Hessians that no calibration saw.

Weights are read one at a time; no model is loaded, and transformers is imported for quantized ones alone.
"""

import itertools
import math
from pathlib import Path

from rac import hessians, linear
from rac.artifacts import read_json, sha256_file
from rac.definitions import Calibration
from rac.errors import RacError
from rac.models import checkpoint as checkpoints
from rac.models import layer_weights
from rac.progress import progress
from rac.provenance import provenance, write_record
from rac.solvers import relative_error

PARTS = ("prompt", "decode")


def diagnose(
    checkpoint: Path, dense: Path, stored: Path, dtype: str, code: str, output: Path
) -> None:
    """Measure the errors of a checkpoint's layers on held-out Hessians, and write diagnostics.json.

    Args:
        checkpoint: the folder to measure; the dense model's own for the dense cell.
        dense: the dense model's folder.
        stored: folder of the Hessians of the held-out traces.
        dtype: what the model runs in, which the checkpoint's weights are rounded to.
        code: fingerprint of the stage's code, and of what reads quantized weights.
        output: diagnostics.json.

    Raises:
        RacError: an input is missing, damaged or of another model.
    """
    for folder in dict.fromkeys((checkpoint, dense)):
        checkpoints.check(folder)
    layers = layer_errors(checkpoint, dense, stored, dtype)
    means = {key: _mean([layer[key] for layer in layers]) for key in map("error_{}".format, PARTS)}
    made = provenance(
        "diagnostics",
        code,
        model=checkpoints.identity(dense),
        checkpoint=checkpoints.identity(checkpoint),
        hessians=sha256_file(stored / "index.json"),
        dtype=dtype,
    )
    write_record(output, {"layers": layers} | means | made)


def layer_errors(checkpoint: Path, dense: Path, stored: Path, dtype: str) -> list[dict]:
    """Relative errors of every linear layer on the held-out prompt and decode Hessians.

    None for a narrower model: its layers have other inputs than the dense ones. Weights of smoothed inputs
    are taken back to the dense model's.

    Args:
        checkpoint, dense, stored, dtype: as `diagnose`.

    Returns:
        Dicts of "name", "projection" (the last part of the name), "block", "error_prompt", "error_decode"
        (None where something is lost of nothing).

    Raises:
        RacError: an input is missing, damaged, of another model, or a weight is not a number.
    """
    groups = linear.decoder_groups(read_json(dense / "model.json")["linear_groups"])
    identity, device = checkpoints.identity(dense), checkpoints.default_device()
    terms = {
        part: hessians.terms(Calibration(sum={f"heldout.{part}": 1}), {"heldout": stored}, identity)
        for part in PARTS
    }
    before, after = layer_weights.of_folder(dense), layer_weights.of_folder(checkpoint, dtype)
    layers: list[dict] = []
    by_block = linear.by_block(groups)
    of_both = itertools.chain.from_iterable(of[f"heldout.{part}"] for part, of in terms.items())
    count = sum(len(group["layers"]) for group in groups)
    with progress("diagnostics", count, "layers") as update:
        for block in hessians.checked(of_both, by_block):
            combined = {
                part: hessians.combine(of_part[f"heldout.{part}"], block)
                for part, of_part in terms.items()
            }
            for group in by_block[block]:
                of_group = {part: of[group["name"]].to(device) for part, of in combined.items()}
                for name in group["layers"]:
                    old = before(name)
                    new = layer_weights.unsmoothed(after, before, name, group["norm"])
                    if new.shape != old.shape:
                        return []
                    old, new = old.to(device), new.to(device)
                    errors = {
                        f"error_{part}": _number(relative_error(old, new, hessian), name)
                        for part, hessian in of_group.items()
                    }
                    projection = name.rpartition(".")[2]
                    layers.append({"name": name, "projection": projection, "block": block} | errors)
                    update(1)
    return layers


def _number(error: float, name: str) -> float | None:
    """A layer's error as JSON has numbers.

    Raises:
        RacError: it is not a number.
    """
    if math.isnan(error):
        raise RacError(f"{name}: its weights, or the Hessian of its inputs, are not numbers")
    return error if math.isfinite(error) else None


def _mean(errors: list[float | None]) -> float | None:
    """The mean; None of none, and where one is None."""
    known = [error for error in errors if error is not None]
    return sum(known) / len(known) if known and len(known) == len(errors) else None
