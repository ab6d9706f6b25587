"""A loss a token over texts of unlike lengths."""

import math
from collections.abc import Sequence


def ratio(scored: Sequence[tuple[float, int]]) -> tuple[float, float | None]:
    """Loss a token, Σ losses / Σ tokens, and the standard error of this ratio over sequences.

    Sequences are what is drawn, and tokens of one hang together: the ratio estimator's linearized
    variance (Cochran, Sampling Techniques, eq. 6.13). None for a single sequence.
    """
    total = sum(tokens for _, tokens in scored)
    loss = sum(loss for loss, _ in scored) / total
    if len(scored) == 1:
        return loss, None
    squares = sum((of_one - loss * tokens) ** 2 for of_one, tokens in scored)
    return loss, math.sqrt(squares * len(scored) / (len(scored) - 1)) / total
