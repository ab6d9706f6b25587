"""Patterns of zeros: what their names mean, and which entries a pattern keeps, counted exactly."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch

SAMPLE = 2**14  # at most so many entries of a long row tell roughly where an order statistic is


class Pattern(NamedTuple):
    """A share of zeros anywhere (`group` 1), or in every `group` consecutive columns of a row."""

    sparsity: Fraction
    group: int


def parse(pattern: str) -> Pattern:
    """What a pattern's name means: `unstructured 0.5`, or `2:4` (2 kept of every 4 in a row).

    Raises:
        ValueError: neither, or out of range.
    """
    if share := re.fullmatch(r"unstructured (\d*\.?\d+(?:e-?\d+)?)", pattern):
        sparsity = Fraction(share[1])  # exact: as a float, 0.29 of 100 would be 28
        if 0 < sparsity < 1:
            return Pattern(sparsity, 1)
    elif kept := re.fullmatch(r"(\d+):(\d+)", pattern):
        n, m = int(kept[1]), int(kept[2])
        if 0 < n < m <= 32:
            return Pattern(Fraction(m - n, m), m)
    raise ValueError(
        f"pattern '{pattern}' is neither 'unstructured S' with 0 < S < 1, such as "
        "'unstructured 0.5', nor 'n:m' with 0 < n < m <= 32, such as '2:4'"
    )


def smallest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """True at exactly `count` smallest entries along the last dimension; of equals, the first ones.

    Published code prunes whatever is at or below a threshold, which overshoots on ties.

    Args:
        scores: [..., n], finite.
        count: 0 … n.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = order_statistic(scores, count)
    chosen = scores <= threshold
    excess = _count(chosen) - count
    if excess.any():
        tied = scores == threshold
        chosen &= ~tied | (tied.cumsum(-1) <= _count(tied) - excess)
    return chosen


def order_statistic(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The `count`-th smallest entry along the last dimension [..., 1], counted from 1.

    Of one long row, a sample tells bounds, and only what lies between them is searched. Where the
    sample misleads, which counting shows, the whole row is.

    Args:
        scores: [..., n], finite.
        count: 1 … n.
    """
    size = scores.shape[-1]
    if scores.numel() == size > 2 * SAMPLE:
        row = scores.flatten()
        sample = row[:: max(size // SAMPLE, 16)].sort().values
        place, margin = count * len(sample) // size, 2 * round(len(sample) ** 0.5)
        low = sample[max(place - margin, 0)]
        high = sample[min(place + margin, len(sample) - 1)]
        above = row >= low
        missing = count - (size - int(above.count_nonzero()))
        between = row[above.logical_and_(row <= high)]
        if 0 < missing <= len(between):
            return between.kthvalue(missing).values.expand(*scores.shape[:-1], 1)
    return scores.kthvalue(count, dim=-1, keepdim=True).values


def stacked(matrices: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Matrices below (or, by `dim` 1, beside) each other; a single one is not copied."""
    return torch.cat(list(matrices), dim) if len(matrices) > 1 else matrices[0]


def apart(matrix: torch.Tensor, heights: Sequence[int]) -> list[torch.Tensor]:
    """What `stacked` put below each other: copies, so that none holds the memory of all."""
    return [part.clone() for part in matrix.split(heights)] if len(heights) > 1 else [matrix]


def _count(mask: torch.Tensor) -> torch.Tensor:
    """How many entries are True along the last dimension [..., 1]; in one long row without copies."""
    if mask.numel() == mask.shape[-1]:
        return mask.count_nonzero().expand(*mask.shape[:-1], 1)
    return mask.sum(-1, keepdim=True)


def smallest_of_few(scores: torch.Tensor, count: int) -> torch.Tensor:
    """`smallest` along the first dimension, by comparing all pairs: for many short groups.

    Args:
        scores: [m, ...], finite, m at most 32.
        count: 0 … m.
    """
    size = len(scores)
    ahead = torch.zeros_like(scores, dtype=torch.uint8)  # how many entries come before each one
    for i in range(size - 1):
        first = (scores[i] <= scores[i + 1 :]).view(torch.uint8)
        ahead[i + 1 :] += first
        ahead[i] += (size - 1 - i) - first.sum(0, dtype=torch.uint8)
    return ahead < count


def kept(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Mask of the entries that the pattern keeps: those of the highest scores.

    Args:
        scores: [..., n]; unstructured chooses over the last dimension, n:m in every group of it.

    Returns:
        Boolean, the shape of `scores`, False at floor(sparsity × n) of n entries.
    """
    if pattern.group > 1:
        groups = scores.unflatten(-1, (-1, pattern.group)).movedim(-1, 0)
        pruned = smallest_of_few(groups, int(pattern.sparsity * pattern.group))
        return ~pruned.movedim(0, -1).flatten(-2)
    return ~smallest(scores, int(pattern.sparsity * scores.shape[-1]))


class Pruned(NamedTuple):
    """What a solver returns."""

    weight: torch.Tensor  # [out, in]
    mask: torch.Tensor  # boolean [out, in], True where the pattern keeps the weight
    damping: float | None  # the share of the mean diagonal that was used, for solvers that damp
