"""The numbers that a quantized weight can take, as compressed-tensors' symmetric presets have them."""

from typing import Literal, NamedTuple

import torch

SHRINKS = (1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # of a 4-bit scale, to be chosen from


class Grid(NamedTuple):
    """Multiples of a scale. W4A16 is ("int", 4, 128), W8A8 ("int", 8, None), FP8 ("float", 8, None)."""

    kind: Literal["int", "float"]  # float: e4m3
    bits: Literal[4, 8]
    group: int | None  # adjacent columns of a row that share a scale; None: all

    @property
    def lowest(self) -> float:
        """The least code."""
        return -448.0 if self.kind == "float" else -(2.0 ** (self.bits - 1))

    @property
    def highest(self) -> float:
        """The greatest code."""
        return 448.0 if self.kind == "float" else 2.0 ** (self.bits - 1) - 1


class Quantized(NamedTuple):
    """A weight, as codes × scales."""

    codes: torch.Tensor  # [out, in], int8 or float8_e4m3fn
    scales: torch.Tensor  # [out, groups], the checkpoint's dtype


def scales_of(
    weight: torch.Tensor,
    grid: Grid,
    scale_dtype: torch.dtype,
    importance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scales [out, groups] in `scale_dtype`.

    A scale spreads the grid over the largest weight of its group, as compressed-tensors' presets have it
    (of 4 bits, max |w| / 7.5). With 4 bits, clipping a little can be worth the finer grid: if the columns'
    importance is given, the scale is multiplied with the one of `SHRINKS` for which the sum of squared
    rounding errors, so weighted, is least. A group of zeros gets the smallest normal number. A pruned weight
    is a zero, and so has no say.

    Args:
        weight: [out, in], float32 or float64.
        grid: what to spread.
        scale_dtype: float32, bfloat16 or float16.
        importance: of each column [in].

    Raises:
        ValueError: groups do not divide the columns, or a scale is too large for `scale_dtype`.
    """
    size = _size(weight, grid)
    grouped = weight.unflatten(1, (-1, size))
    full = grouped.abs().amax(-1) / ((grid.highest - grid.lowest) / 2)
    if importance is None or grid.bits > 4:
        return _representable(full, scale_dtype)
    roots = importance.sqrt().to(weight.dtype).view(-1, size)
    rows = 2048 if weight.is_cuda else 64  # what caches hold, and what keeps a GPU busy
    return torch.cat(
        [
            _searched(part, of_part, roots, grid, scale_dtype)
            for part, of_part in zip(grouped.split(rows), full.split(rows), strict=True)
        ]
    )


def quantize(weight: torch.Tensor, scales: torch.Tensor, grid: Grid) -> Quantized:
    """Round to the nearest number on the grid.

    Args:
        weight: [out, in], float32 or float64.
        scales: [out, groups].
        grid: its codes.
    """
    scaled = weight.unflatten(1, (-1, _size(weight, grid))) / scales.to(weight.dtype)[..., None]
    return Quantized(to_codes(scaled, grid).flatten(1).to(dtype_of_codes(grid)), scales)


def dequantize(quantized: Quantized, grid: Grid) -> torch.Tensor:
    """Codes × scales, float32 [out, in]."""
    codes = quantized.codes.float()
    return (
        codes.unflatten(1, (-1, _size(codes, grid))) * quantized.scales.float()[..., None]
    ).flatten(1)


def to_codes(scaled: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Round weights / scales to codes, in place."""
    if grid.kind == "int":
        return scaled.round_().clamp_(grid.lowest, grid.highest)
    return scaled.copy_(scaled.clamp_(grid.lowest, grid.highest).to(torch.float8_e4m3fn))


def dtype_of_codes(grid: Grid) -> torch.dtype:
    """What codes are stored in."""
    return torch.int8 if grid.kind == "int" else torch.float8_e4m3fn


def _size(weight: torch.Tensor, grid: Grid) -> int:
    """Columns that share a scale."""
    columns = weight.shape[1]
    size = grid.group or columns
    if columns % size:
        raise ValueError(f"groups of {size} columns do not divide the weight's {columns} columns")
    return size


def _least(dtype: torch.dtype) -> float:
    """The least scale: of float16, which has few exponents, the least number below the normal ones."""
    normal = torch.finfo(dtype).tiny
    return normal * torch.finfo(dtype).eps if dtype == torch.float16 else normal


def _representable(scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    rounded = scales.to(dtype).clamp_(min=_least(dtype))
    if not rounded.isfinite().all():
        raise ValueError(f"a scale of {scales.max():.3g} does not fit in {dtype}")
    return rounded


def _searched(
    grouped: torch.Tensor, full: torch.Tensor, roots: torch.Tensor, grid: Grid, dtype: torch.dtype
) -> torch.Tensor:
    """The best of the shrunken scales.

    Args:
        grouped: weights [rows, groups, size].
        full: scales that clip nothing [rows, groups].
        roots: square roots of the importance [groups, size].
    """
    best, least = _representable(full, dtype), torch.full_like(full, torch.inf)
    for shrink in SHRINKS:
        scales = _representable(full * shrink, dtype)
        exact = scales.to(grouped.dtype)[..., None]
        errors = (
            to_codes(grouped / exact, grid).mul_(exact).sub_(grouped).mul_(roots).square_().sum(-1)
        )
        better = errors < least
        best, least = torch.where(better, scales, best), torch.where(better, errors, least)
    return best
