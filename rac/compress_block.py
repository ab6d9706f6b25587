"""One block of a model: what its layers are solved by, and what becomes of them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from rac import hessians, layers, linear, propagation, smooth, solvers
from rac.errors import RacError
from rac.layers import Solved
from rac.models import narrow, weights
from rac.models.checkpoint import default_device
from rac.propagation import Arrived, Weights
from rac.reconstruct import reconstruct
from rac.variants import Reconstruct, Variant

Changed = dict[str, dict[str, torch.Tensor]]  # by a stored tensor's name, what takes its place


class Inputs(NamedTuple):
    """What the layers of a block are solved by."""

    groups: list[dict]  # those in scope, by the input that they share
    hessians: dict[str, torch.Tensor]  # of the groups, by name
    absmax: dict[str, torch.Tensor]  # the largest |x| of each column, by the group's name
    arrived: dict[str, Arrived]  # the sequences in front of the block, if they are run; by source
    token_weights: Weights  # of the calibration, by source and part


class Block(NamedTuple):
    """What became of a block."""

    changed: Changed
    layers: list[dict]  # an entry of compression.json each
    fitted: list[dict]  # what a fit of the kept weights gained, an entry a part
    removed: tuple[int, int] = (0, 0)  # numbers that went, and how many of them were not zero


def inputs(
    scoped: list[dict],
    terms: list[hessians.Term],
    token_weights: Weights,
    variant: Variant,
    walk: Callable[[], Iterator[dict[str, Arrived]]],
) -> Iterator[Inputs]:
    """What each block in scope is solved by, in order.

    Args:
        scoped: the groups in scope, of `rac.linear.in_scope`.
        terms: the calibration's stored Hessians, of `rac.hessians.terms`; empty without.
        token_weights: of the calibration, by source and part.
        variant: whose propagation and options count.
        walk: takes the calibration's sequences through the model, where they are run.

    Raises:
        RacError: Hessians are missing or damaged.
    """
    by_block = linear.by_block(scoped)

    def stored(block: int, arrived: dict[str, Arrived]) -> Inputs:
        smoothed = variant.quantize and variant.quantize.smooth
        combined = hessians.combine(terms, block)
        absmax = hessians.combine_absmax(terms, block) if smoothed else {}
        return Inputs(by_block[block], combined, absmax, arrived, token_weights)

    checked = hessians.checked(terms, by_block)
    if not variant.needs_sequences:
        yield from (stored(block, {}) for block in checked)
        return
    for arrived in walk():
        block = next(iter(arrived.values())).step.index
        if block not in by_block:
            continue
        if variant.propagation == "dense":
            yield stored(next(checked), arrived)
            continue
        sums = propagation.sum_all(arrived, by_block[block], token_weights)
        yield Inputs(
            by_block[block],
            {name: x.hessian for name, x in sums.items()},
            {name: x.absmax for name, x in sums.items()},
            arrived,
            token_weights,
        )


def sequences_of(source: str, sequences: Mapping[str, Path]) -> Path:
    """The sequences.safetensors of a source.

    Raises:
        RacError: it is not there.
    """
    if source not in sequences:
        raise RacError(f"no sequences were given of source '{source}'")
    return sequences[source]


def narrow_all(
    model: Path,
    located: Mapping[str, Path],
    inputs: Inputs,
    variant: Variant,
    config: dict,
    widths: narrow.Widths,
) -> Block:
    """Leave a block with the widths that all blocks get."""

    def read(name: str) -> torch.Tensor | None:
        return weights.read(located[name], name) if name in located else None

    start, device = time.perf_counter(), default_device()
    names = [name for group in inputs.groups for name in group["layers"]]
    given = {name: inputs.hessians[name].to(device) for name in names if name in inputs.hessians}
    try:
        result = narrow.block(read, names, given, config, widths, damping=variant.damping)
    except ValueError as error:
        raise RacError(f"{model}: {error}") from None
    seconds = (time.perf_counter() - start) / len(result.layers)
    for entry in result.layers:
        kept = entry["kept_rows"] * entry["kept_columns"]
        entry |= {"sparsity": 1 - kept / (entry["rows"] * entry["columns"]), "seconds": seconds}
    changed = {name: {name: tensor} for name, tensor in result.tensors.items()}
    block = Block(changed, result.layers, [], result.removed)
    return _rounded(model, located, inputs, variant, result, block) if variant.quantize else block


def _rounded(
    model: Path,
    located: Mapping[str, Path],
    inputs: Inputs,
    variant: Variant,
    result: narrow.Narrowed,
    block: Block,
) -> Block:
    """A narrowed block with the weights of all its layers in scope rounded."""
    rounding = variant.model_copy(update={"solver": None, "sparsity": []})
    narrowed = {entry["name"]: entry for entry in block.layers}
    entries, device = [], default_device()
    for group in inputs.groups:
        dense = {n: layers.read(located, n, group["columns"], model) for n in group["layers"]}
        weights_of = {
            name: result.tensors.get(f"{name}.weight", weight).to(device, torch.float32)
            for name, weight in dense.items()
        }
        columns, hessian, whole = result.columns.get(group["name"]), None, None
        if variant.needs_hessian:
            whole = hessian = inputs.hessians[group["name"]].to(device)
        if columns is not None and hessian is not None:
            hessian = hessian[columns][:, columns]
        dtype = next(iter(dense.values())).dtype
        for name, solved, seconds in layers.solve(weights_of, hessian, rounding, {}, dtype):
            block.changed[f"{name}.weight"] = solved.stored
            entry = layers.entry(name, weights_of[name], solved, hessian, rounding, "")
            before = narrowed.get(name, {"seconds": 0.0, "warnings": [], "sparsity": 0.0})
            warnings = before["warnings"]
            if columns is not None and whole is not None:  # of what the dense layer gives
                full = dense[name].to(device, torch.float32)
                placed = torch.zeros_like(full).index_copy(1, columns.to(device), solved.weight)
                error = solvers.relative_error(full, placed, whole)
                entry["relative_error"] = error if math.isfinite(error) else None
                warnings = narrow.above_floor(name, error, result.floors[group["name"]])
            kept = {"kept_rows": entry["rows"], "kept_columns": entry["columns"]}
            entry |= kept | dict(zip(("rows", "columns"), dense[name].shape, strict=True))
            entry |= {
                "sparsity": before["sparsity"],
                "warnings": warnings + entry["warnings"],
                "seconds": before["seconds"] + seconds,
            }
            entries.append(entry)
    return block._replace(layers=entries)


def solve(
    model: Path,
    located: Mapping[str, Path],
    inputs: Inputs,
    variant: Variant,
    patterns: Mapping[str, str],
    groups: list[dict],
) -> Block:
    """Prune and quantize the layers of a block, each by the Hessian of its group.

    Args:
        model, located: the dense model's folder; tensor → file.
        inputs: what they are solved by.
        variant: the solver and its options.
        patterns: layer → pattern.
        groups: all those of the model, whatever the scope.

    Raises:
        RacError: a weight or Hessian is missing, or a layer has no solution.
    """
    whole = {group["name"]: group["layers"] for group in groups}
    block = Block({}, [], [])
    norms: dict[str, torch.Tensor] = {}
    solved: dict[str, Solved] = {}

    def given(group: dict) -> _Given:
        return _given(model, located, inputs, group, variant, whole[group["name"]])

    def judge(of_group: _Given, name: str, seconds: float) -> None:
        weight, hessian = of_group.weights[name], of_group.hessian
        entry = layers.entry(name, weight, solved[name], hessian, variant, patterns[name])
        block.layers.append(entry | {"seconds": seconds})

    for group in inputs.groups:
        of_group = given(group)
        norms |= of_group.norm
        for name, one, seconds in layers.solve(
            of_group.weights, of_group.hessian, variant, patterns, of_group.dtype
        ):
            solved[name] = one
            if not variant.reconstruct:
                judge(of_group, name, seconds)
                block.changed[f"{name}.weight"] = one.stored
                if not inputs.arrived:
                    del solved[name]
    if variant.reconstruct:
        start = time.perf_counter()
        block.fitted.extend(_reconstruct(inputs, variant.reconstruct, solved))
        seconds = (time.perf_counter() - start) / len(solved)
        for of_group in map(given, inputs.groups):  # errors are those after the fit
            for name in of_group.weights:
                solved[name] = layers.store(name, solved[name], of_group.dtype)
                judge(of_group, name, seconds)
                block.changed[f"{name}.weight"] = solved[name].stored
    if variant.propagation == "sequential":
        computed = {f"{name}.weight": one.weight for name, one in solved.items()}
        propagation.put(inputs.arrived, computed | norms)
    block.changed.update({name: {name: tensor} for name, tensor in norms.items()})
    return block


class _Given(NamedTuple):
    """Layers that share an input, before they are solved."""

    weights: dict[str, torch.Tensor]  # float32 [out, in], by name
    hessian: torch.Tensor | None
    dtype: torch.dtype  # that the weights are stored in
    norm: dict[str, torch.Tensor]  # tensors of the norm before them, if it changes


def _given(
    model: Path,
    located: Mapping[str, Path],
    inputs: Inputs,
    group: dict,
    variant: Variant,
    whole: list[str],
) -> _Given:
    """The weights and the Hessian of a group, smoothed if that is asked for and a norm makes their input."""
    hessian, device = None, default_device()
    if variant.needs_hessian:
        if group["name"] not in inputs.hessians:
            raise RacError(f"the calibration holds no Hessian of {group['name']}")
        hessian = inputs.hessians[group["name"]].to(device)
    stored = {name: layers.read(located, name, group["columns"], model) for name in group["layers"]}
    given = {name: weight.to(device, torch.float32) for name, weight in stored.items()}
    dtype = next(iter(stored.values())).dtype
    strength = variant.quantize.smooth if variant.quantize else None
    if not strength or not group["norm"] or group["layers"] != whole:
        return _Given(given, hessian, dtype, {})
    names = [f"{group['norm']}.{kind}" for kind in ("weight", "bias")]
    norm = {name: weights.read(located[name], name) for name in names if name in located}
    factors = smooth.factors(inputs.absmax[group["name"]].to(device), given.values(), strength)
    norm, factors = smooth.smooth_norm(norm, names[0], factors.cpu())
    factors = factors.to(device)
    given = {name: smooth.smooth_weight(weight, factors) for name, weight in given.items()}
    if hessian is not None:
        hessian = smooth.smooth_hessian(hessian, factors)
    return _Given(given, hessian, dtype, norm)


def _reconstruct(inputs: Inputs, asked: Reconstruct, solved: dict[str, Solved]) -> list[dict]:
    """Fit the kept weights of a block, in place in `solved`; what each part gained."""
    kept = {name: one.weight != 0 if one.mask is None else one.mask for name, one in solved.items()}
    pruned = {name: one.weight for name, one in solved.items()}
    refitted, gained = reconstruct(inputs.arrived, inputs.token_weights, pruned, kept, asked)
    for name, weight in refitted.items():
        solved[name] = solved[name]._replace(weight=weight)
    return [part._asdict() for part in gained]
