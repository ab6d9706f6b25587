"""Means over problems with several samples each, and paired differences.

Samples of one problem are not independent, so problems are what is counted: every statistic is of
per-problem means (Miller, "Adding Error Bars to Evals", arXiv 2411.00640, sections 2.2 and 3).
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """A paired difference, its standard error and its 95 % interval; NaN where undefined."""

    difference: float
    se: float
    low: float
    high: float


def problem_means(values: Sequence[float], problems: Sequence[Hashable]) -> dict[Hashable, float]:
    """The mean of each problem's samples, in order of first appearance."""
    grouped: dict[Hashable, list[float]] = {}
    for value, problem in zip(values, problems, strict=True):
        grouped.setdefault(problem, []).append(float(value))
    return {problem: sum(group) / len(group) for problem, group in grouped.items()}


def clustered_mean(values: Sequence[float], problems: Sequence[Hashable]) -> tuple[float, float]:
    """The mean over samples then problems (pass@1), and its standard error clustered by problem.

    Args:
        values: one value a sample.
        problems: which problem each sample is of.

    Returns:
        The mean, and sd(per-problem means) / √problems; NaN where undefined (the error of one
        problem, both of none).
    """
    return _mean(np.array(list(problem_means(values, problems).values())))


def _mean(means: np.ndarray) -> tuple[float, float]:
    if len(means) == 0:
        return math.nan, math.nan
    se = float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(means.mean()), se


def paired_difference(
    a: Sequence[float],
    problems_a: Sequence[Hashable],
    b: Sequence[float],
    problems_b: Sequence[Hashable],
) -> Difference:
    """a − b over the same problems, with a 95 % t-interval over the per-problem differences.

    Args:
        a: one value a sample of the first, such as a compressed model.
        problems_a: which problem each is of.
        b: one value a sample of the second, such as the dense model.
        problems_b: which problem each is of; the same problems, in any order and number of samples.

    Raises:
        ValueError: the two are not over the same problems.
    """
    means_a, means_b = problem_means(a, problems_a), problem_means(b, problems_b)
    if means_a.keys() != means_b.keys():
        raise ValueError(
            f"not the same problems: {len(means_a.keys() - means_b.keys())} are only in the first, "
            f"{len(means_b.keys() - means_a.keys())} only in the second"
        )
    difference, se = _mean(np.array([means_a[key] - means_b[key] for key in means_a]))
    if math.isnan(se):
        return Difference(difference, se, math.nan, math.nan)
    from scipy.special import stdtrit  # the t quantile, without scipy.stats' slow import

    half = float(stdtrit(len(means_a) - 1, 0.975)) * se
    return Difference(difference, se, difference - half, difference + half)
