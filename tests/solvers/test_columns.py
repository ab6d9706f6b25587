from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac.solvers import columns
from rac.solvers.columns import Settling
from rac.solvers.factor import factorize
from rac.solvers.grids import Grid

# Small slices, so that small problems have all kinds of them.
SMALL = {"AHEAD": 16, "BLOCK": 8, "INNER": (4, 2)}


def published(weight, hessian, settle, damping=0.01):
    """Plain column by column updates with the Cholesky factor of the inverse Hessian, float64."""
    damped = hessian / hessian.diagonal().mean() + damping * torch.eye(len(hessian))
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    weight = weight.clone()
    for j in range(weight.shape[1]):
        settled = settle(j, weight[:, j])
        error = (weight[:, j] - settled) / upper[j, j]
        weight[:, j:] -= torch.outer(error, upper[j, j:])
        weight[:, j] = settled
    return weight


def problem(rows, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, count, generator=generator, dtype=torch.float64)
    inputs = torch.randn(count // 2 + 3, count, generator=generator, dtype=torch.float64)
    inputs += inputs.roll(1, 1)
    return weight, inputs.T @ inputs


def swept(weight, hessian, begin):
    """Round to halves, all columns."""
    scales = torch.full((1, len(weight)), 0.5, dtype=weight.dtype)
    settling = Settling(None, scales, [0] * weight.shape[1], Grid("int", 8, None))
    lost = columns.transposed(weight)
    parts = list(columns.sweep(lost, factorize(hessian, 0.01).spread, settling, begin))
    assert [here.start for here, _ in parts[1:]] == [here.stop for here, _ in parts[:-1]]
    solved = torch.cat([part for _, part in parts]).T
    torch.testing.assert_close(lost.T, weight - solved)
    return solved


@given(st.integers(1, 5), st.integers(1, 70), st.integers(0, 999))
def test_against_the_published_loop(rows, count, seed):
    weight, hessian = problem(rows, count, seed)
    with mock.patch.multiple(columns, **SMALL):
        solved = swept(weight, hessian, {})
    expected = published(weight, hessian, lambda j, column: (column * 2).round() / 2)
    assert torch.equal(solved, expected)


def test_slices_of_the_real_widths():
    count = columns.AHEAD + 2 * columns.BLOCK + 5
    weight, hessian = problem(3, count)
    expected = published(weight, hessian, lambda j, column: (column * 2).round() / 2)
    assert torch.equal(swept(weight, hessian, {}), expected)


@pytest.mark.parametrize(
    "widths", [(1,), (3,), (5,), (8,), (11,), (40,), (1, 3), (2, 6), (3, 24), (16, 4)]
)
@pytest.mark.parametrize("count", [1, 7, 24, 61])
def test_begin_sees_every_slice_once_as_the_columns_before_leave_it(widths, count):
    weight, hessian = problem(2, count)
    seen = {width: {} for width in widths}

    def note(width):
        def begin(here, part):
            assert len(part) == here.stop - here.start
            seen[width][here.start] = part.clone()

        return begin

    with mock.patch.multiple(columns, **SMALL):
        swept(weight, hessian, {width: note(width) for width in widths})

    for width in widths:
        assert list(seen[width]) == list(range(0, count, width))
        for start, part in seen[width].items():
            # Columns from `start` on are not settled: rounding leaves them as they are.
            settle = lambda j, w, start=start: (w * 2).round() / 2 if j < start else w  # noqa: E731
            expected = published(weight, hessian, settle)[:, start : start + width]
            torch.testing.assert_close(part.T, expected)


@given(st.integers(1, 70), st.integers(1, 5))
def test_transposed(rows, count):
    matrix = torch.rand(rows, count)
    result = columns.transposed(matrix)
    assert torch.equal(result, matrix.T) and result.is_contiguous()
