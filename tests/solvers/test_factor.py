import pytest
import torch

from rac.solvers.factor import factorize


def hessian_of(tokens=50, columns=20, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, columns, generator=generator, dtype=torch.float64)
    return (inputs.T @ inputs).to(dtype)


def test_it_is_the_cholesky_factor_of_the_inverse_undone():
    hessian = hessian_of()
    factor = factorize(hessian, 0.01)
    scale = hessian.diagonal().mean()
    damped = hessian / scale + 0.01 * torch.eye(20, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)  # U of the papers
    torch.testing.assert_close(factor.pivots, 1 / upper.diagonal())
    along = upper / upper.diagonal()[:, None]
    torch.testing.assert_close(torch.linalg.inv(factor.spread), along.T)
    root = factor.spread * factor.pivots[:, None]
    torch.testing.assert_close(root.T @ root, damped)  # R Rᵀ
    assert factor.damping == 0.01 and factor.order is None and not factor.dead.any()


def test_fewer_tokens_than_columns_need_no_more_damping():
    assert factorize(hessian_of(tokens=5, columns=64, dtype=torch.float32), 0.01).damping == 0.01


def test_damping_grows_until_the_factorization_succeeds():
    hessian = torch.eye(6) - 1.05 * torch.ones(6, 6) / 6  # its least eigenvalue is -0.05
    factor = factorize(hessian, 0.01)
    assert factor.damping == pytest.approx(0.1)
    assert factor.spread.isfinite().all()


def test_no_damping_is_enough_for_what_is_no_hessian():
    with pytest.raises(ValueError, match="not positive semi-definite"):
        factorize(torch.eye(4) - torch.ones(4, 4) * 0.9, 0.01)


@pytest.mark.parametrize("damping", [0, -1, 2, float("nan")])
def test_damping_out_of_range_is_refused(damping):
    with pytest.raises(ValueError, match="damping must be in"):
        factorize(torch.eye(4), damping)


def test_a_column_without_activation_stands_alone():
    hessian = hessian_of(columns=6)
    hessian[2] = hessian[:, 2] = 0
    hessian[2, 4] = hessian[4, 2] = (
        1e-30  # its squares were too small for a number, not its products
    )
    factor = factorize(hessian, 0.01)
    assert factor.dead.nonzero().flatten().tolist() == [2]
    expected = torch.eye(6, dtype=torch.float64)[2]
    assert torch.equal(factor.spread[2], expected) and torch.equal(factor.spread[:, 2], expected)
    weight = torch.ones(2, 6)
    assert factor.alive(weight)[:, 2].tolist() == [0, 0] and weight.all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_does_not_matter_even_where_a_sum_would_not_fit(scale):
    hessian = hessian_of(columns=2000, tokens=10, dtype=torch.float32)[:40, :40]
    one, other = factorize(hessian, 0.01), factorize(hessian * scale, 0.01)
    torch.testing.assert_close(one.spread, other.spread)
    torch.testing.assert_close(one.pivots, other.pivots)


def test_the_hessian_is_left_as_it_is():
    hessian = hessian_of(dtype=torch.float32)
    hessian[3] = hessian[:, 3] = 0
    before = hessian.clone()
    assert factorize(hessian, 0.01).spread.dtype == torch.float32
    assert torch.equal(hessian, before)
