"""A damped Hessian's triangular factor: all that SparseGPT and GPTQ need to know of it."""

from typing import NamedTuple

import torch

from rac.solvers.damping import INDEFINITE, normalize, steps


class Factor(NamedTuple):
    """H + damping · mean(diag H) · I = mean(diag H) · R Rᵀ, with R upper triangular.

    The papers go by U, the upper Cholesky factor of the inverse. U is R⁻¹, and all that they need of
    it can be had from R: no Hessian is ever inverted (see `rac.solvers.columns`).
    """

    spread: torch.Tensor  # [in, in], unit lower triangular: R_ij / R_jj in row j, column i
    pivots: torch.Tensor  # [in], R_jj = 1 / U_jj
    dead: torch.Tensor  # boolean [in], columns without any activation
    damping: float  # the share of the mean diagonal that was used
    order: torch.Tensor | None = None  # [in], numbers of the columns in `spread` and `pivots`

    def alive(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight [out, in] with its dead columns zeroed; itself if there are none."""
        return weight.masked_fill(self.dead, 0) if self.dead.any() else weight


def factorize(hessian: torch.Tensor, damping: float) -> Factor:
    """Damp and factorize a Hessian, once for all layers, patterns and bit widths of an input.

    H is normalized first (`rac.solvers.damping.normalize`). Reading it backwards, its lower Cholesky
    factor is R backwards.

    Args:
        hessian: Σ x xᵀ [in, in], symmetric; it is not changed. Its dtype is the result's.
        damping: share of the mean diagonal added to the diagonal; × 10 as often as the factorization
            fails.

    Raises:
        ValueError: no damping up to the mean diagonal is enough, or it is out of range.
    """
    tried, dtype = steps(damping), hessian.dtype
    backwards, dead = normalize(hessian.flip(0, 1))
    diagonal = backwards.diagonal().clone()
    for damping in tried:
        backwards.diagonal().copy_(diagonal + damping)
        lower, failed = torch.linalg.cholesky_ex(backwards)
        if not failed and lower.isfinite().all():
            pivots = lower.diagonal().flip(0)
            spread = lower.T.flip(0, 1).div_(pivots[:, None])
            return Factor(spread.to(dtype), pivots.to(dtype), dead.flip(0), damping)
    raise ValueError(INDEFINITE)
