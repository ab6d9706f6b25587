"""The layers that share an input: pruned and quantized by its Hessian, and judged by it."""

import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rac import solvers
from rac.errors import RacError
from rac.models import weights
from rac.solvers import gptq, grids
from rac.solvers.patterns import parse
from rac.variants import Quantize, Variant


class Solved(NamedTuple):
    """A compressed layer."""

    weight: torch.Tensor  # float32 [out, in], what the layer computes with
    mask: (
        torch.Tensor | None
    )  # boolean [out, in], True where a weight is kept; None if nothing is pruned
    damping: float | None  # share of the Hessian's mean diagonal that was added
    stored: dict[str, torch.Tensor]  # what takes the place of the layer's weight in the checkpoint


def read(located: Mapping[str, Path], name: str, columns: int, model: Path) -> torch.Tensor:
    """A layer's weight as stored, [out, columns].

    Raises:
        RacError: no file holds it, or it is no matrix of floats with as many columns.
    """
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


def solve(
    layers: Mapping[str, torch.Tensor],
    hessian: torch.Tensor | None,
    variant: Variant,
    patterns: Mapping[str, str],
    dtype: torch.dtype,
) -> Iterator[tuple[str, Solved, float]]:
    """Prune and quantize layers, what they share being prepared once.

    Args:
        layers: name → weight, float32 [out, in], all on the device of the Hessian.
        hessian: Σ x xᵀ [in, in] of their input; None for magnitude and rounding to the nearest.
        variant: the solver and its options.
        patterns: name → pattern, as `rac.solve` takes it.
        dtype: what the checkpoint stores weights in, and scales of quantized ones.

    Returns:
        For each layer its name, the solution and the seconds that it took.

    Raises:
        RacError: a layer has no solution, or none that fits in `dtype`.
    """
    start, prepared, factor = time.perf_counter(), None, None
    asked, options = variant.quantize, {}
    jointly = asked is not None and asked.method == "joint"
    said = next(iter(layers))
    try:
        if variant.solver:
            options = {key: getattr(variant, key) for key in solvers.options_of(variant.solver)}
            prepared = factor = solvers.prepare(hessian, variant.solver, **options)
        if asked and asked.method == "gptq":
            factor = solvers.prepare(hessian, "gptq", damping=variant.damping)
        for name, weight in layers.items():
            said = name
            solvers.check_weight(weight)
        for names in solvers.batches({name: weight.numel() for name, weight in layers.items()}):
            said = ", ".join(names)
            given, shapes = [layers[name] for name in names], [patterns.get(n, "") for n in names]
            solved = [Solved(weight, None, None, {}) for weight in given]
            if variant.solver and not jointly:
                pruned = solvers.prune_all(given, prepared, shapes, variant.solver, **options)
                solved = [Solved(*one, {}) for one in pruned]
            if asked:
                solved = _quantize(
                    names, solved, factor, variant, asked, shapes if jointly else None, dtype
                )
            else:
                solved = [store(*both, dtype) for both in zip(names, solved, strict=True)]
            seconds = (time.perf_counter() - start) / sum(weight.numel() for weight in given)
            for name, one in zip(names, solved, strict=True):
                said = name
                if not one.weight.isfinite().all():
                    raise ValueError(f"the compressed weight does not fit in {dtype}")
                yield name, one, seconds * one.weight.numel()
            start = time.perf_counter()
    except ValueError as problem:
        raise RacError(f"layer {said}: {problem}") from None


def store(name: str, solved: Solved, dtype: torch.dtype) -> Solved:
    """A layer that is stored as it is, its weight rounded to `dtype`."""
    rounded = solved.weight.to(dtype)
    return solved._replace(weight=rounded.float(), stored={f"{name}.weight": rounded.cpu()})


def _quantize(
    names: list[str],
    solved: list[Solved],
    factor: Any,
    variant: Variant,
    asked: Quantize,
    patterns: list[str] | None,
    dtype: torch.dtype,
) -> list[Solved]:
    """Layers with their weights rounded, after pruning or (with patterns) together with it."""
    from rac.models import quantized

    grid = quantized.grid(asked.scheme, asked.group)
    if asked.method == "rtn":
        found = [
            gptq.Rounded(gptq.round_to_nearest(one.weight, grid, dtype, one.mask), *one[1:3])
            for one in solved
        ]
    else:
        masks = [one.mask for one in solved if one.mask is not None]
        found = gptq.quantize_all(
            [one.weight for one in solved],
            factor,
            grid,
            dtype,
            masks=masks or None,
            patterns=[parse(pattern) for pattern in patterns] if patterns else None,
            block=variant.block,
        )
    result = []
    for name, (rounded, mask, damping) in zip(names, found, strict=True):
        on_cpu = grids.Quantized(rounded.codes.cpu(), rounded.scales.cpu())
        stored = quantized.tensors(name, on_cpu, asked.scheme)
        result.append(Solved(grids.dequantize(rounded, grid), mask, damping, stored))
    return result


def entry(
    name: str,
    weight: torch.Tensor,
    solved: Solved,
    hessian: torch.Tensor | None,
    variant: Variant,
    pattern: str,
) -> dict:
    """What compression.json says of a layer, with warnings.

    Args:
        name: of the layer.
        weight: the dense weight, float32 [out, in].
        solved: what became of it.
        hessian: what the error is measured by; None for no error.
        variant, pattern: what was asked for.
    """
    compressed = solved.weight
    zeros = compressed.numel() - int(compressed.count_nonzero())
    if variant.quantize:  # rounding makes zeros as well; those are not counted
        zeros = 0 if solved.mask is None else int((~solved.mask).sum())
    error: float | None = None
    warnings: list[str] = []
    if hessian is not None:
        error, warnings = _judge(name, weight, compressed, hessian, variant, pattern)
    return {
        "name": name,
        "rows": weight.shape[0],
        "columns": weight.shape[1],
        "sparsity": zeros / compressed.numel(),
        "zeroed": int(weight.count_nonzero() - compressed.count_nonzero()),
        "relative_error": error,
        "damping": solved.damping,
        "warnings": warnings,
    }


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
