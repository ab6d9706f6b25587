"""Wanda: weights times the norm of their input (arXiv 2306.11695)."""

import torch

from rac.solvers.patterns import Pattern, Pruned, kept


def prune(weight: torch.Tensor, hessian: torch.Tensor, pattern: Pattern) -> Pruned:
    """Zero the weights of least |W_ij| · ‖x_j‖, chosen in every row (n:m: in every group), eq. 1.

    Args:
        weight: [out, in].
        hessian: Σ x xᵀ [in, in], whose diagonal holds the squared norms ‖x_j‖².
        pattern: what to keep.
    """
    norms = hessian.diagonal().sqrt()
    norms = (norms / norms.max()).to(weight.dtype)
    mask = kept(weight.abs() * norms, pattern)
    return Pruned(weight.masked_fill(~mask, 0), mask, None)
