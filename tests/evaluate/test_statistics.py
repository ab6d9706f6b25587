import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rac.evaluate.statistics import clustered_mean, paired_difference


def test_samples_are_averaged_before_problems():
    # a: 1 of 1, b: 0 of 3. Over samples it would be 1/4; over problems it is 1/2.
    mean, se = clustered_mean([1, 0, 0, 0], ["a", "b", "b", "b"])
    assert mean == 0.5
    assert se == pytest.approx(math.sqrt(0.5) / math.sqrt(2))  # sd(1, 0) = √½


def test_edge_cases():
    assert clustered_mean([1, 1, 1], "abc") == (1, 0)
    mean, se = clustered_mean([1, 0], ["a", "a"])
    assert mean == 0.5 and math.isnan(se)
    assert all(math.isnan(value) for value in clustered_mean([], []))
    assert paired_difference([1, 0], "ab", [0, 1], "ba") == (0, 0, 0, 0)
    difference, *rest = paired_difference([1], "a", [0], "a")
    assert difference == 1 and all(math.isnan(value) for value in rest)
    with pytest.raises(ValueError, match="1 are only in the first, 2 only in the second"):
        paired_difference([1, 0], "ab", [0, 1, 1], "bcd")
    with pytest.raises(ValueError):
        clustered_mean([1, 2], ["a"])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_one_sample_a_problem_is_the_plain_standard_error(values):
    mean, se = clustered_mean(values, range(len(values)))
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert se == pytest.approx(stats.sem(values), abs=1e-9)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=30))
def test_the_paired_interval_is_that_of_scipy(pairs):
    a, b = np.array(pairs).T
    problems = range(len(pairs))
    order = np.argsort(b, kind="stable")
    result = paired_difference(a, problems, b[order], order)
    assert result.difference == pytest.approx(np.mean(a - b), abs=1e-9)
    if result.se > 1e-6:
        low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
        assert (result.low, result.high) == pytest.approx((low, high), abs=1e-7)


def test_intervals_cover_at_about_their_rate():
    """600 benchmarks of 60 problems with 4 samples; problems are hard or easy for both models."""
    rng = np.random.default_rng(0)
    benchmarks, count, samples = 600, 60, 4
    problems = np.repeat(np.arange(count), samples)
    covered, errors, means = 0, [], []
    for _ in range(benchmarks):
        easy = rng.beta(0.8, 0.8, count)
        dense = rng.random((count, samples)) < easy[:, None]
        pruned = rng.random((count, samples)) < 0.7 * easy[:, None]
        result = paired_difference(pruned.ravel(), problems, dense.ravel(), problems)
        covered += result.low <= -0.3 * 0.5 <= result.high  # E[easy] = 1/2
        mean, se = clustered_mean(dense.ravel(), problems)
        means.append(mean)
        errors.append(se)
    # A 95 % interval misses 30 of 600; three standard deviations of that count are 16.
    assert abs(covered - 0.95 * benchmarks) < 18
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    unclustered = math.sqrt(0.25 / (count * samples))
    assert np.mean(errors) > 1.3 * unclustered  # samples of one problem are not independent
