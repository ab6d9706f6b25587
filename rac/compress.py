"""Stage `compress`: a dense checkpoint and Hessians in, a compressed checkpoint out.

It works on stored tensors, one block at a time, and never builds the model.
"""

import itertools
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rac import hessians, linear, solvers
from rac.artifacts import atomic_folder, read_json, write_json, write_text
from rac.config import Calibration, Quantize, Variant
from rac.errors import RacError
from rac.models import card, checkpoint, narrow, weights
from rac.models.skeleton import default_device
from rac.solvers import gptq, grids
from rac.solvers.patterns import Pattern, parse

COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
MADE_ANEW = ("model.json", "compression.json", weights.INDEX)
DEVICE = default_device()

Changed = dict[str, dict[str, torch.Tensor]]  # by a stored tensor's name, what takes its place


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
        scoped = linear.in_scope(groups, variant.scope)
    except ValueError as error:
        raise RacError(f"{model}: {error}") from None
    by_key = hessians.terms(calibration, stored, dense_sha256) if calibration else {}
    terms = list(itertools.chain.from_iterable(by_key.values()))
    config = read_json(model / "config.json")
    widths = _widths(config, variant) if variant.solver == "structured" else None
    layers: list[dict] = []
    warnings: list[str] = []

    def solved() -> Iterator[Changed]:
        located = weights.locate(model)
        for block, of_block in itertools.groupby(scoped, key=lambda group: group["block"]):
            inputs = model, located, list(of_block), hessians.combine(terms, block), variant
            if widths:
                changed, entries = _narrow_block(*inputs, config, widths)
            else:
                changed, entries = _solve_block(*inputs, pattern)
            for entry in entries:
                warnings.extend(entry.pop("warnings"))
                layers.append(entry)
            yield changed

    with atomic_folder(output) as folder:
        _copy(model, folder)
        weights.rewrite(model, folder, solved())
        if widths:
            write_json(folder / "config.json", narrow.narrowed(config, widths))
        elif variant.quantize:
            dense = _names(groups) - _names(scoped)
            _write_quantized_config(folder, config, variant.quantize, sorted(dense))
        record = {
            **names,
            "solver": variant.solver or "none",
            "pattern": pattern,
            "quantization": variant.quantize.model_dump() if variant.quantize else None,
            "scope": variant.scope.model_dump(),
            "sparsity_asked": variant.sparsity_asked,
            **_totals(layers),
            "calibration_tokens": {
                key: sum(term.tokens for term in of_key) for key, of_key in by_key.items()
            },
            **_sizes(model, folder, layers, variant),
            "dense_sha256": dense_sha256,
            "weights_sha256": weights.sha256(folder),
            "warnings": warnings,
            "seconds": time.perf_counter() - start,
        }
        write_text(folder / "README.md", card.write(record, calibration, variant))
        write_json(folder / "compression.json", record)


def _copy(model: Path, folder: Path) -> None:
    """Copy what makes the folder a model, the weights apart."""
    for file in sorted({file for kind in COPIED for file in model.glob(kind)}):
        if file.name not in MADE_ANEW:
            shutil.copyfile(file, folder / file.name)


def _names(groups: list[dict]) -> set[str]:
    """All the layers of groups."""
    return {name for group in groups for name in group["layers"]}


def _write_quantized_config(folder: Path, config: dict, asked: Quantize, ignore: list[str]) -> None:
    """config.json of the dense model, with how the layers that are not ignored are stored."""
    from rac.models import quantized

    said = quantized.quantization_config(asked.scheme, asked.group, ignore)
    write_json(folder / "config.json", config | {"quantization_config": said})


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


def _widths(config: dict, variant: Variant) -> narrow.Widths:
    """The widths that a structured variant leaves."""
    share, projections = variant.sparsity_asked, variant.scope.projections
    try:
        return narrow.widths(config, share, projections, variant.multiple)
    except ValueError as error:
        raise RacError(f"solver structured: {error}") from None


def _narrow_block(
    model: Path,
    located: dict[str, Path],
    groups: list[dict],
    combined: dict[str, torch.Tensor],
    variant: Variant,
    config: dict,
    widths: narrow.Widths,
) -> tuple[Changed, list[dict]]:
    """Leave a block with the widths that all blocks get: its tensors, and its layers' entries."""

    def read(name: str) -> torch.Tensor | None:
        return weights.read(located[name], name) if name in located else None

    start = time.perf_counter()
    names = [name for group in groups for name in group["layers"]]
    given = {name: combined[name].to(DEVICE) for name in names if name in combined}
    try:
        result = narrow.block(read, names, given, config, widths, damping=variant.damping)
    except ValueError as error:
        raise RacError(f"{model}: {error}") from None
    seconds = (time.perf_counter() - start) / len(result.layers)
    for entry in result.layers:
        kept = entry["kept_rows"] * entry["kept_columns"]
        entry |= {"sparsity": 1 - kept / (entry["rows"] * entry["columns"]), "seconds": seconds}
    return {name: {name: tensor} for name, tensor in result.tensors.items()}, result.layers


def _solve_block(
    model: Path,
    located: dict[str, Path],
    groups: list[dict],
    combined: dict[str, torch.Tensor],
    variant: Variant,
    pattern: str,
) -> tuple[Changed, list[dict]]:
    """Prune and quantize the layers of a block, each by the Hessian of its group."""
    changed: Changed = {}
    entries = []
    for group in groups:
        hessian = None
        if variant.needs_hessian:
            if group["name"] not in combined:
                raise RacError(f"the calibration holds no Hessian of {group['name']}")
            hessian = combined.pop(group["name"]).to(DEVICE)
        dense = {name: _read(located, name, group["columns"], model) for name in group["layers"]}
        for name, entry, stored in _solve_group(dense, hessian, variant, pattern):
            changed[f"{name}.weight"] = stored
            entries.append(entry)
    return changed, entries


def _solve_group(
    layers: dict[str, torch.Tensor], hessian: torch.Tensor | None, variant: Variant, pattern: str
) -> Iterator[tuple[str, dict, dict[str, torch.Tensor]]]:
    """For every layer of an input: its name, its entry in compression.json, what is stored of it."""
    start, prepared, factor = time.perf_counter(), None, None
    asked, options = variant.quantize, {}
    jointly = asked is not None and asked.method == "joint"
    name = next(iter(layers))
    try:
        if variant.solver:
            options = {key: getattr(variant, key) for key in solvers.options_of(variant.solver)}
            prepared = factor = solvers.prepare(hessian, variant.solver, **options)
        if asked and asked.method == "gptq":
            factor = solvers.prepare(hessian, "gptq", damping=variant.damping)
        for name, stored in layers.items():
            weight = stored.to(DEVICE, torch.float32)
            mask, damping, compressed = None, None, weight
            if variant.solver and not jointly:
                pruned = solvers.prune(weight, prepared, pattern, variant.solver, **options)
                compressed, mask, damping = pruned.weight, pruned.mask, pruned.damping
            if asked:
                jointly_by = parse(pattern) if jointly else None
                compressed, mask, used, replaced = _quantize(
                    name, compressed, mask, factor, variant, asked, jointly_by, stored.dtype
                )
                damping = used or damping
                # Rounding makes zeros as well; those are not counted.
                zeros = 0 if mask is None else int((~mask).sum())
            else:
                compressed = compressed.to(stored.dtype)
                replaced = {f"{name}.weight": compressed.cpu()}
                zeros = compressed.numel() - int(compressed.count_nonzero())
            if not compressed.isfinite().all():
                raise ValueError(f"the compressed weight does not fit in {stored.dtype}")
            error: float | None = None
            warnings: list[str] = []
            if hessian is not None:
                error, warnings = _judge(name, weight, compressed, hessian, variant, pattern)
            entry = {
                "name": name,
                "rows": weight.shape[0],
                "columns": weight.shape[1],
                "sparsity": zeros / compressed.numel(),
                "zeroed": int(weight.count_nonzero() - compressed.count_nonzero()),
                "relative_error": error,
                "damping": damping,
                "seconds": time.perf_counter() - start,
                "warnings": warnings,
            }
            start = time.perf_counter()
            yield name, entry, replaced
    except ValueError as problem:
        raise RacError(f"layer {name}: {problem}") from None


def _quantize(
    name: str,
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    factor: Any,
    variant: Variant,
    asked: Quantize,
    pattern: Pattern | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor | None, float | None, dict[str, torch.Tensor]]:
    """The rounded weight in float32, its mask, the damping, and what is stored of it."""
    from rac.models import quantized

    grid, damping = quantized.grid(asked.scheme, asked.group), None
    if asked.method == "rtn":
        rounded = gptq.round_to_nearest(weight, grid, dtype, mask)
    else:
        rounded, mask, damping = gptq.quantize(
            weight, factor, grid, dtype, mask=mask, pattern=pattern, block=variant.block
        )
    on_cpu = grids.Quantized(rounded.codes.cpu(), rounded.scales.cpu())
    stored = quantized.tensors(name, on_cpu, asked.scheme)
    return grids.dequantize(rounded, grid), mask, damping, stored


def _judge(
    name: str,
    weight: torch.Tensor,
    compressed: torch.Tensor,
    hessian: torch.Tensor,
    variant: Variant,
    pattern: str,
) -> tuple[float | None, list[str]]:
    """The relative error, and a warning where magnitude pruning or plain rounding would do better."""
    energy = solvers.energy(weight, hessian)
    error = solvers.lost_share(weight, compressed, hessian, energy)
    plain, what = weight, "rounding to the nearest"
    if variant.solver:
        magnitude = solvers.prune(weight, None, pattern, "magnitude")
        plain, what = magnitude.weight, "magnitude pruning"
    if variant.quantize and (plain is weight or variant.solver == "magnitude"):
        from rac.models import quantized

        grid = quantized.grid(variant.quantize.scheme, variant.quantize.group)
        plain = grids.dequantize(gptq.round_to_nearest(plain, grid, torch.float32), grid)
    floor = solvers.lost_share(weight, plain, hessian, energy)
    warnings = []
    if error > floor:
        warnings.append(f"{name}: relative error {error:.4g} is above that of {what}, {floor:.4g}")
    return (error if math.isfinite(error) else None), warnings


def _sizes(model: Path, folder: Path, layers: list[dict], variant: Variant) -> dict:
    """Parameters, those that are not zero, and bytes; packed ones are counted as numbers."""
    if not variant.quantize:
        return weights.size(folder)
    dense = weights.size(model)
    zeroed = sum(layer["zeroed"] for layer in layers)
    return dense | {
        "nonzero_parameters": dense["nonzero_parameters"] - zeroed,
        "bytes_on_disk": weights.bytes_on_disk(folder),
    }


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
