import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rac
from rac import solvers


def oracle(weight, hessian, pattern, damping=0.01, block=128):
    """Optimal brain surgery column by column: no Cholesky factor, no blocks of updates, float64.

    When a column is pruned, the weights right of it move by the inverse of what remains of the
    Hessian, inverted anew each time (arXiv 2301.00774, eq. 3 and 4).
    """
    weight, hessian = weight.double().clone(), hessian.double().clone()
    rows, columns = weight.shape
    dead = hessian.diagonal() == 0
    weight[:, dead] = 0
    hessian.diagonal()[dead] = hessian.diagonal()[~dead].mean()
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    pivots = torch.stack([inverse[0, 0] for inverse in inverses])
    mask = torch.ones_like(weight, dtype=torch.bool)
    n, m = map(int, pattern.split(":")) if ":" in pattern else (0, block)
    for j in range(columns):
        if j % m == 0:
            chosen = slice(j, min(j + m, columns))
            scores = weight[:, chosen] ** 2 / pivots[chosen]
            if n:
                order = scores.argsort(dim=1, stable=True)
                mask[:, chosen] = torch.ones_like(scores, dtype=torch.bool).scatter(
                    1, order[:, : m - n], False
                )
            else:
                count = int(float(pattern.split()[1]) * scores.numel())
                order = scores.T.flatten().argsort(stable=True)[:count]
                flat = torch.ones(scores.numel(), dtype=torch.bool)
                flat[order] = False
                mask[:, chosen] = flat.view(-1, rows).T
        pruned = torch.where(mask[:, j], 0.0, weight[:, j])
        weight[:, j:] -= torch.outer(pruned, inverses[j][0] / inverses[j][0, 0])
    return weight * mask, mask


@st.composite
def problems(draw, columns):
    """Float64 problems with one row, dead columns, and fewer tokens than columns."""
    rows, tokens = draw(st.integers(1, 7)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, columns, generator=generator, dtype=torch.float64)
    inputs += inputs.roll(1, 1)
    if columns > 1 and draw(st.booleans()):
        inputs[:, draw(st.integers(0, columns - 1))] = 0
    return weight, inputs.T @ inputs


@settings(max_examples=40)
@given(st.data(), st.integers(1, 23), st.sampled_from((0.25, 0.5, 0.75)), st.integers(1, 25))
def test_unstructured_against_the_oracle(data, columns, share, block):
    weight, hessian = data.draw(problems(columns))
    pattern = f"unstructured {share}"
    solution = rac.solve(weight, hessian, pattern, block=block)
    expected, mask = oracle(weight, hessian, pattern, block=block)
    assert torch.equal(solution.mask, mask)
    torch.testing.assert_close(solution.weight, expected, rtol=1e-7, atol=1e-8)


@settings(max_examples=40)
@given(
    st.data(),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from((0, 1, 2))), min_size=1, max_size=5),
    st.sampled_from((("1:4", "2:4", "3:4"), tuple(f"unstructured {s}" for s in (0.2, 0.5, 0.8)))),
    st.integers(1, 25),
)
def test_several_weights_and_patterns_in_one_loop_against_the_oracle(
    data, groups, asked, patterns, block
):
    weight, hessian = data.draw(problems(4 * groups))
    generator = torch.Generator().manual_seed(0)
    given_weights = [
        torch.randn(rows, 4 * groups, generator=generator, dtype=torch.float64) for rows, _ in asked
    ]
    given_weights[-1] = weight
    names = [patterns[which] for _, which in asked]
    factor = solvers.prepare(hessian, "sparsegpt")
    solved = solvers.prune_all(given_weights, factor, names, "sparsegpt", block=block)
    assert len(solved) == len(asked)
    for one, dense, pattern in zip(solved, given_weights, names, strict=True):
        expected, mask = oracle(dense, hessian, pattern, block=block)
        assert torch.equal(one.mask, mask) and one.damping == 0.01
        torch.testing.assert_close(one.weight, expected, rtol=1e-7, atol=1e-8)


def test_patterns_of_other_groups_need_a_loop_of_their_own():
    weights, factor = [torch.ones(3, 8)] * 2, solvers.prepare(torch.eye(8), "sparsegpt")
    with pytest.raises(ValueError, match=r"groups of \[1, 4\] columns go in loops of their own"):
        solvers.prune_all(weights, factor, ["unstructured 0.5", "2:4"], "sparsegpt")


@settings(max_examples=40)
@given(
    st.data(),
    st.integers(1, 4),
    st.sampled_from(("1:2", "1:3", "2:4", "5:8")),
    st.integers(1, 30),
    st.sampled_from((0.001, 0.1)),
)
def test_n_of_m_against_the_oracle_whatever_the_block(data, groups, pattern, block, damping):
    weight, hessian = data.draw(problems(groups * int(pattern[-1])))
    solution = rac.solve(weight, hessian, pattern, block=block, damping=damping)
    expected, mask = oracle(weight, hessian, pattern, damping)
    assert torch.equal(solution.mask, mask)
    torch.testing.assert_close(solution.weight, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("pattern", ["unstructured 0.5", "2:4"])
def test_float32_is_close_to_the_oracle(pattern):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 192, generator=generator).cumsum(1)  # strongly correlated
    weight = torch.randn(24, 192, generator=generator)
    solution = rac.solve(weight, inputs.T @ inputs, pattern)
    expected, mask = oracle(weight, inputs.T @ inputs, pattern)
    assert (solution.mask != mask).float().mean() < 0.002  # near ties may fall the other way
    error = rac.solve(weight.double(), (inputs.T @ inputs).double(), pattern).relative_error
    assert solution.relative_error == pytest.approx(error, rel=0.01)


def test_fewer_tokens_than_columns():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 64, generator=generator)
    weight, hessian = torch.randn(8, 64, generator=generator), inputs.T @ inputs
    magnitude = rac.solve(weight, hessian, "2:4", "magnitude").relative_error
    assert rac.solve(weight, hessian, "2:4").relative_error < 0.2 * magnitude


def test_columns_without_activations_are_zeroed():
    weight, hessian = torch.ones(2, 4), torch.tensor([1.0, 0.0, 1.0, 1.0]).diag()
    solution = rac.solve(weight, hessian, "unstructured 0.25")
    assert solution.weight.tolist() == [[1, 0, 1, 1]] * 2
    assert solution.mask.tolist() == [[True, False, True, True]] * 2


def test_a_matrix_that_is_no_hessian_is_refused():
    with pytest.raises(ValueError, match="not positive semi-definite"):
        rac.solve(torch.ones(2, 4), torch.eye(4) - torch.ones(4, 4) * 0.9, "2:4")


@pytest.mark.parametrize(
    ("option", "value"), [("damping", 0), ("damping", -1), ("damping", 2), ("block", 0)]
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be"):
        rac.solve(torch.ones(2, 4), torch.eye(4), "2:4", **{option: value})
