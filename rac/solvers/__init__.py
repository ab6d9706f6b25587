"""Layer-wise solvers: functions of a weight and the Hessian of its input, chosen by name."""

import importlib
import inspect
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch

from rac.solvers.patterns import Pattern, Pruned, parse

NEEDS_HESSIAN = {"magnitude": False, "wanda": True, "sparsegpt": True, "alps": True}
TOGETHER = 2**25  # numbers of weights that are solved in one loop: larger ones gain nothing by it
ASYMMETRY = 1e-3  # much more than any order of summation makes in float32

K = TypeVar("K", bound=Hashable)


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
    _module(solver)
    _parsed(pattern, weight)  # before the Hessian takes its time
    if hessian.shape != (weight.shape[1], weight.shape[1]):
        raise ValueError(
            f"the Hessian must be [{weight.shape[1]}, {weight.shape[1]}] as the weight has "
            f"{weight.shape[1]} columns, not {list(hessian.shape)}"
        )
    pruned = prune(weight, prepare(hessian, solver, **options), pattern, solver, **options)
    return Solution(pruned.weight, pruned.mask, relative_error(weight, pruned.weight, hessian))


def prepare(hessian: torch.Tensor | None, solver: str, **options: Any) -> Any:
    """What a solver asks of a Hessian, once for all layers, patterns and sparsities of its input.

    Args:
        hessian: Σ x xᵀ [in, in]; it is not changed. Magnitude pruning takes None.
        solver: as `solve`, or `gptq` for `rac.solvers.gptq.quantize`.
        options: the solver's own; those of `prune` are left to it.

    Raises:
        ValueError, TypeError: as `solve`.
    """
    module = _module(solver)
    if hessian is not None:
        hessian = _checked(hessian)
    elif NEEDS_HESSIAN.get(solver, True):
        raise ValueError(f"solver '{solver}' needs a Hessian")
    return module.prepare(hessian, **_own(options, module.prepare, solver))


def prune(weight: torch.Tensor, prepared: Any, pattern: str, solver: str, **options: Any) -> Pruned:
    """`solve` by a Hessian that is prepared already, without the error.

    Args:
        weight: [out, in], float32 or float64.
        prepared: the result of `prepare` for the same solver.
        pattern, solver: as `solve`.
        options: the solver's own; those of `prepare` have had their effect.

    Raises:
        ValueError, TypeError: as `solve`.
    """
    return prune_all([weight], prepared, [pattern], solver, **options)[0]


def prune_all(
    weights: Sequence[torch.Tensor],
    prepared: Any,
    patterns: Sequence[str],
    solver: str,
    **options: Any,
) -> list[Pruned]:
    """`prune` of several weights of an input, in one loop over its columns where the solver has one.

    Args:
        weights: [out, in] each, of one dtype; the same one may occur several times.
        prepared, solver, options: as `prune`.
        patterns: for each weight, all unstructured or all with groups of one size.

    Raises:
        ValueError, TypeError: as `solve`.
    """
    module = _module(solver)
    parsed = [_parsed(*both) for both in zip(patterns, weights, strict=True)]
    if prepared is None and NEEDS_HESSIAN[solver]:
        raise ValueError(f"solver '{solver}' needs a Hessian")
    for weight in weights if prepared is not None else ():
        check_columns(weight, prepared)
    options = _own(options, module.prune, solver)
    if solver == "sparsegpt":
        found = module.prune_all(weights, prepared, parsed, **options)
    else:
        pairs = zip(weights, parsed, strict=True)
        found = [module.prune(weight, prepared, one, **options) for weight, one in pairs]
    for pruned in found:
        _check_numbers("compressed weight", pruned.weight)
    return found


def batches(sizes: Mapping[K, int]) -> list[list[K]]:
    """Names of weights in an order, those that follow each other put together up to `TOGETHER` numbers."""
    found: list[list[K]] = []
    held = TOGETHER
    for name, size in sizes.items():
        if held + size > TOGETHER:
            found.append([])
            held = 0
        found[-1].append(name)
        held += size
    return found


def options_of(solver: str) -> list[str]:
    """The names of the options that a solver takes."""
    module = _module(solver)
    return [*_keywords(module.prepare), *_keywords(getattr(module, "prune", None))]


def relative_error(weight: torch.Tensor, compressed: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr((W − Ŵ) H (W − Ŵ)ᵀ) / tr(W H Wᵀ): the share of the output's energy that is lost.

    0 where nothing is lost. Infinite where something is and there was nothing to lose: strict JSON
    has no such number, so that who writes it must say null. To compare several results for a weight,
    take `energy(weight, hessian)` once and `lost_share` of each.

    Args:
        weight, compressed: [out, in].
        hessian: Σ x xᵀ [in, in], symmetric.
    """
    return lost_share(weight, compressed, hessian, energy(weight, hessian))


def lost_share(
    weight: torch.Tensor, compressed: torch.Tensor, hessian: torch.Tensor, dense: float
) -> float:
    """`relative_error`, given `energy(weight, hessian)`."""
    lost = energy(weight.to(_dtype_of_energy(hessian)) - compressed, hessian)
    if dense <= 0:
        return 0.0 if lost <= 0 else math.inf
    return lost / dense


def energy(weight: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr(W H Wᵀ), the squared norm of the outputs of all tokens that the Hessian sums over.

    Products are in float64 up to 2,048 columns; beyond that in float32, and the sum in float64. As H is
    symmetric, only the half above its diagonal blocks is multiplied.

    Args:
        weight: [out, in].
        hessian: Σ x xᵀ [in, in], symmetric.
    """
    dtype, scale = _dtype_of_energy(hessian), hessian.diagonal().double().mean().item()
    if scale <= 0:
        return 0.0
    weight = weight.to(dtype) / math.sqrt(scale)  # so that no product is too large for float32
    total = 0.0
    for start in range(0, len(hessian), 512):
        here = slice(start, start + 512)
        columns = weight[:, here]
        product = columns @ hessian[here, here].to(dtype)
        if start:
            product.addmm_(weight[:, :start], hessian[:start, here].to(dtype), alpha=2)
        total += (product * columns).sum(dtype=torch.float64).item()
    return max(total, 0.0) * scale


def check_weight(weight: torch.Tensor) -> None:
    """Raise ValueError unless a weight is [out, in], float32 or float64, and finite."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"the weight must be [out, in] and not empty, not {list(weight.shape)}")
    _check_numbers("weight", weight)


def check_columns(weight: torch.Tensor, prepared: Any) -> None:
    """Raise ValueError unless a weight has the columns that a prepared Hessian is of."""
    columns = len(prepared if isinstance(prepared, torch.Tensor) else prepared[0])
    if weight.shape[1] != columns:
        raise ValueError(
            f"the Hessian is [{columns}, {columns}], but the weight has {weight.shape[1]} columns"
        )


def _module(solver: str) -> ModuleType:
    # By name, so that a stage's code identity does not hang on the solvers that it does not use.
    if solver not in NEEDS_HESSIAN and solver != "gptq":
        raise ValueError(
            f"solver '{solver}' is not known; known: {', '.join(sorted(NEEDS_HESSIAN))}"
        )
    return importlib.import_module(f"rac.solvers.{solver}")


def _keywords(function: Callable | None) -> list[str]:
    parameters = inspect.signature(function).parameters.values() if function else []
    return [parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY]


def _own(options: dict[str, Any], function: Callable, solver: str) -> dict[str, Any]:
    """Those of the options that are the function's."""
    if unknown := options.keys() - set(options_of(solver)):
        raise TypeError(f"solver '{solver}' has no option {', '.join(sorted(unknown))}")
    return {name: options[name] for name in _keywords(function) if name in options}


def _parsed(pattern: str, weight: torch.Tensor) -> Pattern:
    """The pattern, checked against the weight."""
    parsed = parse(pattern)
    check_weight(weight)
    if weight.shape[1] % parsed.group:
        raise ValueError(
            f"pattern '{pattern}' needs columns in multiples of {parsed.group}, "
            f"not {weight.shape[1]}"
        )
    return parsed


def _dtype_of_energy(hessian: torch.Tensor) -> torch.dtype:
    return torch.float64 if len(hessian) <= 2048 else torch.float32


def _checked(hessian: torch.Tensor) -> torch.Tensor:
    """The Hessian, symmetric to the last bit."""
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1]:
        raise ValueError(f"the Hessian must be [in, in], not {list(hessian.shape)}")
    _check_numbers("Hessian", hessian)
    diagonal = hessian.diagonal()
    if (diagonal < 0).any():
        raise ValueError("the Hessian has a negative diagonal: it is no sum of x xᵀ")
    if not diagonal.any():
        raise ValueError("the Hessian is zero: the layer never had an input")
    apart = (hessian - hessian.T).abs_().max() / diagonal.max()
    if apart > ASYMMETRY:
        raise ValueError(
            f"the Hessian is not symmetric: entries differ from their mirror images by {apart:.2g} "
            "of its largest diagonal entry"
        )
    return (hessian / 2).add_(hessian.T, alpha=0.5)


def _check_numbers(what: str, matrix: torch.Tensor) -> None:
    if matrix.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the {what} must be float32 or float64, not {matrix.dtype}")
    if not all(bound.isfinite() for bound in matrix.aminmax()):
        raise ValueError(f"the {what} holds numbers that are not finite")
