import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rac.solvers import relative_error, structured


def damped(hessian, damping=0.01):
    """A float64 Hessian of mean diagonal 1 over live columns, damped; dead columns count as 1."""
    hessian = hessian.double().clone()
    dead = hessian.diagonal() == 0
    hessian /= hessian.diagonal()[~dead].mean()
    hessian.diagonal()[dead] = 1
    hessian.diagonal().add_(damping)
    return hessian


def refitted(weight, hessian, mask):
    """The best weights of the kept columns: least squares on a square root of the damped Hessian."""
    root, weight = torch.linalg.cholesky(damped(hessian)).T, weight.double()
    made_up = torch.linalg.lstsq(root[:, mask], root[:, ~mask] @ weight[:, ~mask].T).solution
    return weight[:, mask] + made_up.T


def cost(weight, hessian, mask):
    """What keeping these columns alone, re-fitted, costs on the damped Hessian."""
    weight = weight.double().masked_fill(hessian.diagonal() == 0, 0)
    lost = weight.clone()
    lost[:, mask] -= refitted(weight, hessian, mask)
    return ((lost @ damped(hessian)) * lost).sum().item()


def columns(numbers, units, unit):
    mask = torch.zeros(units, dtype=torch.bool)
    mask[torch.as_tensor(sorted(numbers))] = True
    return mask.repeat_interleave(unit)


def oracle(weight, hessian, unit, keep):
    """The units left when the cheapest goes, one at a time, dead ones first, in float64.

    Nothing is updated: what each removal would cost is a least squares problem of its own.
    """
    units = weight.shape[1] // unit
    dead = (hessian.diagonal() == 0).view(units, unit).all(1)
    left = set(range(units))
    while len(left) > keep:
        costs = {
            number: -1
            if dead[number]
            else cost(weight, hessian, columns(left - {number}, units, unit))
            for number in left
        }
        left.remove(min(costs, key=lambda number: (costs[number], number)))
    return sorted(left)


def problem(rows, columns, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, columns, generator=generator, dtype=torch.float64)
    inputs += inputs.roll(1, 1)
    scale = torch.logspace(-0.5, 0.5, columns, dtype=torch.float64)
    return weight / scale, inputs * scale


@st.composite
def problems(draw):
    """Units of one column or more, one unit, all kept, dead columns and units, few tokens."""
    unit, units = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    size = unit * units
    weight, inputs = problem(
        draw(st.integers(1, 5)), size, draw(st.integers(1, 30)), draw(st.integers(0, 10**6))
    )
    inputs[:, draw(st.lists(st.integers(0, size - 1), max_size=size - 1, unique=True))] = 0
    assume(inputs.any())
    return weight, inputs.T @ inputs, unit, draw(st.integers(1, units))


@settings(max_examples=40)
@given(problems())
def test_against_the_oracle(problem):
    weight, hessian, unit, keep = problem
    kept, fitted, damping = structured.remove(weight, structured.prepare(hessian), unit, keep)
    assert kept.tolist() == oracle(weight, hessian, unit, keep)
    mask = columns(kept, weight.shape[1] // unit, unit)
    torch.testing.assert_close(fitted, refitted(weight, hessian, mask), rtol=1e-7, atol=1e-8)
    assert damping == 0.01


@settings(max_examples=40)
@given(problems())
def test_never_worse_than_dropping_the_same_units_nor_better_than_the_best(problem):
    weight, hessian, unit, keep = problem
    units = weight.shape[1] // unit
    kept, fitted, _ = structured.remove(weight, structured.prepare(hessian), unit, keep)
    mask = columns(kept, units, unit)
    compressed = torch.zeros_like(weight)
    compressed[:, mask] = fitted
    dropped = relative_error(weight, weight * mask, hessian)
    assert relative_error(weight, compressed, hessian) <= dropped * (1 + 1e-9) + 1e-12

    best = min(
        cost(weight, hessian, columns(chosen, units, unit))
        for chosen in itertools.combinations(range(units), keep)
    )
    found = cost(weight, hessian, mask)
    assert found >= best - 1e-9
    if keep >= units - 1:  # with one to remove, greedy is exhaustive
        assert found == pytest.approx(best, abs=1e-9)


def test_all_kept_is_as_it_was():
    weight, inputs = problem(4, 6, 20, 0)
    kept, fitted, _ = structured.remove(weight, structured.prepare(inputs.T @ inputs), 2, 3)
    assert kept.tolist() == [0, 1, 2]
    assert torch.equal(fitted, weight)


def by_inverting(weight, hessian, unit, keep):
    """Optimal brain surgery on units, G inverted anew each time: quick enough for some hundred columns."""
    hessian, weight = damped(hessian), weight.clone()
    left = list(range(weight.shape[1] // unit))
    while len(left) > keep:
        places = [number * unit + i for number in left for i in range(unit)]
        inverse = torch.linalg.inv(hessian[places][:, places])
        costs, updates = [], []
        for i in range(len(left)):
            here = slice(i * unit, (i + 1) * unit)
            own = weight[:, places][:, here]
            updates.append(own @ torch.linalg.solve(inverse[here, here], inverse[here]))
            costs.append((own @ torch.linalg.inv(inverse[here, here]) * own).sum())
        best = torch.stack(costs).argmin().item()
        weight[:, places] -= updates[best]
        left.pop(best)
    return left, weight[:, [number * unit + i for number in left for i in range(unit)]]


@pytest.mark.parametrize(
    ("unit", "keep", "panel"), [(1, 40, 1), (1, 40, 7), (1, 40, 64), (1, 40, 200), (6, 5, 64)]
)
def test_many_removals(monkeypatch, unit, keep, panel):
    weight, inputs = problem(9, 120, 90, 0)
    monkeypatch.setattr(structured, "PANEL", panel)
    hessian = inputs.T @ inputs
    kept, fitted, _ = structured.remove(weight, structured.prepare(hessian), unit, keep)
    expected, weights = by_inverting(weight, hessian, unit, keep)
    assert kept.tolist() == expected
    torch.testing.assert_close(fitted, weights, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("unit", [1, 16])
def test_float32_is_as_good(unit):
    weight, inputs = problem(24, 192, 100, 0)  # fewer tokens than columns
    inputs = inputs.cumsum(1)  # strongly correlated
    hessian, keep = inputs.T @ inputs, 144 // unit
    double = structured.prepare(hessian)
    single = structured.Prepared(
        double.hessian.float(), double.inverse.float(), double.dead, double.damping
    )
    errors = []
    for prepared in (double, single):
        kept, fitted, _ = structured.remove(weight.float(), prepared, unit, keep)
        compressed = torch.zeros_like(weight)
        compressed[:, columns(kept, 192 // unit, unit)] = fitted.double()
        errors.append(relative_error(weight, compressed, hessian))
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


def test_units_without_activations_go_first():
    weight, inputs = problem(3, 6, 20, 0)
    weight[:, :2] = 0  # of no use as they are, but they may make up for others
    inputs[:, 4:] = 0
    prepared = structured.prepare(inputs.T @ inputs)
    assert structured.remove(weight, prepared, 2, 2).kept.tolist() == [0, 1]
    assert structured.remove(weight, prepared, 1, 4).kept.tolist() == [0, 1, 2, 3]
    assert structured.remove(weight, prepared, 1, 5).kept.tolist() == [0, 1, 2, 3, 5]


def test_the_scale_of_the_hessian_does_not_matter():
    weight, inputs = problem(3, 8, 20, 0)
    hessian = inputs.T @ inputs
    one = structured.remove(weight, structured.prepare(hessian), 1, 5)
    other = structured.remove(weight, structured.prepare(hessian * 2**30), 1, 5)
    assert torch.equal(one.kept, other.kept)
    torch.testing.assert_close(one.weight, other.weight)


def test_what_is_given_is_not_changed():
    weight, inputs = problem(3, 8, 20, 0)
    hessian = inputs.T @ inputs
    prepared = structured.prepare(hessian)
    given = [tensor.clone() for tensor in (weight, hessian, prepared.hessian, prepared.inverse)]
    structured.remove(weight, prepared, 1, 5)
    structured.remove(weight, prepared, 2, 2)
    now = (weight, hessian, prepared.hessian, prepared.inverse)
    assert all(map(torch.equal, given, now))


def test_damping_grows_until_the_factorization_succeeds():
    hessian = torch.eye(6) - 1.05 * torch.ones(6, 6) / 6  # its least eigenvalue is -0.05
    prepared = structured.prepare(hessian)
    assert prepared.damping == pytest.approx(0.1)
    assert structured.remove(torch.ones(2, 6), prepared, 1, 4).damping == prepared.damping
    expected = torch.linalg.inv(damped(hessian, prepared.damping))
    torch.testing.assert_close(prepared.inverse, expected)


@pytest.mark.parametrize(
    ("hessian", "message"),
    [
        (torch.eye(4) - torch.ones(4, 4) * 0.9, "not positive semi-definite"),
        (torch.full((4, 4), torch.nan), "not finite"),
        (torch.eye(4).fill_diagonal_(torch.inf), "not finite"),
        (torch.zeros(4, 4), "never had an input"),
    ],
)
def test_a_matrix_that_is_no_hessian_is_refused(hessian, message):
    with pytest.raises(ValueError, match=message):
        structured.prepare(hessian)


@pytest.mark.parametrize("damping", [0, -1, 2])
def test_damping_out_of_range_is_refused(damping):
    with pytest.raises(ValueError, match="damping must be in"):
        structured.prepare(torch.eye(4), damping=damping)


@pytest.mark.parametrize(("unit", "keep"), [(1, 0), (1, 7), (2, 4), (4, 1), (0, 1)])
def test_units_that_cannot_be_kept_are_refused(unit, keep):
    with pytest.raises(ValueError, match="can be kept|do not fill"):
        structured.remove(torch.ones(2, 6), structured.prepare(torch.eye(6)), unit, keep)


def test_a_hessian_of_another_input_is_refused():
    with pytest.raises(ValueError, match="the Hessian has 4"):
        structured.remove(torch.ones(2, 6), structured.prepare(torch.eye(4)), 1, 3)


def test_by_magnitude_keeps_the_units_of_largest_norm():
    weight = torch.tensor([[3.0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]])
    assert structured.by_magnitude(weight, 2, 2).tolist() == [True] * 2 + [False] * 2 + [True] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("unit", [1, 32])
def test_a_gpu_removes_the_same_units(gpu, unit):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1024, 384, generator=generator)
    x[:, 1:] += x[:, :-1]
    weight, hessian = torch.randn(100, 384, generator=generator), x.T @ x
    keep = 384 // unit // 2
    here = structured.remove(weight, structured.prepare(hessian), unit, keep)
    there = structured.remove(weight.to(gpu), structured.prepare(hessian.to(gpu)), unit, keep)
    assert torch.equal(here.kept, there.kept.cpu())
    torch.testing.assert_close(there.weight.cpu(), here.weight, rtol=1e-4, atol=1e-4)
