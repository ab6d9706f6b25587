"""Wanda: weights times the norm of their input (arXiv 2306.11695)."""

import torch

from rac.solvers.patterns import Pattern, Pruned, kept


def prepare(hessian: torch.Tensor) -> torch.Tensor:
    """Norms of the inputs, ‖x_j‖ over the largest of them [in].

    Args:
        hessian: Σ x xᵀ [in, in], whose diagonal holds the squared norms.
    """
    norms = hessian.diagonal().sqrt()
    return norms / norms.max()


def prune(weight: torch.Tensor, norms: torch.Tensor, pattern: Pattern) -> Pruned:
    """Zero the weights of least |W_ij| · ‖x_j‖, chosen in every row (n:m: in every group), eq. 1.

    Args:
        weight: [out, in].
        norms: of the inputs [in].
        pattern: what to keep.
    """
    mask = kept(weight.abs() * norms.to(weight.dtype), pattern)
    return Pruned(weight.masked_fill(~mask, 0), mask, None)
