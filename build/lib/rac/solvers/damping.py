"""What solvers that factorize a Hessian do to it first."""

import torch

DAMPING_LIMIT = 1.0  # as large as the mean diagonal; a Hessian that needs more is not one
INDEFINITE = "the Hessian is not positive semi-definite, damped by its mean diagonal even"


def normalize(hessian: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A Hessian of mean diagonal 1, and which columns are dead: without any activation.

    The mean is over the columns that have activations, so the Hessian's scale does not matter; a dead
    column counts as an average one that hangs together with no other. It is in float64 up to 4,096
    columns, where factorizing it costs a second and rounding never adds to the damping; beyond,
    float64 would double matrices of a GB and the time, and the input's dtype is kept.

    Args:
        hessian: [in, in], symmetric; it is not changed.

    Returns:
        The normalized Hessian [in, in], and a boolean [in].
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    scale = diagonal[~dead].double().mean()  # the sum of float32 numbers may be too large for one
    hessian = (hessian.double() if len(hessian) <= 4096 else hessian) / scale.to(hessian.dtype)
    if dead.any():
        hessian[dead] = 0  # products with it may be left where its own squares were too small
        hessian[:, dead] = 0
        hessian.diagonal()[dead] = 1
    return hessian, dead


def steps(damping: float) -> list[float]:
    """The damping asked for, and × 10 as often as that is at most `DAMPING_LIMIT`.

    Raises:
        ValueError: it is out of range.
    """
    if not 0 < damping <= DAMPING_LIMIT:
        raise ValueError(f"damping must be in (0, {DAMPING_LIMIT:g}]: {damping}")
    tried = [damping]
    while tried[-1] * 10 <= DAMPING_LIMIT:
        tried.append(tried[-1] * 10)
    return tried
