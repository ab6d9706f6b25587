"""ALPS: the mask by ADMM, the kept weights by conjugate gradients (arXiv 2406.07831)."""

from typing import NamedTuple

import torch

from rac.solvers.damping import INDEFINITE, normalize, steps
from rac.solvers.patterns import Pattern, Pruned, kept

FIRST_RHO = 0.1  # this and the schedule below: as in published implementations
CHECKED_EVERY = 3  # iterations from one look at the support to the next
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0, 1.1))  # least change, as share of the support; factor
ADMM_STEPS = 300
CG_STEPS = 10


class Spectrum(NamedTuple):
    """A damped Hessian, scaled to a unit diagonal: G = E (H + damping · mean · I) E = Q L Qᵀ."""

    hessian: torch.Tensor  # G [in, in]
    values: torch.Tensor  # diagonal of L [in], not negative
    vectors: torch.Tensor  # Q [in, in], one a column
    norms: torch.Tensor  # diagonal of E⁻¹ [in]
    dead: torch.Tensor  # boolean [in], columns without any activation
    damping: float  # the share of the mean diagonal that was used


def prepare(hessian: torch.Tensor, *, damping: float = 0.01) -> Spectrum:
    """Damp, scale and decompose the Hessian.

    Args:
        hessian: Σ x xᵀ [in, in], symmetric; it is not changed.
        damping: share of the mean diagonal added to the diagonal; × 10 where that is too little.

    Raises:
        ValueError: the Hessian is not positive semi-definite, or the damping is out of range.
    """
    tried = steps(damping)
    hessian, dead = normalize(hessian)
    rounding = len(hessian) * torch.finfo(hessian.dtype).eps
    for damping in tried:
        norms = (hessian.diagonal() + damping).sqrt()
        scaled = hessian / norms / norms[:, None]
        scaled.diagonal().fill_(1)
        values, vectors = torch.linalg.eigh(scaled)
        if values[0] >= -rounding * values[-1]:
            return Spectrum(scaled, values.clamp(min=0), vectors, norms, dead, damping)
    raise ValueError(INDEFINITE)


def prune(weight: torch.Tensor, spectrum: Spectrum, pattern: Pattern) -> Pruned:
    """Prune by algorithms 1 and 2 of the paper: minimize tr((W − Ŵ) H (W − Ŵ)ᵀ) under the pattern.

    Unstructured chooses the mask over the whole layer. Columns without any activation are zeroed.

    Args:
        weight: [out, in].
        spectrum: of the Hessian.
        pattern: what to keep.
    """
    hessian, values, vectors, norms = (part.to(weight.dtype) for part in spectrum[:4])
    weight = weight.masked_fill(spectrum.dead, 0)
    target = weight * norms
    mask = kept(target.abs().flatten(), pattern).view_as(target)
    if not weight[~mask].any():  # zero where the pattern wants it: nothing is lost as it is
        return Pruned(weight, mask, spectrum.damping)
    start, mask = admm(target, values, vectors, pattern)
    fitted = refit(target, start, mask, hessian, CG_STEPS)
    return Pruned(fitted / norms, mask, spectrum.damping)


def admm(
    target: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor, pattern: Pattern
) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 1: sparse weights D [out, in] on a good support, and its mask.

        W ← (G Ŵ − V + ρD) (G + ρI)⁻¹,   D ← P(W + V/ρ),   V ← V + ρ(W − D)

    for dense W, multiplier V and the projection P on the pattern (rows of outputs, where the paper
    has columns). ρ grows with the change of the support in three iterations, until there is none.

    Args:
        target: scaled dense weight Ŵ [out, in].
        values, vectors: of the scaled Hessian G.
        pattern: what to keep.
    """
    rho, inverse = FIRST_RHO, (vectors / (values + FIRST_RHO)) @ vectors.T
    mask = support = kept(target.abs().flatten(), pattern).view_as(target)
    sparse, multiplier = target * mask, torch.zeros_like(target)
    for iteration in range(1, ADMM_STEPS + 1):
        # G Ŵ = (G + ρI) Ŵ − ρŴ saves a product, and rounding.
        step = (sparse - target).mul_(rho).sub_(multiplier) @ inverse
        shifted = step.add_(target).add_(multiplier, alpha=1 / rho)  # W + V/ρ
        before, mask = mask, kept(shifted.abs().flatten(), pattern).view_as(target)
        sparse = shifted * mask
        multiplier = shifted.sub_(sparse).mul_(rho)
        if iteration % CHECKED_EVERY == 0:
            change = ((mask != support).sum() / mask.sum()).item()
            if change == 0 and torch.equal(mask, before):  # small layers can come round in three
                break
            rho *= next(factor for least, factor in GROWTH if change >= least)
            inverse = (vectors / (values + rho)) @ vectors.T
            support = mask
    return sparse, mask


def refit(
    target: torch.Tensor, start: torch.Tensor, mask: torch.Tensor, hessian: torch.Tensor, steps: int
) -> torch.Tensor:
    """Algorithm 2: conjugate gradients on (Ŵ − W) G = 0 within the mask, all rows at once.

    The preconditioner is the diagonal of G; after the scaling that is the identity.

    Args:
        target, start: scaled dense weight Ŵ, and the weight to start from, [out, in].
        mask: boolean [out, in].
        hessian: scaled Hessian G [in, in].
        steps: how many iterations.
    """
    settled = (torch.finfo(target.dtype).eps * target.norm(dim=1, keepdim=True)).square()
    fitted = start * mask
    residual = ((target - fitted) @ hessian) * mask
    direction, square = residual, residual.square().sum(1, keepdim=True)
    for _ in range(steps):
        product = (direction @ hessian) * mask
        curvature = (direction * product).sum(1, keepdim=True)
        # A row whose residual is rounding stays as it is: going on would magnify the rounding.
        step = torch.where(square > settled, square / curvature, 0)
        fitted = fitted + step * direction
        residual = residual - step * product
        before, square = square, residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(square > settled, square / before, 0) * direction
    return fitted
