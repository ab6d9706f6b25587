"""Patterns of zeros: what their names mean, and which entries a pattern keeps, counted exactly."""

import re
from fractions import Fraction
from typing import NamedTuple

import torch


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
    threshold = scores.kthvalue(count, dim=-1, keepdim=True).values
    below, tied = scores < threshold, scores == threshold
    missing = count - below.sum(-1, keepdim=True)
    return below | (tied & (tied.cumsum(-1) <= missing))


def kept(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """Mask of the entries that the pattern keeps: those of the highest scores.

    Args:
        scores: [..., n]; unstructured chooses over the last dimension, n:m in every group of it.

    Returns:
        Boolean, the shape of `scores`, False at floor(sparsity × n) of n entries.
    """
    if pattern.group > 1:
        scores_of_groups = scores.unflatten(-1, (-1, pattern.group))
        pruned = smallest(scores_of_groups, int(pattern.sparsity * pattern.group)).flatten(-2)
    else:
        pruned = smallest(scores, int(pattern.sparsity * scores.shape[-1]))
    return ~pruned


class Pruned(NamedTuple):
    """What a solver returns."""

    weight: torch.Tensor  # [out, in]
    mask: torch.Tensor  # boolean [out, in], True where the pattern keeps the weight
    damping: float | None  # the share of the mean diagonal that was used, for solvers that damp
