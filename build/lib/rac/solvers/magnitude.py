"""Magnitude pruning: the smallest weights of the layer go, whatever the activations."""

import torch

from rac.solvers.patterns import Pattern, Pruned, kept


def prepare(hessian: torch.Tensor | None) -> None:
    """Nothing: the Hessian is not used."""


def prune(weight: torch.Tensor, prepared: None, pattern: Pattern) -> Pruned:
    """Zero the weights of least magnitude, chosen over the whole layer (n:m: in every group).

    Args:
        weight: [out, in].
        prepared: None.
        pattern: what to keep.
    """
    mask = kept(weight.abs().flatten(), pattern).view_as(weight)
    return Pruned(weight.masked_fill(~mask, 0), mask, None)
