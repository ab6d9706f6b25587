import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac import owl


def test_scores_are_weights_times_norms():
    x = torch.tensor([[3.0, 0.0], [4.0, 2.0]])
    weight = torch.tensor([[-1.0, 1.0], [2.0, -3.0]])
    scores = owl.wanda_scores(weight, x.T @ x)
    assert torch.allclose(scores, torch.tensor([[5.0, 2.0], [10.0, 6.0]]))


@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    times=st.floats(0.5, 8),
    seed=st.integers(0, 99),
)
def test_outlier_ratio_counts_over_all_layers_of_a_block(sizes, times, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randn(size, generator=generator).exp() for size in sizes]
    together = [score for of_layer in scores for score in of_layer.double().tolist()]
    threshold = times * math.fsum(together) / len(together)
    expected = sum(score > threshold for score in together) / len(together)
    assert owl.outlier_ratio(scores, times) == expected


@pytest.mark.parametrize(
    "scores", [[], [torch.tensor([1.0, math.inf])], [torch.tensor([math.nan])]]
)
def test_scores_must_be_there_and_finite(scores):
    with pytest.raises(ValueError, match="finite"):
        owl.outlier_ratio(scores)


def _published(ratios, target, spread):
    """The formula of the published code, where blocks are of one size."""
    low, high = min(ratios), max(ratios)
    scaled = [(ratio - low) / (high - low) * spread * 2 for ratio in ratios]
    mean = sum(scaled) / len(scaled)
    return [1 - (one - mean + 1 - target) for one in scaled]


def test_owl_is_the_published_formula_where_sizes_are_equal():
    ratios = [0.031, 0.012, 0.0194, 0.0071]
    shares = owl.owl(ratios, [1000] * 4, 0.7)
    assert [float(s) for s in shares] == pytest.approx(_published(ratios, 0.7, 0.08))


@given(
    blocks=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**9)), min_size=1, max_size=8),
    target=st.decimals("0.01", "0.99", places=2).map(float),
    spread=st.floats(0.001, 0.5),
)
def test_owl_keeps_the_total_the_range_and_the_order(blocks, target, spread):
    ratios, sizes = zip(*blocks, strict=True)
    shares = owl.owl(ratios, sizes, target, spread)
    zeros = sum(share * size for share, size in zip(shares, sizes, strict=True))
    assert zeros == Fraction(str(target)) * sum(sizes)
    assert all(0 < float(share) < 1 for share in shares)
    assert max(shares) - min(shares) <= 2 * Fraction(str(spread))
    ranked = sorted(zip(ratios, shares, strict=True))
    assert all(b[1] <= a[1] for a, b in itertools.pairwise(ranked))


def test_equal_ratios_are_the_target_everywhere():
    assert owl.owl([0.02, 0.02], [10, 30], 0.6) == [Fraction(3, 5)] * 2


@pytest.mark.parametrize(
    ("ratios", "sizes", "target"), [([0.1], [1, 2], 0.5), ([], [], 0.5), ([0.1], [1], 1.0)]
)
def test_owl_refuses_what_does_not_fit(ratios, sizes, target):
    with pytest.raises(ValueError, match="blocks|share"):
        owl.owl(ratios, sizes, target)
