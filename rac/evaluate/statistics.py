"""Means over problems with several samples each, and paired differences.

Samples of one problem are not independent, so problems are what is counted: every statistic is of
per-problem means (Miller, "Adding Error Bars to Evals", arXiv 2411.00640, sections 2.2 and 3).
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

Z = 1.959963984540054  # of the normal distribution: 95 % of it lie between −Z and Z
POWER = 0.8416212335729143  # 80 % of it lie below


class Difference(NamedTuple):
    """A paired difference, its standard error and its 95 % interval; NaN where undefined."""

    difference: float
    se: float
    low: float
    high: float


def by_problem(rows: Iterable[dict], key: str) -> tuple[list[float], list[tuple[int, str]]]:
    """A value of every sample of scores.jsonl, and the problem that each is of: its number and its id."""
    values, problems = [], []
    for row in rows:
        values.append(float(row[key]))
        problems.append((row["doc_id"], row["id"]))
    return values, problems


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
    return _mean(list(problem_means(values, problems).values()))


def _mean(means: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; exact where all are equal, which rounding would not leave 0."""
    count = len(means)
    if count == 0:
        return math.nan, math.nan
    if min(means) == max(means):
        return float(means[0]), 0.0 if count > 1 else math.nan
    mean = math.fsum(means) / count
    squares = math.fsum((value - mean) ** 2 for value in means)
    return mean, math.sqrt(squares / (count - 1) / count)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of all lies below, interpolated linearly."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = ordered[math.floor(place)]
    return below + (place - math.floor(place)) * (ordered[math.ceil(place)] - below)


def share_interval(share: float, se: float, problems: int) -> tuple[float, float]:
    """A 95 % interval of a share that is a mean over problems: Wilson's, with an effective number of them.

    Wilson's interval (1927; Brown, Cai and DasGupta 2001, section 3.1.1) has width at 0 of n and stays
    between 0 and 1. Samples of a problem hang together, so what counts is the n of independent trials
    that would have the same standard error, p (1 − p) / se²; the problems where there is no error to see.
    As that error is estimated, the quantile is Student's.

    Args:
        share: between 0 and 1.
        se: its standard error, clustered by problem; NaN or 0 where none is seen.
        problems: how many.
    """
    if not problems:
        return math.nan, math.nan
    z = half_width(1.0, problems) if problems > 1 else Z
    trials = share * (1 - share) / se**2 if se > 0 else float(problems)
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    half = reach / (1 + z**2 / trials)
    # The share lies inside, whatever rounding does to the ends at 0 and at 1.
    return max(min(middle - half, share), 0.0), min(max(middle + half, share), 1.0)


def paired_difference(each: Sequence[float], samples: int | None = None) -> Difference:
    """The mean of per-problem `differences`, with a 95 % interval.

    Of shares the interval is Agresti and Min's (2005): as if two samples more had been drawn, one that
    differs half a time either way, so that there is width where all differences are equal. With several
    samples a problem these are 2 / samples of a problem, and the quantile is Student's, as the differences
    are no longer −1, 0 or 1. Of other values it is a t-interval.

    Args:
        each: one difference a problem, such as a compressed model's mean less the dense model's.
        samples: of values that are 0 or 1: how many samples each problem's mean is of.
    """
    difference, se = _mean(each)
    if math.isnan(se):
        return Difference(difference, se, math.nan, math.nan)
    if samples is None:
        half = half_width(se, len(each))
        return Difference(difference, se, difference - half, difference + half)
    middle = math.fsum(each) / (len(each) + 2 / samples)
    half = _quantile(len(each), samples) * _padded_se(each, samples)
    return Difference(difference, se, max(middle - half, -1.0), min(middle + half, 1.0))


def _padded_se(each: Sequence[float], samples: int) -> float:
    """The standard error of a mean difference of shares with Agresti and Min's two samples more."""
    n = len(each) + 2 / samples
    squares = math.fsum(value**2 for value in each) + 1 / samples
    return math.sqrt(max(squares - math.fsum(each) ** 2 / n, 0)) / n


def _quantile(problems: int, samples: int) -> float:
    """How many of these errors half an interval is: as published for single samples, else Student's t."""
    return Z if samples == 1 else half_width(1.0, problems)


def fewest_samples(*cells: Sequence[Hashable]) -> int:
    """How many samples a problem has at least, in each of several lists of the samples' problems."""
    return min(min(Counter(problems).values()) for problems in cells)


def differences(
    a: Sequence[float],
    problems_a: Sequence[Hashable],
    b: Sequence[float],
    problems_b: Sequence[Hashable],
) -> list[float]:
    """a − b of each problem's mean, in the order of a.

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
    return [means_a[key] - means_b[key] for key in means_a]


def half_width(se: float, problems: int) -> float:
    """Half of a 95 % t-interval: t(problems − 1) · se; NaN where the standard error is."""
    if math.isnan(se):
        return math.nan
    from scipy.special import stdtrit  # the t quantile, without scipy.stats' slow import

    return float(stdtrit(problems - 1, 0.975)) * se


def p_value(each: Sequence[float]) -> float:
    """Two-sided p of per-problem differences under no difference: exact where there are no halves.

    McNemar's exact test (binomial over the problems that differ) if every difference is −1, 0 or 1; else
    the normal approximation of its score, Σ d / √Σ d². 1 where nothing differs.
    """
    from scipy.special import bdtr, ndtr

    found = [float(value) for value in each if value]
    if not found:
        return 1.0
    if set(found) <= {-1.0, 1.0}:
        fewer = min(found.count(1.0), found.count(-1.0))
        return min(2 * float(bdtr(fewer, len(found), 0.5)), 1.0)
    return 2 * float(
        ndtr(-abs(math.fsum(found)) / math.sqrt(math.fsum(value**2 for value in found)))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being several (Holm 1979): rejecting those below α errs once in 1 / α tables."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min((len(p_values) - rank) * p_values[i], 1.0))
        adjusted[i] = largest
    return adjusted


def detectable(each: Sequence[float], samples: int) -> float:
    """The difference of shares that a 5 % test finds in 80 % of tables: (quantile + z(0.8)) · se.

    Error and quantile are those of `paired_difference`: the error is not 0 where all problems differ alike,
    and so no difference is called detectable however small it is. NaN of one problem, and where not even
    the largest difference would be found.

    Args:
        each: one difference a problem.
        samples: how many samples each problem's mean is of.
    """
    if len(each) < 2:
        return math.nan
    found = (_quantile(len(each), samples) + POWER) * _padded_se(each, samples)
    return found if found <= 1 else math.nan


def majority(
    correct: Sequence[bool], answers: Sequence[Hashable | None], problems: Sequence[Hashable]
) -> dict[Hashable, float]:
    """maj@k of each problem: is the answer that most of its samples give right?

    Samples without an answer do not vote. Answers of which one was judged right vote together, however they
    are written. Of several answers with as many votes one is drawn: the value is its chance to be right. 0
    where nobody votes.

    Args:
        correct: one verdict a sample.
        answers: what each sample answers, the same for equal answers; None for nothing.
        problems: which problem each is of.
    """
    votes: dict[Hashable, dict[Hashable, list[bool]]] = {}
    for right, answer, problem in zip(correct, answers, problems, strict=True):
        of_problem = votes.setdefault(problem, {})
        if answer is not None:
            of_problem.setdefault(answer, []).append(bool(right))
    found: dict[Hashable, float] = {}
    for problem, of_problem in votes.items():
        groups = [group for group in of_problem.values() if not any(group)]
        groups.append([each for group in of_problem.values() if any(group) for each in group])
        most = max(map(len, groups))
        leading = [group for group in groups if group and len(group) == most]
        rights = [sum(group) / len(group) for group in leading]
        found[problem] = sum(rights) / len(rights) if rights else 0.0
    return found


def votes(rows: list[dict]) -> dict[Hashable, float] | None:
    """maj@k of each problem of scores.jsonl; None with one sample of each, or where none can vote.

    None can where the task wants no box: programs, tasks of lm-eval.
    """
    problems = [row["doc_id"] for row in rows]
    if fewest_samples(problems) < 2 or not all("answer" in row for row in rows):
        return None
    correct, answers = [row["correct"] for row in rows], [row["answer"] for row in rows]
    return majority(correct, answers, problems)
