"""SmoothQuant (arXiv 2211.10438): move the range of activations into the weights that they meet.

A column of activations is divided by a factor, and the same column of the weights is multiplied by it. The
division costs nothing where a norm makes the activations, as its own weight can be divided instead.
Functions here are of one group of linear layers that share an input.
"""

from collections.abc import Iterable

import torch

STRENGTH = 0.8  # as llm-compressor's default; the paper takes 0.5 to 0.9, by model
RANGE = (1e-5, 1e5)


def factors(
    absmax: torch.Tensor, weights: Iterable[torch.Tensor], strength: float = STRENGTH
) -> torch.Tensor:
    """s_j = max|X_j|^α / max|W_j|^(1−α), equation 4 of the paper.

    A column without activations or without weights has nothing to move: its factor is 1.

    Args:
        absmax: the largest |x| of each input column [in].
        weights: [out, in] of all the layers that read this input.
        strength: α, 0 to 1.

    Returns:
        s, float32 [in].
    """
    largest = torch.stack([weight.abs().amax(0).float() for weight in weights]).amax(0)
    absmax = absmax.float()
    moved = absmax**strength / largest ** (1 - strength)
    moved = torch.where((absmax > 0) & (largest > 0), moved, 1)
    return moved.clamp(*RANGE)


def smooth_norm(
    tensors: dict[str, torch.Tensor], weight: str, factors: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Divide a norm's output by the factors.

    The divided weight is rounded to its dtype. The factors returned are those that it stands for then,
    so that what the weights are multiplied by cancels what was divided by (of a bias, the rounding
    stays).

    Args:
        tensors: of the norm, by name: its weight [in], and its bias if it has one.
        weight: the name of the weight.
        factors: s [in].

    Returns:
        the tensors by the same names, in their dtypes; s [in], float32.
    """
    before = tensors[weight].float()
    after = (before / factors).to(tensors[weight].dtype)
    lost = (after == 0) | ~after.isfinite()  # also where the weight is zero: any factor will do
    factors = torch.where(lost, 1, before / torch.where(lost, 1, after.float()))
    smoothed = {name: (x.float() / factors).to(x.dtype) for name, x in tensors.items()}
    return smoothed, factors


def smooth_weight(weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """W S, float32: what a layer's weight [out, in] becomes.

    All layers that read the input need it, those that stay dense as well.
    """
    return weight.float() * factors


def smooth_hessian(hessian: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """S⁻¹ H S⁻¹: the Hessian [in, in] of the divided activations."""
    factors = factors.to(hessian.dtype)
    return hessian / torch.outer(factors, factors)
