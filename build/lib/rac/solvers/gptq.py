"""GPTQ: round column by column, the columns to the right making up (arXiv 2210.17323)."""

import torch

from rac.solvers import check_columns, check_weight, grids, sparsegpt
from rac.solvers.columns import Begin, sweep, transposed
from rac.solvers.factor import Factor, factorize
from rac.solvers.grids import Grid, Quantized
from rac.solvers.patterns import Pattern


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
) -> tuple[Quantized, torch.Tensor | None, float]:
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

    Returns:
        Codes and scales; the mask given or found, or None; the damping used.

    Raises:
        ValueError: groups do not divide the columns, a scale does not fit in its dtype, the weight is not
            finite, or arguments do not go together.
    """
    check_weight(weight)
    check_columns(weight, factor)
    if mask is not None and (mask.shape != weight.shape or mask.dtype != torch.bool):
        raise ValueError(f"the mask must be boolean {list(weight.shape)}, as the weight")
    if mask is not None and pattern is not None:
        raise ValueError("give a mask or a pattern, not both")
    if pattern is not None and factor.order is not None:
        raise ValueError("a pattern needs columns in their order: prepare by rac.solvers.sparsegpt")
    dense = shape = factor.alive(weight)
    order = torch.arange(weight.shape[1]) if factor.order is None else factor.order
    begin: dict[int, Begin] = {}
    drop = None
    if mask is not None:
        shape = dense.masked_fill(~mask, 0)
        drop = transposed(~mask)[order].to(weight.dtype)
    if pattern is not None:
        shape = sparsegpt.prune(dense, factor, pattern, block=block).weight
        begin, drop, kept = sparsegpt.masking(weight, factor, pattern, block)
    scales = grids.scales_of(shape, grid, scale_dtype, (factor.pivots**2)[order.argsort()])

    codes = torch.empty(weight.shape[::-1], dtype=grids.dtype_of_codes(grid), device=weight.device)
    exact = scales.T.to(weight.dtype).contiguous()
    numbers = order.tolist()

    def settle(j: int, column: torch.Tensor, error: torch.Tensor) -> None:
        scale = exact[numbers[j] // (grid.group or len(numbers))]
        error.copy_(column)
        grids.to_codes(column.div_(scale), grid)
        if drop is not None:
            column.addcmul_(column, drop[j % len(drop)], value=-1)
        codes[numbers[j]] = column
        error.sub_(column.mul_(scale))

    for _ in sweep(transposed(dense)[order], factor.spread.to(weight.dtype), settle, begin):
        pass
    if pattern is not None:
        mask = kept.T.contiguous()
    return Quantized(codes.T.contiguous(), scales), mask, factor.damping


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
