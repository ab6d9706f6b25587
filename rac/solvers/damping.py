"""What solvers that factorize a Hessian do to it first."""

import torch

DAMPING_LIMIT = 1.0  # as large as the mean diagonal; a Hessian that needs more is not one


def normalize(hessian: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A Hessian of mean diagonal 1, and which columns are dead: without any activation.

    The mean is over the columns that have activations, so the Hessian's scale does not matter; a dead
    column counts as an average one. It is in float64 up to 4,096 columns, where factorizing it costs a few
    seconds and rounding never adds to the damping; beyond, float64 would double matrices of a GB and
    the time, and the input's dtype is kept.

    Args:
        hessian: [in, in], symmetric; it is not changed.

    Returns:
        The normalized Hessian [in, in], and a boolean [in].
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    hessian = hessian / diagonal[~dead].mean()
    if len(hessian) <= 4096:
        hessian = hessian.double()
    hessian.diagonal()[dead] = 1
    return hessian, dead
