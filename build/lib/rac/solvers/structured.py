"""Structured removal: whole columns go, in units, and what remains is re-fitted.

Optimal brain surgery on structures (ZipLM, arXiv 2302.04089) with an exact re-fit of what is kept
(OSSCAR, arXiv 2403.12983): the error is that of the layer, tr((W − Ŵ) H (W − Ŵ)ᵀ).
"""

from typing import NamedTuple

import torch

from rac.solvers.damping import INDEFINITE, normalize, steps

DOUBLE_UP_TO = 8192  # columns; the attention outputs of a 70B have so many
PANEL = 64  # removals between two products that bring everything up to date


class Prepared(NamedTuple):
    """A Hessian of mean diagonal 1, damped, and its inverse."""

    hessian: torch.Tensor  # G = H / mean + damping · I [in, in]
    inverse: torch.Tensor  # G⁻¹ [in, in]
    dead: torch.Tensor  # boolean [in], columns without any activation
    damping: float  # the share of the mean diagonal that was used


class Removed(NamedTuple):
    """A layer with fewer inputs."""

    kept: torch.Tensor  # numbers of the kept units, ascending [keep]
    weight: torch.Tensor  # [out, keep · unit], re-fitted
    damping: float


def prepare(hessian: torch.Tensor, *, damping: float = 0.01) -> Prepared:
    """Damp and invert the Hessian: what all widths and layers of an input share.

    In float64 up to 8,192 columns; beyond, in the Hessian's dtype.

    Args:
        hessian: Σ x xᵀ [in, in], symmetric.
        damping: share of the mean diagonal added to the diagonal; × 10 where that is too little.

    Raises:
        ValueError: the Hessian is not finite, zero or not positive semi-definite, or the damping is
            out of range.
    """
    tried = steps(damping)
    if not hessian.isfinite().all():
        raise ValueError("the Hessian holds numbers that are not finite")
    if not hessian.diagonal().any():
        raise ValueError("the Hessian is zero: the layer never had an input")
    hessian, dead = normalize(hessian)
    if len(hessian) <= DOUBLE_UP_TO:
        hessian = hessian.double()
    undamped = hessian.diagonal().clone()
    for damping in tried:
        hessian.diagonal().copy_(undamped + damping)
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed and lower.isfinite().all():
            return Prepared(hessian, torch.cholesky_inverse(lower), dead, damping)
    raise ValueError(INDEFINITE)


def remove(weight: torch.Tensor, prepared: Prepared, unit: int, keep: int) -> Removed:
    """Remove all but `keep` units, greedily, and re-fit the weights of those that are left.

    Removing the columns S of a unit, with all others free to make up for it, costs
    tr(W_S [(G⁻¹)_SS]⁻¹ W_Sᵀ). The cheapest goes, W and G⁻¹ become those of what is left, and so on, one
    at a time whatever the width. Units without any activation go first. At the end the kept columns
    are fitted anew from the dense W, so rounding does not add up:

        Ŵ_K = W_K + W_R G_RK (G_KK)⁻¹          (K kept, R removed)

    which never has a larger error on H than dropping the same units has.

    Args:
        weight: [out, in].
        prepared: from the Hessian of the layer's input.
        unit: how many adjacent columns go together.
        keep: how many units are left.

    Raises:
        ValueError: `unit` does not divide the columns, or `keep` is out of range.
    """
    columns = weight.shape[1]
    if unit < 1 or columns % unit or columns != len(prepared.hessian):
        raise ValueError(
            f"units of {unit} columns do not fill {columns} columns, or the Hessian has "
            f"{len(prepared.hessian)}"
        )
    units = columns // unit
    if not 0 < keep <= units:
        raise ValueError(f"of {units} units, 1 to {units} can be kept, not {keep}")
    useful = weight.to(prepared.hessian.dtype).masked_fill(prepared.dead, 0)
    chosen = _columns if unit == 1 else _units
    left = torch.ones(units, dtype=torch.bool, device=weight.device)
    left[chosen(useful, prepared, units - keep, unit)] = False
    kept = left.nonzero().flatten()
    return Removed(kept, refit(weight, prepared, left.repeat_interleave(unit)), prepared.damping)


def refit(weight: torch.Tensor, prepared: Prepared, mask: torch.Tensor) -> torch.Tensor:
    """The best weights of the kept columns, by exact least squares; the damping is the ridge.

    Args:
        weight: dense [out, in].
        prepared: from the Hessian of the layer's input.
        mask: boolean [in], True for the kept columns.

    Returns:
        [out, kept columns] in the dtype of `weight`.
    """
    hessian = prepared.hessian
    lost = weight[:, ~mask].to(hessian.dtype) @ hessian[~mask][:, mask]
    lower = torch.linalg.cholesky(hessian[mask][:, mask])
    made_up = torch.cholesky_solve(lost.T, lower).T
    return (weight[:, mask].to(hessian.dtype) + made_up).to(weight.dtype)


def by_magnitude(weight: torch.Tensor, unit: int, keep: int) -> torch.Tensor:
    """Boolean [in]: the columns of the `keep` units of largest norm, whatever the activations."""
    norms = weight.unflatten(1, (-1, unit)).square().sum((0, 2))
    mask = torch.zeros(len(norms), dtype=torch.bool, device=weight.device)
    mask[norms.argsort(descending=True, stable=True)[:keep]] = True
    return mask.repeat_interleave(unit)


def _columns(weight: torch.Tensor, prepared: Prepared, count: int, _unit: int) -> torch.Tensor:
    """The `count` single columns that go, in their order.

    A removal changes all of W and G⁻¹ by a product of two vectors, but the next choice needs only
    the norms of W's columns and the diagonal of G⁻¹. So the products wait, a panel of them, and are
    applied to the one column that goes next, and at the panel's end to all. Each removal reads W
    once; G⁻¹ is read and written once a panel.
    """
    rows = weight.T.clone(memory_format=torch.contiguous_format)  # W's columns: [in, out]
    inverse = prepared.inverse.clone()
    pivots, norms = inverse.diagonal().clone(), rows.square().sum(1)
    least = 1 / prepared.hessian.diagonal()  # (G⁻¹)_jj is never below 1 / G_jj, but for rounding
    costs = torch.zeros_like(norms)
    out = torch.zeros(len(rows), dtype=torch.bool, device=weight.device)
    order = torch.empty(count, dtype=torch.long, device=weight.device)
    for start in range(0, count, PANEL):
        size = min(PANEL, count - start)
        spread = rows.new_empty(len(rows), size)  # column k: what removal k takes from each column
        crossed = rows.new_empty(len(rows), size)  # column k: (G⁻¹)_:j of removal k
        taken = rows.new_empty(size, rows.shape[1])  # row k: W's column j of removal k
        for k in range(size):
            torch.div(norms, torch.maximum(pivots, least), out=costs)
            costs.masked_fill_(prepared.dead, -1).masked_fill_(out, torch.inf)
            j = costs.argmin()
            order[start + k], out[j] = j, True
            column = inverse[j].addmv(crossed[:, :k], spread[j, :k], alpha=-1)
            pivot = torch.maximum(column[j], least[j])
            torch.sub(rows[j], spread[j, :k] @ taken[:k], out=taken[k])
            inner = torch.mv(rows, taken[k]).addmv_(spread[:, :k], taken[:k] @ taken[k], alpha=-1)
            crossed[:, k], spread[:, k] = column, column / pivot
            pivots.addcmul_(spread[:, k], column, value=-1)
            norms.addcmul_(spread[:, k], inner, value=-2)
            norms.addcmul_(spread[:, k].square(), inner[j]).clamp_(min=0)
        rows.addmm_(spread, taken, alpha=-1)
        inverse.addmm_(spread, crossed.T, alpha=-1)
    return order


def _units(weight: torch.Tensor, prepared: Prepared, count: int, unit: int) -> torch.Tensor:
    """The `count` units of several columns that go, in their order."""
    weight, inverse = weight.clone(), prepared.inverse.clone()
    units = weight.shape[1] // unit
    dead = prepared.dead.view(units, unit).all(1)
    live = torch.ones(units, dtype=torch.bool, device=weight.device)
    order = []
    for _ in range(count):
        numbers = live.nonzero().flatten()
        own = inverse.view(units, unit, units, unit)[numbers, :, numbers]  # [live, unit, unit]
        lower, failed = torch.linalg.cholesky_ex(own)
        if failed.any():
            raise ValueError("rounding is too large for the Hessian: it needs more damping")
        parts = weight.unflatten(1, (units, unit))[:, numbers].permute(1, 2, 0)
        costs = torch.linalg.solve_triangular(lower, parts, upper=False).square().sum((1, 2))
        best = costs.masked_fill_(dead[numbers], -1).argmin()
        number = int(numbers[best])
        here = slice(number * unit, (number + 1) * unit)
        spread = torch.cholesky_solve(inverse[here], lower[best])  # [unit, in]
        weight -= weight[:, here] @ spread
        inverse -= inverse[:, here] @ spread
        live[number] = False
        order.append(number)
    return torch.tensor(order, dtype=torch.long, device=weight.device)
