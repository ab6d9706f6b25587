import pytest
import torch

import rac


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
