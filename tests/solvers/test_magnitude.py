from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rac


def oracle(weight, pattern):
    """One number after the other, in float64: of equals the first goes first."""
    mask = torch.ones(weight.shape, dtype=torch.bool)
    rows, columns = weight.shape
    if ":" in pattern:
        kept, of = map(int, pattern.split(":"))
        sets = [
            ([(row, start + i) for i in range(of)], of - kept)
            for row in range(rows)
            for start in range(0, columns, of)
        ]
    else:
        places = [(row, column) for row in range(rows) for column in range(columns)]
        sets = [(places, int(Fraction(pattern.split()[1]) * len(places)))]
    for places, count in sets:
        for place in sorted(places, key=lambda at: abs(weight[at].double().item()))[:count]:
            mask[place] = False
    return mask


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(["unstructured 0.1", "unstructured 0.29", "unstructured 0.5", "2:4", "1:4"]),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_against_one_number_after_the_other(rows, groups, pattern, seed, ties):
    weight = torch.randn(rows, 4 * groups, generator=torch.Generator().manual_seed(seed))
    weight = weight.round() if ties else weight
    solution = rac.solve(weight, torch.eye(4 * groups), pattern, "magnitude")
    expected = oracle(weight, pattern)
    lost = [weight[~mask].double().abs().sum().item() for mask in (solution.mask, expected)]
    assert solution.mask.sum() == expected.sum() and lost[0] == lost[1]
    assert ties or torch.equal(solution.mask, expected)
    assert torch.equal(solution.weight, weight * solution.mask)


def test_unstructured_is_over_the_whole_layer():
    weight = torch.tensor([[1.0, -2.0, 3.0], [40.0, -50.0, 60.0]])
    solution = rac.solve(weight, torch.eye(3), "unstructured 0.5", "magnitude")
    assert solution.weight.tolist() == [[0, 0, 0], [40, -50, 60]]
    assert solution.relative_error == pytest.approx(14 / (14 + 1600 + 2500 + 3600))


def test_n_of_m_is_within_each_group():
    weight = torch.tensor([[1.0, -2.0, 30.0, -40.0]])
    solution = rac.solve(weight, torch.eye(4), "1:2", "magnitude")
    assert solution.weight.tolist() == [[0, -2, 0, -40]]


def test_the_hessian_does_not_matter():
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    one, other = (
        rac.solve(weight, hessian, "unstructured 0.3", "magnitude").weight
        for hessian in (torch.eye(8), torch.arange(1.0, 9).diag())
    )
    assert torch.equal(one, other)
