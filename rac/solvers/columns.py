"""The column loop that SparseGPT (arXiv 2301.00774) and GPTQ (arXiv 2210.17323) share.

Columns go left to right. Each is settled (pruned, rounded, or both), and what that costs is made up for by
the columns after it, as far as they can. The papers do that by adding to them along U, the upper Cholesky
factor of the inverse Hessian:

    w_k ← w_k − (w_j − ŵ_j) U_jk / U_jj   for k > j.                                              (1)

Neither U nor all these additions are needed. With H = R Rᵀ, R upper triangular (so that U = R⁻¹), dense
weights w⁰, and b the first column that is not settled,

    Σ_{b≤j≤k} (w_j − w⁰_j) R_jk = Σ_{j<b} (w⁰_j − ŵ_j) R_jk   for k ≥ b:                          (2)

a sum over what the settled columns have lost, one product for many columns when the loop reaches the
first of them, to which each block of them adds its own, and a small triangular system. (arXiv 2507.18553
has the geometry, that of Babai's nearest plane algorithm.) Within the block (1) is followed, in slices
again: only the last few columns go one by one, or (on a GPU) those of a slice in one kernel.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from rac.solvers.grids import Grid, to_codes

# Widths of slices, by measurement on two cores with AVX-512.
AHEAD = 1024  # of the columns for which the sum over all settled ones is taken at once
BLOCK = 128
INNER = (64, 16)

Begin = Callable[[slice, torch.Tensor], None]


class Groups(NamedTuple):
    """An n:m mask that is chosen on the way: of every m columns of a row, where w² / U_jj² is least."""

    size: int  # m
    counts: torch.Tensor  # how many of them are pruned, in each row of the weight, int32 [out]
    pivots: torch.Tensor  # 1 / U_jj [in]
    kept: torch.Tensor  # boolean [in, out], to be filled


class Settling(NamedTuple):
    """How columns are settled: pruned, rounded, or both."""

    drop: torch.Tensor | None = (
        None  # 1 where pruned, else 0 [width, out]; column j in row j % width
    )
    scales: torch.Tensor | None = None  # [groups, out], if columns are rounded
    group: list[int] | None = None  # of each column, its row of `scales`
    grid: Grid | None = None  # whose codes, times scales, are the numbers to round to
    groups: Groups | None = None  # what fills `drop`, for a kernel that does so itself


# Settles the columns of a slice: `settle_one_by_one` and `rac.solvers.kernel.settle_at_once`.
Settle = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, Settling], None]


def sweep(
    lost: torch.Tensor, spread: torch.Tensor, settling: Settling, begin: dict[int, Begin]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Settle all columns, left to right.

    Args:
        lost: w⁰ [in, out], a column of the weight in each row; overwritten by w⁰ − ŵ.
        spread: R_jk / R_kk in row k, column j [in, in], unit lower triangular; the dtype of `lost`.
        settling: what turns w_j into ŵ_j.
        begin: by width: called at every multiple of it, with the slice of so many columns, or of as many
            as are left, and their w [columns, out] as settled columns determine it; it may fill
            `settling.drop`. Of two widths, one must divide the other. With `settling.groups`, that of their
            size is not called where a kernel does its work.

    Yields:
        Slices of columns that are settled, and their ŵ [columns, out].
    """
    widest = max(begin, default=1)
    block = widest if widest > BLOCK else BLOCK - BLOCK % widest
    ahead = max(AHEAD - AHEAD % block, block)
    settle, inner = _settle_by(lost, settling)
    widths = _inner_widths(block, begin, inner)
    if settling.groups and settle is not settle_one_by_one:
        begin = {width: call for width, call in begin.items() if width != settling.groups.size}
        widths = [width for width in widths if width != settling.groups.size]
    for start in range(0, len(lost), ahead):
        sums = spread[start : start + ahead, :start] @ lost[:start]
        for first in range(start, start + len(sums), block):
            here = slice(first, min(first + block, start + len(sums)))
            own = sums[first - start : here.stop - start]
            inverse = _inverse(spread[here, here])
            columns = torch.addmm(lost[here], inverse, own)
            _sweep_block(columns, inverse, first, settling, begin, widths, settle)
            lost[here].sub_(columns)
            later = spread[here.stop : start + len(sums), here]
            sums[here.stop - start :].addmm_(later, lost[here])
            yield here, columns


def _settle_by(lost: torch.Tensor, settling: Settling) -> tuple[Settle, tuple[int, ...]]:
    """What settles the columns of the finest slices, and how wide these are: a kernel, if there is one."""
    if lost.is_cuda and importlib.util.find_spec("triton"):
        from rac.solvers import kernel

        if kernel.fits(lost, settling):
            return kernel.settle_at_once, (kernel.MOST,)
    return settle_one_by_one, INNER


def _sweep_block(
    columns: torch.Tensor,
    inverse: torch.Tensor,
    offset: int,
    settling: Settling,
    begin: dict[int, Begin],
    widths: list[int],
    settle: Settle,
) -> None:
    """Settle the columns of a block, in place, by (1).

    Args:
        columns: w [columns, out].
        inverse: U_jk / U_jj in row k, column j.
        offset: number of the first column.
        settling, begin: as `sweep`.
        widths: of slices and slices of slices, the first being the block's.
        settle: settles the columns of the finest slices.
    """
    errors = torch.empty_like(columns)

    def visit(start: int, stop: int, depth: int) -> None:
        for first in range(start, stop, widths[depth]):
            here = slice(first, min(first + widths[depth], stop))
            if first > start:
                columns[here].addmm_(inverse[here, start:first], errors[start:first], alpha=-1)
            if widths[depth] in begin:
                begin[widths[depth]](slice(offset + first, offset + here.stop), columns[here])
            if depth + 1 < len(widths):
                visit(first, here.stop, depth + 1)
            else:
                settle(columns[here], errors[here], inverse[here, here], offset + first, settling)

    visit(0, len(columns), 0)


def settle_one_by_one(
    columns: torch.Tensor,
    errors: torch.Tensor,
    inverse: torch.Tensor,
    offset: int,
    settling: Settling,
) -> None:
    """Settle the columns of a slice, in place, each making up for those before it.

    Args:
        columns: w [columns, out], which become ŵ.
        errors: becomes w − ŵ, w being what a column was when it was settled.
        inverse: U_jk / U_jj in row k, column j, of these columns.
        offset: number of the first column.
        settling: as `sweep`.
    """
    column, error, along = columns.unbind(), errors.unbind(), inverse.T
    for j in range(len(columns)):
        _settle(offset + j, column[j], error[j], settling)
        if j + 1 < len(columns):
            columns[j + 1 :].addr_(along[j, j + 1 :], error[j], alpha=-1)


def _settle(j: int, column: torch.Tensor, error: torch.Tensor, settling: Settling) -> None:
    """Turn w_j [out] into ŵ_j in place, and `error` into w_j − ŵ_j."""
    drop = settling.drop[j % len(settling.drop)] if settling.drop is not None else None
    if settling.scales is None:
        assert drop is not None
        torch.mul(column, drop, out=error)
        column.sub_(error)
        return
    assert settling.group is not None and settling.grid is not None
    scale = settling.scales[settling.group[j]]
    error.copy_(column)
    to_codes(column.div_(scale), settling.grid)
    if drop is not None:
        column.addcmul_(column, drop, value=-1)
    error.sub_(column.mul_(scale))


def _inner_widths(block: int, begin: dict[int, Begin], inner: tuple[int, ...]) -> list[int]:
    """Widths of the slices of a block, descending: those of `begin`, and others that speed it up."""
    widths = {block, *begin}
    for width in inner:
        finest = max((at for at in begin if at <= width), default=1)
        widths.add(min(width - width % finest, block))
    return sorted(widths, reverse=True)


def _inverse(lower: torch.Tensor) -> torch.Tensor:
    """Inverse of a unit lower triangular matrix."""
    eye = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True)


def transposed(matrix: torch.Tensor) -> torch.Tensor:
    """The transpose, contiguous; in strips, which is twice as fast as at once."""
    result = matrix.new_empty(matrix.shape[::-1])
    for start in range(0, len(matrix), 32):
        result[:, start : start + 32] = matrix[start : start + 32].T
    return result
