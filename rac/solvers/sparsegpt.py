"""SparseGPT: prune column by column, the columns to the right making up (arXiv 2301.00774)."""

import torch

from rac.solvers.damping import DAMPING_LIMIT, normalize
from rac.solvers.patterns import Pattern, Pruned, kept


def prune(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: Pattern,
    *,
    damping: float = 0.01,
    block: int = 128,
) -> Pruned:
    """Prune by algorithm 1 of the paper.

    A block's mask is chosen over all its rows (n:m: in every group, when the loop reaches it) where
    w² / U_jj² is least, U being the upper Cholesky factor of the inverse Hessian. Columns go left
    to right: what pruning column j costs is spread over the columns after it, at once within the
    block and in one product per block beyond it. Columns without any activation are zeroed.

    Args:
        weight: [out, in].
        hessian: Σ x xᵀ [in, in], symmetric.
        pattern: what to keep.
        damping: share of the mean diagonal added to the diagonal; × 10 where that is too little.
        block: columns whose mask is chosen together; n:m takes the next lower multiple of m.

    Raises:
        ValueError: the Hessian is not positive semi-definite, or an option is out of range.
    """
    if not 0 < damping <= DAMPING_LIMIT or block < 1:
        raise ValueError(
            f"damping must be in (0, {DAMPING_LIMIT:g}] and block positive: {damping}, {block}"
        )
    factor, damping = inverse_factor(hessian, damping)
    factor = factor.to(weight.dtype)
    pivots = factor.diagonal().clone()
    spread = factor / pivots[:, None]  # row j: what pruning 1 in column j takes from later columns
    group = pattern.group
    block = max(block - block % group, group)

    # Columns of the weight are rows here, contiguous for the loop: [in, out].
    current = weight.T.clone(memory_format=torch.contiguous_format)
    current[hessian.diagonal() == 0] = 0
    mask = torch.empty_like(current, dtype=torch.bool)
    for start in range(0, len(current), block):
        here = slice(start, min(start + block, len(current)))
        columns, own_spread = current[here], spread[here, here]
        errors = torch.empty_like(columns)
        if group == 1:
            scores = (columns / pivots[here, None]).square()
            mask[here] = kept(scores.flatten(), pattern).view_as(scores)
        for j in range(len(columns)):
            if group > 1 and j % group == 0:
                ahead = slice(start + j, start + j + group)
                scores = (current[ahead] / pivots[ahead, None]).square()
                mask[ahead] = kept(scores.T, pattern).T
            torch.mul(columns[j], ~mask[start + j], out=errors[j])
            columns[j + 1 :].addr_(own_spread[j, j + 1 :], errors[j], alpha=-1)
        current[here.stop :].addmm_(spread[here, here.stop :].T, errors, alpha=-1)
    current.masked_fill_(~mask, 0)
    return Pruned(current.T.contiguous(), mask.T.contiguous(), damping)


def inverse_factor(hessian: torch.Tensor, damping: float) -> tuple[torch.Tensor, float]:
    """Upper Cholesky factor U of the inverse, (H + damping · mean(diag) · I)⁻¹ = Uᵀ U.

    H is normalized first. With H = R Rᵀ, R upper triangular, U is R⁻¹: one factorization of H read
    backwards and one triangular solve, where the published code factorizes, inverts and factorizes
    again.

    Args:
        hessian: [in, in], symmetric.
        damping: share of the mean diagonal.

    Returns:
        U [in, in], and the damping used: × 10 for each factorization that failed.

    Raises:
        ValueError: no damping up to `DAMPING_LIMIT` makes it positive definite.
    """
    hessian, _ = normalize(hessian)
    eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    while damping <= DAMPING_LIMIT:
        lower, failed = torch.linalg.cholesky_ex((hessian + damping * eye).flip(0, 1))
        if not failed and lower.isfinite().all():
            return torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True), damping
        damping *= 10
    raise ValueError(
        "the Hessian is not positive semi-definite: damping by its mean diagonal is too little"
    )
