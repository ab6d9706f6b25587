import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rac.evaluate.statistics import (
    clustered_mean,
    detectable,
    differences,
    holm,
    majority,
    p_value,
    paired_difference,
    quantile,
    share_interval,
)


def paired(a, problems_a, b, problems_b, **options):
    """The paired difference of two lists of samples."""
    return paired_difference(differences(a, problems_a, b, problems_b), **options)


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
    assert paired([1, 0], "ab", [0, 1], "ba") == (0, 0, 0, 0)
    difference, *rest = paired([1], "a", [0], "a")
    assert difference == 1 and all(math.isnan(value) for value in rest)
    with pytest.raises(ValueError, match="1 are only in the first, 2 only in the second"):
        paired([1, 0], "ab", [0, 1, 1], "bcd")
    with pytest.raises(ValueError):
        clustered_mean([1, 2], ["a"])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30))
def test_one_sample_a_problem_is_the_plain_standard_error(values):
    mean, se = clustered_mean(values, range(len(values)))
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert se == pytest.approx(stats.sem(values), abs=1e-9)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values, share):
    assert quantile(values, share) == pytest.approx(np.quantile(values, share))


@given(st.floats(0, 1), st.integers(2, 50))
def test_equal_problems_have_no_error_whatever_rounding_does(value, n):
    assert clustered_mean([value] * n, range(n)) == (value, 0)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=30))
def test_the_paired_interval_is_that_of_scipy(pairs):
    a, b = np.array(pairs).T
    problems = range(len(pairs))
    order = np.argsort(b, kind="stable")
    result = paired(a, problems, b[order], order)
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
        result = paired(pruned.ravel(), problems, dense.ravel(), problems)
        covered += result.low <= -0.3 * 0.5 <= result.high  # E[easy] = 1/2
        mean, se = clustered_mean(dense.ravel(), problems)
        means.append(mean)
        errors.append(se)
    # A 95 % interval misses 30 of 600; three standard deviations of that count are 16.
    assert abs(covered - 0.95 * benchmarks) < 18
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    unclustered = math.sqrt(0.25 / (count * samples))
    assert np.mean(errors) > 1.3 * unclustered  # samples of one problem are not independent


@given(st.integers(4, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_one_sample_a_problem_is_wilson_s_interval(counted):
    n, right = counted
    level = 1 - 2 * stats.norm.sf(stats.t.isf(0.025, n - 1))  # whose normal quantile is Student's
    expected = stats.binomtest(right, n).proportion_ci(level, method="wilson")
    share = right / n
    low, high = share_interval(share, math.sqrt(share * (1 - share) / n), n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(2, 1000), st.integers(0, 1000), st.floats(0.1, 1))
def test_a_share_lies_in_its_interval_whose_ends_at_none_and_all_are_exact(n, right, together):
    share = min(right, n) / n
    low, high = share_interval(share, math.sqrt(share * (1 - share) / n) / together, n)
    assert 0 <= low <= share <= high <= 1
    assert share_interval(0.0, 0.0, n)[0] == 0
    assert share_interval(1.0, 0.0, n)[1] == 1


def coverage(interval, truth, draw, rounds=1000, seed=0):
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(rounds):
        low, high = interval(draw(generator))
        hits += low <= truth <= high
    return hits / rounds


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("mean", [0.05, 0.3, 0.8])
def test_intervals_of_accuracy_cover_at_their_rate(n, samples, mean):
    """Problems of unlike difficulty (beta), so that samples of one hang together."""

    def draw(generator):
        chances = generator.beta(mean * 2, (1 - mean) * 2, n)
        return generator.random((n, samples)) < chances[:, None]

    def interval(verdicts):
        problems = np.repeat(np.arange(n), samples)
        share, se = clustered_mean(verdicts.ravel(), problems)
        return share_interval(share, se, n)

    # Of 95 %: least where few problems are ever solved; ten verdicts leave few intervals, and wide ones.
    ceiling = 0.995 if n * samples == 10 else 0.98
    assert 0.9 <= coverage(interval, mean, draw) <= ceiling


@pytest.mark.parametrize("n", [15, 60])
@pytest.mark.parametrize(
    ("both", "gained", "lost", "ceiling"),
    [
        (0.5, 0.2, 0.1, 0.98),
        (0.0, 0.9, 0.0, 0.995),
        (0.97, 0, 0.01, 1),
    ],  # the last: few ever differ
)
def test_intervals_of_paired_differences_cover_at_their_rate(n, both, gained, lost, ceiling):
    def draw(generator):
        kind = generator.choice(4, n, p=[both, gained, lost, 1 - both - gained - lost])
        return np.isin(kind, (0, 1)), np.isin(kind, (0, 2))

    def interval(pair):
        found = paired(pair[0], range(n), pair[1], range(n), samples=1)
        return found.low, found.high

    assert 0.93 <= coverage(interval, gained - lost, draw) <= ceiling


def two_cells(generator, n, samples, kept=1.0, mean=0.5):
    """Differences of two cells over n problems, easy or hard for both; the first solves a share `kept`."""
    easy = generator.beta(2 * mean, 2 * (1 - mean), n)
    ours, theirs = (generator.binomial(samples, share) / samples for share in (kept * easy, easy))
    return list(ours - theirs)


@pytest.mark.parametrize("n", [30, 60])
@pytest.mark.parametrize("samples", [1, 4, 16])
@pytest.mark.parametrize(("mean", "kept"), [(0.5, 0.7), (0.5, 1.0), (0.8, 0.9)])
def test_paired_intervals_of_several_samples_cover_at_their_rate(n, samples, mean, kept):
    def interval(each):
        found = paired_difference(each, samples)
        return found.low, found.high

    def draw(generator):
        return two_cells(generator, n, samples, kept, mean)

    assert 0.93 <= coverage(interval, (kept - 1) * mean, draw, 2000) <= 0.975


def test_paired_intervals_of_several_samples_are_as_narrow_as_their_error():
    """What Student's interval needs, and not two whole problems more."""
    generator = np.random.default_rng(0)
    for n, samples in ((30, 4), (30, 16), (100, 16)):
        tables = [two_cells(generator, n, samples) for _ in range(300)]
        widths = [
            [found.high - found.low for found in map(by, tables)]
            for by in (lambda each: paired_difference(each, samples), paired_difference)  # noqa: B023
        ]
        ours, students = map(np.mean, widths)
        assert 0.98 <= ours / students <= 1.06


def test_equal_shares_have_an_interval_with_width():
    found = paired([1] * 9, range(9), [1] * 9, range(9), samples=1)
    assert found.difference == found.se == 0
    assert found.low == -found.high == pytest.approx(-1.959964 / 11)
    extreme = paired([1] * 9, range(9), [0] * 9, range(9), samples=1)
    assert 0.5 < extreme.low < extreme.high <= 1


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=40))
def test_p_is_that_of_the_exact_test_of_single_samples(each):
    gained, lost = each.count(1.0), each.count(-1.0)
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert p_value(each) == pytest.approx(expected)


def test_p_of_several_samples_is_about_that_of_flipping_signs():
    generator = np.random.default_rng(0)
    each = generator.choice([-0.5, 0, 0.25, 0.5, 1], 60)
    flips = generator.choice([-1, 1], (20_000, 60))
    expected = np.mean(np.abs(flips @ each) >= abs(each.sum()) - 1e-9)
    assert p_value(each) == pytest.approx(expected, abs=0.01)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[i] * (len(p_values) - rank) > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


@pytest.mark.parametrize("samples", [1, 4, 16])
def test_the_detectable_difference_is_found_four_times_of_five(samples):
    """Of tables whose true difference is just what the statistic says of them."""
    generator, n, rounds, kept = np.random.default_rng(0), 120, 2000, 1.0
    for _ in range(6):  # to the share that is kept where the two agree
        tables = [two_cells(generator, n, samples, kept) for _ in range(300)]
        kept = 1 - np.mean([detectable(each, samples) for each in tables]) / 0.5
    tables = [two_cells(generator, n, samples, kept) for _ in range(rounds)]
    reach = np.mean([detectable(each, samples) for each in tables])
    assert reach == pytest.approx(0.5 * (1 - kept), rel=0.03)
    found = np.mean([paired_difference(each, samples).high < 0 for each in tables])
    assert 0.77 <= found <= 0.83


def test_the_detectable_difference_is_the_textbooks():
    each = [1.0] * 32 + [-1.0] * 8 + [0.0] * 160
    # 2.80 standard errors of the mean of 200 values of −1, 0 and 1, and two halves more.
    variance = (41 - 24**2 / 202) / 202
    assert detectable(each, 1) == pytest.approx(2.80159 * math.sqrt(variance / 202), rel=1e-4)


@pytest.mark.parametrize(("samples", "least"), [(1, 0.015), (4, 0.038), (16, 0.038)])
def test_p_of_equals_is_small_at_its_rate(samples, least):
    """At most 5 % of tables of equals; the exact test of single samples has less, as it counts."""
    generator = np.random.default_rng(0)
    p_values = [p_value(two_cells(generator, 50, samples)) for _ in range(3000)]
    for level in (0.05, 0.2):
        # Three standard deviations of the count above the level.
        highest = level + 3 * math.sqrt(level * (1 - level) / 3000)
        assert least * level / 0.05 <= np.mean(np.array(p_values) <= level) <= highest


@pytest.mark.parametrize("samples", [1, 8])
def test_holm_errs_in_one_table_of_twenty(samples):
    """Four equal calibrations compared in pairs: any p below 5 % is an error, and one is too many."""
    generator, rounds = np.random.default_rng(0), 1000
    alone, adjusted = 0, 0
    for _ in range(rounds):
        easy = generator.beta(0.8, 0.8, 60)
        cells = [generator.binomial(samples, easy) / samples for _ in range(4)]
        p_values = [p_value(list(a - b)) for a, b in itertools.combinations(cells, 2)]
        alone += min(p_values) <= 0.05
        adjusted += min(holm(p_values)) <= 0.05
    assert adjusted / rounds <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / rounds)
    assert alone / rounds > 0.1  # what it is for


def test_equals_do_not_make_every_difference_detectable():
    """Of 100 problems that nobody solves: 2.8 standard errors of a mean of 102 with two of a half."""
    assert detectable([0] * 100, 1) == pytest.approx((1.959964 + 0.841621) / 102)
    assert detectable([0] * 400, 1) < 0.3 * detectable([0] * 100, 1)
    assert math.isnan(detectable([1], 1))
    assert math.isnan(detectable([0.5, -0.5], 4))  # no difference of shares is above 1


def test_the_majority_decides_and_ties_are_drawn():
    votes = [
        ("a", "7", True), ("a", "7", True), ("a", "8", False),
        ("b", "1", True), ("b", "2", False),
        ("c", None, False), ("c", None, False), ("c", "5", True),
        ("d", None, False),
    ]  # fmt: skip
    problems, answers, correct = zip(*votes, strict=True)
    assert majority(correct, answers, problems) == {"a": 1.0, "b": 0.5, "c": 1.0, "d": 0.0}


def test_right_answers_vote_together_however_they_are_written():
    votes = [("1/2", True), ("2/4", True), ("7", False), ("7", False), ("8", False)]
    answers, correct = zip(*votes, strict=True)
    assert majority(correct, answers, "aaaaa") == {"a": 0.5}
    assert majority(correct, answers, "aaabb") == {"a": 1.0, "b": 0.0}
    # One comparison of three met its time limit: the text is right where it was judged so.
    assert majority([1, 0, 1], ["x", "x", "y"], "aaa") == {"a": pytest.approx(2 / 3)}
