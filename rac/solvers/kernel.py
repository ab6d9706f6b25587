"""The columns of a slice settled in one Triton kernel, where one by one they take three launches each."""

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

    Sums are in another order, so that the last bits differ from those of the loop.

    Args:
        columns, errors, inverse, offset, settling: of `settle_one_by_one`, float32. A program holds all the
            columns in registers: more than `MOST` of them are slow.
    """
    count, rows = columns.shape
    drop, scales, group = columns, columns, columns  # what is not asked for is not read
    if settling.drop is not None:
        first = offset % len(settling.drop)
        drop = settling.drop[first : first + count]
    if settling.scales is not None and settling.group is not None:
        scales, numbers = settling.scales, settling.group[offset : offset + count]
        group = torch.tensor(numbers, dtype=torch.int32, device=columns.device)
    grid = settling.grid
    _settle[(triton.cdiv(rows, ROWS),)](
        columns,
        errors,
        inverse,
        drop,
        scales,
        group,
        count,
        rows,
        inverse.stride(0),
        inverse.stride(1),
        grid.lowest if grid else 0.0,
        grid.highest if grid else 0.0,
        PRUNES=settling.drop is not None,
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
    count,
    rows,
    stride,
    step,
    lowest,
    highest,
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
    for j in range(count):
        column = tl.sum(tl.where(k[:, None] == j, tile, 0.0), axis=0)
        settled = column
        scale = column
        if ROUNDS:
            scale = tl.load(scales + tl.load(group + j) * rows + row, mask=inside, other=1.0)
            settled = tl.minimum(tl.maximum(column / scale, lowest), highest)
            settled = (settled + MAGIC) - MAGIC
        if PRUNES:
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
