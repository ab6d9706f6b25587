"""The column loop that SparseGPT (arXiv 2301.00774) and GPTQ (arXiv 2210.17323) share.

Columns go left to right. Each is settled (pruned, rounded, or both), and what that costs is made up for by
the columns after it, as far as they can. The papers do that by adding to them along U, the upper Cholesky
factor of the inverse Hessian:

    w_k ← w_k − (w_j − ŵ_j) U_jk / U_jj   for k > j.                                              (1)

Neither U nor all these additions are needed. With H = R Rᵀ, R upper triangular (so that U = R⁻¹), dense
weights w⁰, and b the first column that is not settled,

    Σ_{b≤j≤k} (w_j − w⁰_j) R_jk = Σ_{j<b} (w⁰_j − ŵ_j) R_jk   for k ≥ b:                          (2)

a sum over what the settled columns have lost, which is one product for a block of columns when the loop
reaches it, and a small triangular system. (arXiv 2507.18553 has the geometry, that of Babai's nearest plane
algorithm.) Within the block (1) is followed, in slices again: only the last few columns go one by one.
"""

from collections.abc import Callable, Iterator

import torch

# Widths of slices, by measurement on two cores with AVX-512.
AHEAD = 1024  # of the columns for which the sum over all settled ones is taken at once
BLOCK = 128
INNER = (64, 16)

Begin = Callable[[slice, torch.Tensor], None]
Settle = Callable[[int, torch.Tensor, torch.Tensor], None]


def sweep(
    lost: torch.Tensor, spread: torch.Tensor, settle: Settle, begin: dict[int, Begin]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Settle all columns, left to right.

    Args:
        lost: w⁰ [in, out], a column of the weight in each row; overwritten by w⁰ − ŵ.
        spread: R_jk / R_kk in row k, column j [in, in], unit lower triangular; the dtype of `lost`.
        settle: called with j, w_j [out] and an empty [out], to turn w_j into ŵ_j in place, and put
            w_j − ŵ_j into the other.
        begin: by width: called at every multiple of it, with the slice of so many columns, or of as many
            as are left, and their w [columns, out] as settled columns determine it. Of two widths,
            one must divide the other.

    Yields:
        Slices of columns that are settled, and their ŵ [columns, out].
    """
    widest = max(begin, default=1)
    block = widest if widest > BLOCK else BLOCK - BLOCK % widest
    ahead = max(AHEAD - AHEAD % block, block)
    widths = _inner_widths(block, begin)
    for start in range(0, len(lost), ahead):
        sums = spread[start : start + ahead, :start] @ lost[:start]
        for first in range(start, start + len(sums), block):
            here = slice(first, min(first + block, start + len(sums)))
            own = sums[first - start : here.stop - start]
            own.addmm_(spread[here, start:first], lost[start:first])
            inverse = _inverse(spread[here, here])
            columns = torch.addmm(lost[here], inverse, own)
            _sweep_block(columns, inverse, first, settle, begin, widths)
            lost[here].sub_(columns)
            yield here, columns


def _sweep_block(
    columns: torch.Tensor,
    inverse: torch.Tensor,
    offset: int,
    settle: Settle,
    begin: dict[int, Begin],
    widths: list[int],
) -> None:
    """Settle the columns of a block, in place, by (1).

    Args:
        columns: w [columns, out].
        inverse: U_jk / U_jj in row k, column j.
        offset: number of the first column.
        settle, begin: as `sweep`.
        widths: of slices and slices of slices, the first being the block's.
    """
    errors = torch.empty_like(columns)
    column, error, along = columns.unbind(), errors.unbind(), inverse.T

    def visit(start: int, stop: int, depth: int) -> None:
        for first in range(start, stop, widths[depth]):
            here = slice(first, min(first + widths[depth], stop))
            if first > start:
                columns[here].addmm_(inverse[here, start:first], errors[start:first], alpha=-1)
            if widths[depth] in begin:
                begin[widths[depth]](slice(offset + first, offset + here.stop), columns[here])
            if depth + 1 < len(widths):
                visit(first, here.stop, depth + 1)
                continue
            for j in range(first, here.stop):
                settle(offset + j, column[j], error[j])
                if j + 1 < here.stop:
                    columns[j + 1 : here.stop].addr_(
                        along[j, j + 1 : here.stop], error[j], alpha=-1
                    )

    visit(0, len(columns), 0)


def _inner_widths(block: int, begin: dict[int, Begin]) -> list[int]:
    """Widths of the slices of a block, descending: those of `begin`, and others that speed it up."""
    widths = {block, *begin}
    for width in INNER:
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
