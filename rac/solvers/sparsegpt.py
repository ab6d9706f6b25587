"""SparseGPT: prune column by column, the columns to the right making up (arXiv 2301.00774)."""

from collections.abc import Sequence

import torch

from rac.solvers.columns import Begin, Groups, Settling, sweep, transposed
from rac.solvers.factor import Factor, factorize
from rac.solvers.patterns import Pattern, Pruned, apart, smallest, smallest_of_few, stacked


def prepare(hessian: torch.Tensor, *, damping: float = 0.01) -> Factor:
    """Factorize the Hessian; arguments and errors are those of `rac.solvers.factor.factorize`."""
    return factorize(hessian, damping)


def prune(weight: torch.Tensor, factor: Factor, pattern: Pattern, *, block: int = 128) -> Pruned:
    """Prune by algorithm 1 of the paper.

    A block's mask is chosen over all its rows (n:m: in every group) when the loop reaches it, where
    w² / U_jj² is least, U being the upper Cholesky factor of the inverse Hessian. Columns without any
    activation are zeroed.

    Args:
        weight: [out, in].
        factor: of the Hessian.
        pattern: what to keep.
        block: columns whose mask is chosen together, for unstructured.

    Raises:
        ValueError: `block` is not positive.
    """
    return prune_all([weight], factor, [pattern], block=block)[0]


def prune_all(
    weights: Sequence[torch.Tensor],
    factor: Factor,
    patterns: Sequence[Pattern],
    *,
    block: int = 128,
) -> list[Pruned]:
    """`prune` of several weights of an input at once: they are only more rows of the loop.

    Each weight's mask is chosen over its own rows.

    Args:
        weights: [out, in] each, of one dtype; the same one may occur several times.
        factor, block: of `prune`.
        patterns: for each weight, all unstructured or with groups of one size.

    Raises:
        ValueError: `block` is not positive, or groups differ in size.
    """
    heights, weight = [len(one) for one in weights], stacked(weights)
    begin, settling, kept = masking(weight, heights, factor, patterns, block)

    solved = torch.empty_like(weight)
    columns = transposed(factor.alive(weight))
    for here, settled in sweep(columns, factor.spread.to(weight.dtype), settling, begin):
        solved[:, here] = settled.T
    both = zip(apart(solved, heights), apart(kept.T.contiguous(), heights), strict=True)
    return [Pruned(*one, factor.damping) for one in both]


def masking(
    weight: torch.Tensor,
    heights: Sequence[int],
    factor: Factor,
    patterns: Sequence[Pattern],
    block: int,
) -> tuple[dict[int, Begin], Settling, torch.Tensor]:
    """What chooses masks as `rac.solvers.columns.sweep` goes along.

    Args:
        weight: [out, in], of one or several layers.
        heights: rows of each layer, which a mask is chosen over.
        factor, patterns, block: of `prune_all`.

    Returns:
        `begin` and `settling` of the loop, and the mask of all that is kept [in, out], which it fills.
    """
    if block < 1:
        raise ValueError(f"block must be positive: {block}")
    sizes = {pattern.group for pattern in patterns}
    if len(sizes) != 1:
        raise ValueError(
            f"patterns with groups of {sorted(sizes)} columns go in loops of their own"
        )
    group = sizes.pop()
    pivots = factor.pivots.to(weight.dtype)
    width = group if group > 1 else min(block, len(pivots))
    drop = weight.new_empty(width, len(weight))
    kept = torch.empty(weight.shape[::-1], dtype=torch.bool, device=weight.device)

    def choose(here: slice, columns: torch.Tensor) -> None:
        scaled = (columns * pivots[here, None]).split(list(heights), dim=1)
        chosen = [dropped(*both) for both in zip(scaled, patterns, strict=True)]
        pruned = stacked(chosen, dim=1)
        drop[: len(columns)] = pruned
        torch.logical_not(pruned, out=kept[here])

    groups = None
    if group > 1:
        counts = [int(pattern.sparsity * group) for pattern in patterns]
        of_row = torch.tensor(counts, dtype=torch.int32).repeat_interleave(torch.tensor(heights))
        groups = Groups(group, of_row.to(weight.device), pivots, kept)
    return {width: choose}, Settling(drop, groups=groups), kept


def dropped(scaled: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Mask of the entries to prune, where |w / U_jj| is least.

    Args:
        scaled: w / U_jj [columns, out]; it is overwritten.
        pattern: unstructured chooses over all entries, n:m in every group of columns.
    """
    scores = scaled.abs_()
    if pattern.group == 1:
        count = int(pattern.sparsity * scores.numel())
        return smallest(scores.flatten(), count).view_as(scores)
    groups = scores.unflatten(0, (-1, pattern.group)).transpose(0, 1)
    pruned = smallest_of_few(groups, int(pattern.sparsity * pattern.group))
    return pruned.transpose(0, 1).flatten(0, 1)
