"""How far a compressed model's predictions are from the dense model's."""

import math

import torch

LOGITS = 2**24  # numbers of logits in memory at once


@torch.no_grad()
def kl_divergence(dense_logits: torch.Tensor, logits: torch.Tensor) -> float:
    """KL(dense ‖ compressed) = Σ p (log p − log q) in nats, the mean over tokens.

    Log-probabilities are float32, or float64 if the logits are, and sums float64, over a few tokens at a
    time. A token that both exclude (−∞) adds nothing. Infinite where q excludes what p does not, or the
    compressed model's logits are not numbers.

    Args:
        dense_logits, logits: [tokens, vocabulary], any dtype.

    Raises:
        ValueError: shapes differ, there are no tokens, or the dense logits are not numbers.
    """
    if dense_logits.shape != logits.shape or logits.ndim != 2 or not logits.numel():
        raise ValueError(
            f"logits must be [tokens, vocabulary], not {list(dense_logits.shape)} and "
            f"{list(logits.shape)}"
        )
    total, rows = 0.0, max(LOGITS // logits.shape[1], 1)
    for start in range(0, len(logits), rows):
        log_p, log_q = (
            of.to(torch.promote_types(of.dtype, torch.float32)).log_softmax(-1)
            for of in (dense_logits[start : start + rows], logits[start : start + rows])
        )
        if log_p.isnan().any():
            raise ValueError("the dense model's logits are not numbers")
        p = log_p.exp()
        total += torch.where(p > 0, p * (log_p - log_q), 0).sum(dtype=torch.float64).item()
    return math.inf if math.isnan(total) else max(total, 0.0) / len(logits)
