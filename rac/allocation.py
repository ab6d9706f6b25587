"""Non-uniform sparsity at the same total: which pattern each layer gets, by OWL or by EvoPress."""

import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rac import evopress, hessians, layers, linear, owl, solvers, sources
from rac.errors import RacError
from rac.models import checkpoint
from rac.variants import Allocation, Variant

Patterns = dict[str, str]  # a layer's name → pattern, as `rac.solve` takes it


def by_owl(
    model: Path,
    located: Mapping[str, Path],
    groups: list[dict],
    terms: list[hessians.Term],
    target: float,
) -> tuple[Patterns, dict]:
    """Shares of zeros by the outliers of each block (arXiv 2310.05175).

    Args:
        model, located: the dense model's folder; tensor → file.
        groups: those in scope, of `rac.linear.in_scope`.
        terms: of the calibration.
        target: share of zeros over all of them.

    Returns:
        A pattern for each layer; the outlier ratio of each block, for the record.

    Raises:
        RacError: a weight or Hessian is missing, damaged or not finite.
    """
    ratios: list[float] = []
    sizes: list[int] = []
    names: list[list[str]] = []
    by_block = linear.by_block(groups)
    for block in hessians.checked(terms, by_block):
        combined, scores = hessians.combine(terms, block), []
        names.append([])
        for group in by_block[block]:
            for name in group["layers"]:
                weight = layers.read(located, name, group["columns"], model)
                scores.append(owl.wanda_scores(weight.float(), combined[group["name"]]))
                names[-1].append(name)
        try:
            ratios.append(owl.outlier_ratio(scores))
        except ValueError as problem:
            raise RacError(f"block {block} of {model}: {problem}") from None
        sizes.append(sum(of_layer.numel() for of_layer in scores))
    shares = owl.owl(ratios, sizes, target)
    patterns = {
        name: _pattern(share)
        for of_block, share in zip(names, shares, strict=True)
        for name in of_block
    }
    return patterns, {"method": "owl", "outlier_ratios": ratios}


def by_evopress(
    model: Path,
    located: Mapping[str, Path],
    groups: list[dict],
    terms: list[hessians.Term],
    target: float,
    variant: Variant,
    asked: Allocation,
    traces: Path,
    dtype: str,
    scratch: Path,
) -> tuple[Patterns, dict]:
    """Shares of zeros by a search for the least divergence from the dense model (arXiv 2410.14649).

    Every layer is solved at all levels first, and waits in files: a step of the search is a pass of the
    whole model, in memory, over some of the traces.

    Args:
        model, located, groups, terms, target: as for `by_owl`.
        variant: the solver and its options.
        asked: how to search.
        traces: sequences.safetensors of the source that is searched on.
        dtype: what the model runs in.
        scratch: a folder of a disk that holds each layer in scope nine times for a while.

    Returns:
        A pattern for each layer; the divergence of uniform shares and after each generation (nats a
        token), for the record.

    Raises:
        RacError: no trace has a decode token, or a layer has no solution.
    """
    device = checkpoint.default_device()
    levels = evopress.grid(target, asked.step)
    read = [s for s in sources.read(traces) if len(s.token_ids) > max(s.prompt_length, 1)]
    if not read:
        raise RacError(f"{traces}: no trace has a decode token to search on")
    options = {key: getattr(variant, key) for key in solvers.options_of(str(variant.solver))}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        files = {}
        by_block = linear.by_block(groups)
        for block in hessians.checked(terms, by_block):
            combined = hessians.combine(terms, block)
            for group in by_block[block]:
                stored = {
                    name: layers.read(located, name, group["columns"], model)
                    for name in group["layers"]
                }
                try:
                    hessian = combined.pop(group["name"]).to(device)
                    prepared = solvers.prepare(hessian, str(variant.solver), **options)
                    solved = _at_all_levels(stored, prepared, levels, variant, options)
                except ValueError as problem:
                    raise RacError(f"layers {', '.join(stored)}: {problem}") from None
                for name, of_layer in solved.items():
                    sizes[name] = stored[name].numel()
                    files[name] = Path(folder) / f"{name}.safetensors"
                    save_file(of_layer, files[name])

        def solution(name: str, level: int) -> torch.Tensor:
            with safe_open(files[name], "pt") as stored:
                return stored.get_tensor(str(level))

        network = checkpoint.load_model(model, dtype)
        chosen = read[: asked.sequences]
        fitness = evopress.divergence(network, list(sizes), solution, chosen)
        found = evopress.evolve(
            list(sizes.values()), list(levels), fitness, len(chosen), asked.generations, asked.seed
        )
    patterns = {
        name: _pattern(levels[level]) for name, level in zip(sizes, found.assignment, strict=True)
    }
    return patterns, {"method": "evopress", "divergence": found.fitness}


def _at_all_levels(
    stored: Mapping[str, torch.Tensor],
    prepared: Any,
    levels: Mapping[int, Fraction],
    variant: Variant,
    options: dict[str, Any],
) -> dict[str, dict[str, torch.Tensor]]:
    """Weights of layers that share an input at every level, as a file holds them: level → weight."""
    found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in stored}
    device = checkpoint.default_device()
    pairs = {(name, level): stored[name].numel() for name in stored for level in levels}
    for batch in solvers.batches(pairs):
        given = {name: stored[name].to(device, torch.float32) for name, _ in batch}
        pruned = solvers.prune_all(
            [given[name] for name, _ in batch],
            prepared,
            [_pattern(levels[level]) for _, level in batch],
            str(variant.solver),
            **options,
        )
        for (name, level), one in zip(batch, pruned, strict=True):
            found[name][str(level)] = one.weight.to("cpu", stored[name].dtype).contiguous()
    return found


def _pattern(share: Fraction) -> str:
    return f"unstructured {float(share)!r}"
