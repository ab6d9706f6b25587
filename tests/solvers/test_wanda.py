from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rac


def oracle(weight, inputs, pattern):
    """|W| ‖x‖ row by row in float64, from the inputs themselves."""
    norms = inputs.double().square().sum(0).sqrt()
    columns = weight.shape[1]
    kept, of = map(int, pattern.split(":")) if ":" in pattern else (0, columns)
    count = of - kept if kept else int(Fraction(pattern.split()[1]) * columns)
    mask = torch.ones(weight.shape, dtype=torch.bool)
    for row in range(len(weight)):
        scores = (weight[row].double().abs() * norms).tolist()
        for start in range(0, columns, of):
            for column in sorted(range(start, start + of), key=scores.__getitem__)[:count]:
                mask[row, column] = False
    return mask


@given(
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 20),
    st.sampled_from(["unstructured 0.1", "unstructured 0.29", "unstructured 0.5", "2:4", "1:4"]),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_against_rows_from_the_inputs(rows, groups, tokens, pattern, seed, dead):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 4 * groups, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, 4 * groups, generator=generator, dtype=torch.float64)
    inputs *= torch.rand(4 * groups, generator=generator, dtype=torch.float64).mul(9).exp()
    if dead:
        inputs[:, 0] = 0
    solution = rac.solve(weight, inputs.T @ inputs, pattern, "wanda")
    assert torch.equal(solution.mask, oracle(weight, inputs, pattern))
    assert torch.equal(solution.weight, weight * solution.mask)


@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop_over_rows(seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(30, 11, generator=generator) * torch.logspace(-2, 2, 11)
    weight = torch.randn(7, 11, generator=generator)
    solution = rac.solve(weight, inputs.T @ inputs, "unstructured 0.5", "wanda")
    for row, mask in zip(weight, solution.mask, strict=True):
        scores = [(row[j].abs() * inputs[:, j].norm()).item() for j in range(11)]
        pruned = sorted(sorted(range(11), key=scores.__getitem__)[:5])  # floor(0.5 × 11)
        assert (~mask).nonzero().flatten().tolist() == pruned
    assert torch.equal(solution.weight, weight * solution.mask)


def test_input_that_is_never_active_goes_first():
    weight = torch.tensor([[100.0, 1.0, 2.0, 3.0]])
    hessian = torch.tensor([0.0, 1.0, 1.0, 1.0]).diag()
    solution = rac.solve(weight, hessian, "unstructured 0.25", "wanda")
    assert solution.weight.tolist() == [[0, 1, 2, 3]]
    assert solution.relative_error == 0
