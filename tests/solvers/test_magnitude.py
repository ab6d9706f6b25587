import pytest
import torch

import rac


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
