"""The columns of a slice settled in one Triton kernel, where one by one they take three launches each.

It chooses their n:m masks on the way, as `rac.solvers.patterns.smallest_of_few` does.
"""

import torch
import triton
import triton.language as tl

from rac.solvers.columns import Settling

ROWS = 32  # of the weight, in a program
MOST = 128  # columns of a slice that a program has room for, with what they lost
# Added to a float32 of less than 2²² and taken away again, it rounds to the nearest, ties to even.
MAGIC = tl.constexpr(1.5 * 2**23)


def fits(lost: torch.Tensor, settling: Settling) -> bool:
    """Whether the kernel has what `settling` asks for: float32, and no rounding but to integers."""
    integers = settling.grid is None or settling.grid.kind == "int"
    return lost.dtype == torch.float32 and integers


def settle_at_once(
    columns: torch.Tensor,
    errors: torch.Tensor,
    inverse: torch.Tensor,
    offset: int,
    settling: Settling,
) -> None:
    """`rac.solvers.columns.settle_one_by_one`, by (1) there: a program for every few rows of the weight.

    With `settling.groups`, masks are chosen here, and put into `kept`; groups must not be cut by the slice.

    Sums are in another order, so that the last bits differ from those of the loop.

    Args:
        columns, errors, inverse, offset, settling: of `settle_one_by_one`, float32. A program holds all the
            columns in registers: more than `MOST` of them are slow.
    """
    count, rows = columns.shape
    drop = scales = group = counts = pivots = kept = columns  # what is not asked for is not read
    groups, here = settling.groups, slice(offset, offset + count)
    if groups:
        counts, pivots = groups.counts, groups.pivots[here]
        kept = groups.kept[here].view(torch.uint8)
    elif settling.drop is not None:
        first = offset % len(settling.drop)
        drop = settling.drop[first : first + count]
    if settling.scales is not None and settling.group is not None:
        scales, numbers = settling.scales, settling.group[here]
        group = torch.tensor(numbers, dtype=torch.int32, device=columns.device)
    grid = settling.grid
    _settle[(triton.cdiv(rows, ROWS),)](
        columns,
        errors,
        inverse,
        drop,
        scales,
        group,
        counts,
        pivots,
        kept,
        count,
        rows,
        inverse.stride(0),
        inverse.stride(1),
        grid.lowest if grid else 0.0,
        grid.highest if grid else 0.0,
        GROUP=groups.size if groups else 0,
        PRUNES=groups is not None or settling.drop is not None,
        ROUNDS=settling.scales is not None,
        COUNT=max(triton.next_power_of_2(count), 2),
        ROWS=ROWS,
    )


@triton.jit
def _settle(
    columns,
    errors,
    inverse,
    drop,
    scales,
    group,
    counts,
    pivots,
    kept,
    count,
    rows,
    stride,
    step,
    lowest,
    highest,
    GROUP: tl.constexpr,
    PRUNES: tl.constexpr,
    ROUNDS: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, COUNT)
    inside = row < rows
    here = (k[:, None] < count) & inside[None, :]
    at = k[:, None] * rows + row[None, :]
    tile = tl.load(columns + at, mask=here, other=0.0)
    lost = tl.zeros([COUNT, ROWS], tl.float32)
    chosen = tl.zeros([COUNT, ROWS], tl.float32)  # 1 where GROUP columns have chosen to prune
    if GROUP:
        least = tl.load(counts + row, mask=inside, other=0)
        weights = tl.load(pivots + k, mask=k < count, other=0.0)
    for j in range(count):
        if GROUP:  # noqa: SIM102 - known when it is compiled, what follows is not
            if j % GROUP == 0:
                scores = tl.abs(tile * weights[:, None])
                before = tl.zeros([COUNT, ROWS], tl.int32)
                for i in range(j, j + GROUP):
                    one = tl.sum(tl.where(k[:, None] == i, scores, 0.0), axis=0)[None, :]
                    tied = (one == scores) & (i < k[:, None])
                    before += ((one < scores) | tied).to(tl.int32)
                of_group = (k[:, None] >= j) & (k[:, None] < j + GROUP)
                pruned = tl.where(before < least[None, :], 1.0, 0.0)
                chosen = tl.where(of_group, pruned, chosen)
        column = tl.sum(tl.where(k[:, None] == j, tile, 0.0), axis=0)
        settled = column
        scale = column
        if ROUNDS:
            scale = tl.load(scales + tl.load(group + j) * rows + row, mask=inside, other=1.0)
            settled = tl.minimum(tl.maximum(column / scale, lowest), highest)
            settled = (settled + MAGIC) - MAGIC
        if PRUNES:
            if GROUP:
                dropped = tl.sum(tl.where(k[:, None] == j, chosen, 0.0), axis=0)
            else:
                dropped = tl.load(drop + j * rows + row, mask=inside, other=0.0)
            settled = settled - settled * dropped
        if ROUNDS:
            settled = settled * scale
        error = column - settled
        along = tl.load(inverse + k * stride + j * step, mask=(k > j) & (k < count), other=0.0)
        tile = tl.where(k[:, None] == j, settled[None, :], tile - along[:, None] * error[None, :])
        lost = tl.where(k[:, None] == j, error[None, :], lost)
    tl.store(columns + at, tile, mask=here)
    tl.store(errors + at, lost, mask=here)
    if GROUP:
        tl.store(kept + at, (chosen == 0.0).to(tl.uint8), mask=here)
