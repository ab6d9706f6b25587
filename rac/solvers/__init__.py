"""Layer-wise solvers: functions of a weight and the Hessian of its input, chosen by name."""

import importlib
import inspect
import math
from types import ModuleType
from typing import Any, NamedTuple

import torch

from rac.config import NEEDS_HESSIAN
from rac.solvers.patterns import Pruned, parse


class Solution(NamedTuple):
    """A compressed layer."""

    weight: torch.Tensor  # [out, in], the dtype given
    mask: torch.Tensor  # boolean [out, in], True where the pattern keeps the weight
    relative_error: float  # tr((W − Ŵ) H (W − Ŵ)ᵀ) / tr(W H Wᵀ)


def solve(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    pattern: str,
    solver: str = "sparsegpt",
    **options: Any,
) -> Solution:
    """Compress one linear layer.

    Args:
        weight: [out, in], float32 or float64.
        hessian: Σ x xᵀ over the layer's inputs [in, in], float32 or float64, of any scale.
        pattern: `unstructured 0.5` (share of zeros), or `2:4` (2 kept of every 4 in a row).
        solver: `magnitude`, `wanda`, `sparsegpt` or `alps`.
        options: the solver's own, such as `damping` and `block` of sparsegpt.

    Raises:
        ValueError: a wrong name, shape or dtype, a number that is not finite, or no Hessian.
        TypeError: an option that the solver does not have.
    """
    pruned = prune(weight, hessian, pattern, solver, **options)
    return Solution(pruned.weight, pruned.mask, relative_error(weight, pruned.weight, hessian))


def prune(
    weight: torch.Tensor, hessian: torch.Tensor | None, pattern: str, solver: str, **options: Any
) -> Pruned:
    """`solve` without the error; magnitude pruning takes None as its Hessian.

    Raises:
        ValueError, TypeError: as `solve`.
    """
    parsed = parse(pattern)
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"the weight must be [out, in] and not empty, not {list(weight.shape)}")
    columns = weight.shape[1]
    if columns % parsed.group:
        raise ValueError(
            f"pattern '{pattern}' needs columns in multiples of {parsed.group}, not {columns}"
        )
    _check_numbers("weight", weight)
    module = _module(solver)
    if hessian is not None:
        hessian = _checked(hessian, columns)
    elif NEEDS_HESSIAN[solver]:
        raise ValueError(f"solver '{solver}' needs a Hessian")
    return module.prune(weight, hessian, parsed, **options)


def options_of(solver: str) -> list[str]:
    """The names of the options that a solver takes."""
    parameters = inspect.signature(_module(solver).prune).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY]


def relative_error(weight: torch.Tensor, compressed: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr((W − Ŵ) H (W − Ŵ)ᵀ) / tr(W H Wᵀ): the share of the output's energy that is lost.

    In float64 up to 4,096 columns; 0 where nothing is lost, infinite where all there was is lost.

    Args:
        weight, compressed: [out, in].
        hessian: Σ x xᵀ [in, in].
    """
    dtype = torch.float64 if len(hessian) <= 4096 else torch.float32
    hessian, weight, lost = (x.to(dtype) for x in (hessian, weight, weight.to(dtype) - compressed))
    energy, error = (((x @ hessian) * x).sum(dtype=torch.float64).item() for x in (weight, lost))
    if energy <= 0:
        return 0.0 if error <= 0 else math.inf
    return max(error, 0.0) / energy


def _module(solver: str) -> ModuleType:
    # By name, so that a stage's code identity does not hang on the solvers that it does not use.
    if solver not in NEEDS_HESSIAN:
        raise ValueError(
            f"solver '{solver}' is not known; known: {', '.join(sorted(NEEDS_HESSIAN))}"
        )
    return importlib.import_module(f"rac.solvers.{solver}")


def _checked(hessian: torch.Tensor, columns: int) -> torch.Tensor:
    """The Hessian, symmetric to the last bit."""
    if hessian.shape != (columns, columns):
        raise ValueError(
            f"the Hessian must be [{columns}, {columns}] as the weight has {columns} columns, "
            f"not {list(hessian.shape)}"
        )
    _check_numbers("Hessian", hessian)
    if (hessian.diagonal() < 0).any():
        raise ValueError("the Hessian has a negative diagonal: it is no sum of x xᵀ")
    if not hessian.diagonal().any():
        raise ValueError("the Hessian is zero: the layer never had an input")
    return (hessian + hessian.T) / 2


def _check_numbers(what: str, matrix: torch.Tensor) -> None:
    if matrix.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the {what} must be float32 or float64, not {matrix.dtype}")
    if not matrix.isfinite().all():
        raise ValueError(f"the {what} holds numbers that are not finite")
