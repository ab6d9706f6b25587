"""OWL (arXiv 2310.05175): a block with more outliers gets fewer zeros, at the same total.

Shares are exact fractions, so that what one block keeps more and another less adds up to nothing.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import torch

NEARLY = Fraction(9, 10)  # how far of the way to 0 or 1 a block may go


def wanda_scores(weight: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """|W_ij| · ‖x_j‖, what OWL looks for outliers in (arXiv 2310.05175, eq. 1).

    Args:
        weight: [out, in].
        hessian: Σ x xᵀ [in, in], whose diagonal holds the squared norms, of the same scale in a whole block.
    """
    return weight.abs() * hessian.diagonal().sqrt().to(weight.dtype)


def outlier_ratio(scores: Sequence[torch.Tensor], times: float = 5.0) -> float:
    """Share of a block's scores that exceed `times` their mean: D of arXiv 2310.05175, eq. 2.

    Args:
        scores: of all layers of one block, any shapes.
        times: M of the paper.

    Raises:
        ValueError: there are no scores, or their mean is not finite.
    """
    count = sum(of_layer.numel() for of_layer in scores)
    total = sum(of_layer.sum(dtype=torch.float64).item() for of_layer in scores)
    if not count or not math.isfinite(total):
        raise ValueError("a block's scores must be finite, and there must be some")
    threshold = times * total / count
    return sum(int((of_layer > threshold).sum()) for of_layer in scores) / count


def owl(
    ratios: Sequence[float], sizes: Sequence[int], target: float, spread: float = 0.08
) -> list[Fraction]:
    """Sparsity of each block, the lower the more outliers it has (arXiv 2310.05175, section 4).

    As in the published code, densities are linear in the outlier ratios, the highest and the lowest
    2 · `spread` apart. Here their mean is weighted by size, so that the zeros of all blocks are the target
    exactly, and near 0 and 1 they are less far apart: no block goes further than nine tenths of the way.

    Args:
        ratios: of `outlier_ratio`, one a block.
        sizes: weights of each block.
        target: share of zeros over all blocks.
        spread: λ of the paper.

    Raises:
        ValueError: ratios and sizes do not match, or the target is not between 0 and 1.
    """
    if len(ratios) != len(sizes) or not sizes or min(sizes) < 1:
        raise ValueError(f"{len(ratios)} outlier ratios for {len(sizes)} blocks of sizes {sizes}")
    goal, exact = exact_share(target), [Fraction(ratio) for ratio in ratios]
    total = sum((ratio * size for ratio, size in zip(exact, sizes, strict=True)), Fraction())
    above = [ratio - total / sum(sizes) for ratio in exact]
    if not any(above):
        return [goal] * len(above)
    slope = 2 * Fraction(str(spread)) / (max(above) - min(above))
    slope = min(slope, NEARLY * goal / max(above), NEARLY * (1 - goal) / -min(above))
    return [goal - slope * by for by in above]


def exact_share(number: float) -> Fraction:
    """A number between 0 and 1, as written: 0.29 is 29/100.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < number < 1:
        raise ValueError(f"a share must be between 0 and 1, not {number}")
    return Fraction(str(number))
