"""Stage `compress`: a dense checkpoint and Hessians in, a compressed checkpoint out.

It works on stored tensors, one block at a time, and never builds the model.
"""

import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from rac import hessians, linear, solvers
from rac.artifacts import atomic_folder, read_json, write_json, write_text
from rac.config import Calibration, Variant
from rac.errors import RacError
from rac.models import card, checkpoint, weights
from rac.solvers.patterns import parse

COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
MADE_ANEW = ("model.json", "compression.json")


def compress(
    model: Path,
    stored: dict[str, Path],
    calibration: Calibration | None,
    variant: Variant,
    pattern: str,
    names: dict[str, str],
    output: Path,
) -> None:
    """Compress the linear layers of a model's decoder blocks, and write a Hugging Face folder.

    Weights are solved for in float32 and stored in the dtype they came in, which errors are of.

    Args:
        model: folder of the dense model, made by the `model` stage.
        stored: source → folder of its Hessians; empty for magnitude.
        calibration: how to add them up; None for magnitude.
        variant: the solver and its options.
        pattern: as `rac.solve` takes it.
        names: `model`, `calibration` and `variant`, for the record.
        output: folder to write, with compression.json and a model card.

    Raises:
        RacError: an input is missing, damaged or does not fit, or a layer has no solution.
    """
    start = time.perf_counter()
    dense_sha256 = checkpoint.identity(model)
    groups = read_json(model / "model.json").get("linear_groups")
    if not groups:
        raise RacError(
            f"{model}/model.json has no 'linear_groups'; delete the folder to have it made again"
        )
    try:
        groups = linear.in_scope(groups, variant.scope)
    except ValueError as error:
        raise RacError(f"{model}: {error}") from None
    located = weights.locate(model)
    by_key = hessians.terms(calibration, stored, dense_sha256) if calibration else {}
    terms = list(itertools.chain.from_iterable(by_key.values()))
    options = {name: getattr(variant, name) for name in solvers.options_of(variant.solver)}
    device = "cuda" if torch.cuda.is_available() else "cpu"

    layers, warnings = [], []
    with atomic_folder(output) as folder:
        _copy(model, folder)
        for block, of_block in itertools.groupby(groups, key=lambda group: group["block"]):
            combined = hessians.combine(terms, block)
            for group in of_block:
                hessian = None
                if terms:
                    if group["name"] not in combined:
                        raise RacError(f"{terms[0].folder} holds no Hessian of {group['name']}")
                    hessian = combined.pop(group["name"]).to(device)
                for name in group["layers"]:
                    dense = _read(located, name, group["columns"], model)
                    layer, compressed = _solve(
                        name, dense.to(device), hessian, pattern, variant.solver, options
                    )
                    weights.overwrite(
                        folder / located[f"{name}.weight"].name, f"{name}.weight", compressed
                    )
                    warnings += layer.pop("warnings")
                    layers.append(layer)
        record = {
            **names,
            "solver": variant.solver,
            "pattern": pattern,
            "scope": variant.scope.model_dump(),
            "sparsity_asked": float(parse(pattern).sparsity),
            **_totals(layers),
            "calibration_tokens": {
                key: sum(term.tokens for term in of_key) for key, of_key in by_key.items()
            },
            **weights.size(folder),
            "dense_sha256": dense_sha256,
            "weights_sha256": weights.sha256(folder),
            "warnings": warnings,
            "seconds": time.perf_counter() - start,
        }
        write_text(folder / "README.md", card.write(record, calibration, variant))
        write_json(folder / "compression.json", record)


def _copy(model: Path, folder: Path) -> None:
    """Copy the weights, to be overwritten in place, and what makes the folder a model."""
    kept = {
        file for pattern in COPIED for file in model.glob(pattern) if file.name not in MADE_ANEW
    }
    for file in [*sorted(kept), *weights.files(model)]:
        shutil.copyfile(file, folder / file.name)


def _read(located: dict[str, Path], name: str, columns: int, model: Path) -> torch.Tensor:
    """A layer's weight as stored, [out, columns]."""
    file = located.get(f"{name}.weight")
    if file is None:
        raise RacError(f"{model}: no file holds {name}.weight, which model.json lists")
    weight = weights.read(file, f"{name}.weight")
    if weight.ndim != 2 or weight.shape[1] != columns:
        raise RacError(f"{file}: {name}.weight is {list(weight.shape)}, not [out, {columns}]")
    if not weight.is_floating_point() or weight.itemsize < 2:
        raise RacError(
            f"{file}: {name}.weight is {weight.dtype}; only 16 and 32 bit floats are compressed"
        )
    return weight


def _solve(
    name: str,
    dense: torch.Tensor,
    hessian: torch.Tensor | None,
    pattern: str,
    solver: str,
    options: dict[str, Any],
) -> tuple[dict, torch.Tensor]:
    """A layer's entry in compression.json, with `warnings`, and its weight in the dense dtype."""
    start = time.perf_counter()
    weight, error, warnings = dense.float(), None, []
    try:
        pruned = solvers.prune(weight, hessian, pattern, solver, **options)
        compressed = pruned.weight.to(dense.dtype)
        if not compressed.isfinite().all():
            raise ValueError(f"the compressed weight does not fit in {dense.dtype}")
        if hessian is not None:
            error = solvers.relative_error(weight, compressed, hessian)
            magnitude = solvers.solve(weight, hessian, pattern, "magnitude").relative_error
            if error > magnitude:
                warnings.append(
                    f"{name}: relative error {error:.4g} is above that of magnitude pruning, "
                    f"{magnitude:.4g}"
                )
    except ValueError as problem:
        raise RacError(f"layer {name}: {problem}") from None
    record = {
        "name": name,
        "rows": weight.shape[0],
        "columns": weight.shape[1],
        "sparsity": 1 - compressed.count_nonzero().item() / compressed.numel(),
        "relative_error": error,
        "damping": pruned.damping,
        "seconds": time.perf_counter() - start,
        "warnings": warnings,
    }
    return record, compressed.cpu()


def _totals(layers: list[dict]) -> dict:
    """Share of zeros over all the layers' weights, the layers, and the mean of their errors."""
    sizes = [layer["rows"] * layer["columns"] for layer in layers]
    zeros = sum(layer["sparsity"] * size for layer, size in zip(layers, sizes, strict=True))
    errors = [layer["relative_error"] for layer in layers if layer["relative_error"] is not None]
    return {
        "sparsity": zeros / sum(sizes),
        "layers": layers,
        "relative_error": sum(errors) / len(errors) if errors else None,
    }
