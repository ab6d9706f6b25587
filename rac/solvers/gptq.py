"""GPTQ: round column by column, the columns to the right making up (arXiv 2210.17323)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from rac.solvers import check_columns, check_weight, grids, sparsegpt
from rac.solvers.columns import Begin, Settling, sweep, transposed
from rac.solvers.factor import Factor, factorize
from rac.solvers.grids import Grid, Quantized
from rac.solvers.patterns import Pattern, apart, stacked


class Rounded(NamedTuple):
    """A quantized weight."""

    quantized: Quantized
    mask: torch.Tensor | None  # boolean [out, in], that given or found; None if nothing is pruned
    damping: float | None  # the share of the mean diagonal that was used


def prepare(hessian: torch.Tensor, *, damping: float = 0.01) -> Factor:
    """Factorize the Hessian with the columns of most activation first.

    Rounding these while most columns are left to make up for it lowers the error (`act_order` in the
    authors' code). Columns that share a scale do so by their place in the weight, so that a checkpoint
    shows no trace of the order. Arguments and errors are those of `rac.solvers.factor.factorize`.
    """
    order = hessian.diagonal().argsort(descending=True, stable=True)
    factor = factorize(hessian[order[:, None], order], damping)
    dead = factor.dead[order.argsort()]
    return factor._replace(dead=dead, order=order)


def quantize(
    weight: torch.Tensor,
    factor: Factor,
    grid: Grid,
    scale_dtype: torch.dtype,
    *,
    mask: torch.Tensor | None = None,
    pattern: Pattern | None = None,
    block: int = 128,
) -> Rounded:
    """Quantize by algorithm 1 of the paper, with the scales of `rac.solvers.grids.scales_of`.

    Scales are found before the loop, a column's importance being the squared pivot R_jj² that weights its
    error there. Columns without any activation are zeroed.

    With a `mask`, weights outside of it end up as zeros; what that and the rounding cost is made up for
    by the kept ones. With a `pattern`, weights are pruned and rounded in one loop (arXiv 2301.00774, section
    3.5), with the scales of the weight that pruning alone leaves.

    Args:
        weight: [out, in], float32 or float64; with a mask, as pruned.
        factor: of the Hessian; for a pattern, by `rac.solvers.sparsegpt.prepare`, which leaves the
            columns in their order.
        grid: the numbers to round to.
        scale_dtype: of the scales: the checkpoint's.
        mask: boolean [out, in], True where a weight is kept.
        pattern: what to keep; not with a mask.
        block: as in `rac.solvers.sparsegpt.prune`, for a pattern.

    Raises:
        ValueError: groups do not divide the columns, a scale does not fit in its dtype, the weight is not
            finite, or arguments do not go together.
    """
    masks = None if mask is None else [mask]
    patterns = None if pattern is None else [pattern]
    (rounded,) = quantize_all(
        [weight], factor, grid, scale_dtype, masks=masks, patterns=patterns, block=block
    )
    return rounded


def quantize_all(
    weights: Sequence[torch.Tensor],
    factor: Factor,
    grid: Grid,
    scale_dtype: torch.dtype,
    *,
    masks: Sequence[torch.Tensor] | None = None,
    patterns: Sequence[Pattern] | None = None,
    block: int = 128,
) -> list[Rounded]:
    """`quantize` of several weights of an input at once: they are only more rows of the loop.

    Args:
        weights: [out, in] each, of one dtype.
        factor, grid, scale_dtype, block: of `quantize`.
        masks, patterns: one for each weight, or None; patterns all have groups of one size.

    Raises:
        ValueError: as `quantize`.
    """
    for i, weight in enumerate(weights):
        check_weight(weight)
        check_columns(weight, factor)
        if masks is not None and (masks[i].shape != weight.shape or masks[i].dtype != torch.bool):
            raise ValueError(f"the mask must be boolean {list(weight.shape)}, as the weight")
    if masks is not None and patterns is not None:
        raise ValueError("give a mask or a pattern, not both")
    if patterns is not None and factor.order is not None:
        raise ValueError("a pattern needs columns in their order: prepare by rac.solvers.sparsegpt")
    heights = [len(weight) for weight in weights]
    dense = shape = factor.alive(stacked(weights))
    order = torch.arange(dense.shape[1]) if factor.order is None else factor.order
    begin: dict[int, Begin] = {}
    settling, mask = Settling(), None
    if masks is not None:
        mask = stacked(masks)
        shape = dense.masked_fill(~mask, 0)
        settling = Settling(transposed(~mask)[order].to(dense.dtype))
    if patterns is not None:
        alone = sparsegpt.prune_all(dense.split(heights), factor, patterns, block=block)
        shape = stacked([pruned.weight for pruned in alone])
        begin, settling, kept = sparsegpt.masking(dense, heights, factor, patterns, block)
    scales = grids.scales_of(shape, grid, scale_dtype, (factor.pivots**2)[order.argsort()])

    codes = torch.empty(dense.shape[::-1], dtype=grids.dtype_of_codes(grid), device=dense.device)
    exact = scales.T.to(dense.dtype).contiguous()
    group = [j // (grid.group or len(order)) for j in order.tolist()]
    settling = settling._replace(scales=exact, group=group, grid=grid)
    columns = transposed(dense)[order]
    for here, settled in sweep(columns, factor.spread.to(dense.dtype), settling, begin):
        codes[order[here]] = grids.to_codes(settled / exact[group[here]], grid).to(codes.dtype)
    if patterns is not None:
        mask = kept.T.contiguous()
    of_each = [None] * len(weights) if mask is None else apart(mask, heights)
    found = zip(apart(codes.T.contiguous(), heights), apart(scales, heights), of_each, strict=True)
    return [Rounded(Quantized(*both), one, factor.damping) for *both, one in found]


def round_to_nearest(
    weight: torch.Tensor, grid: Grid, scale_dtype: torch.dtype, mask: torch.Tensor | None = None
) -> Quantized:
    """Round every weight to the nearest number on the grid: the floor that GPTQ is measured against.

    Args:
        weight: [out, in], float32 or float64.
        grid: the numbers to round to.
        scale_dtype: of the scales.
        mask: boolean [out, in]; weights outside of it are zeros.

    Raises:
        ValueError: groups do not divide the columns, a scale does not fit in its dtype, or the weight
            is not finite.
    """
    check_weight(weight)
    if mask is not None:
        weight = weight.masked_fill(~mask, 0)
    return grids.quantize(weight, grids.scales_of(weight, grid, scale_dtype), grid)
