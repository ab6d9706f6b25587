"""What holds for every solver."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rac
from rac import solvers

SOLVERS = ("magnitude", "wanda", "sparsegpt", "alps")


def correlated(rows=48, columns=64, tokens=512, seed=0, dtype=torch.float32):
    """A random weight, and the Hessian of inputs that hang together and differ in size."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    sizes = torch.logspace(-1, 1, columns, dtype=torch.float64)
    common = torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mixing
    inputs = common * sizes[torch.randperm(columns, generator=generator)]
    return weight.to(dtype), (inputs.T @ inputs).to(dtype)


def zeros_asked(solver, share, rows, columns, block=128):
    """floor(share × size) over the layer, each row, or each block of columns."""
    if solver in ("magnitude", "alps"):
        return math.floor(share * rows * columns)
    if solver == "wanda":
        return rows * math.floor(share * columns)
    blocks = [min(block, columns - start) for start in range(0, columns, block)]
    return sum(math.floor(share * rows * width) for width in blocks)


@st.composite
def problems(draw):
    """A weight and a Hessian: one row, one column, ties, dead columns, low rank, and the plain."""
    rows, columns, tokens = (draw(st.integers(1, high)) for high in (9, 17, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    weight = torch.randn(rows, columns, generator=generator)
    inputs = torch.randn(tokens, columns, generator=generator)
    match draw(st.sampled_from(("plain", "ties", "zero weight", "dead columns", "huge", "tiny"))):
        case "ties":
            weight, inputs = weight.sign(), torch.ones_like(inputs)
        case "zero weight":
            weight = torch.zeros_like(weight)
        case "dead columns":
            inputs[:, 1::2] = 0
        case "huge":
            inputs *= 1e12
        case "tiny":
            inputs *= 1e-12
    return weight, inputs.T @ inputs


@settings(max_examples=60)
@given(problems(), st.sampled_from(SOLVERS), st.sampled_from((0.1, 0.25, 0.5, 0.75, 0.9)))
def test_counts_are_exact_and_numbers_finite(problem, solver, share):
    weight, hessian = problem
    options = {"block": 5} if solver == "sparsegpt" else {}
    solution = rac.solve(weight, hessian, f"unstructured {share}", solver, **options)
    asked = zeros_asked(solver, share, *weight.shape, **options)
    assert (~solution.mask).sum() == asked
    assert (solution.weight[~solution.mask] == 0).all()
    assert solution.weight.isfinite().all() and solution.weight.dtype == weight.dtype
    assert solution.relative_error >= 0


@settings(max_examples=40)
@given(st.integers(0, 99), st.sampled_from(SOLVERS), st.sampled_from(("1:2", "2:3", "2:4", "4:8")))
def test_n_of_m_in_every_row(seed, solver, pattern):
    n, m = map(int, pattern.split(":"))
    weight, hessian = correlated(rows=5, columns=24, tokens=10, seed=seed)
    solution = rac.solve(weight, hessian, pattern, solver)
    assert (solution.mask.view(5, -1, m).sum(-1) == n).all()
    assert (solution.weight[~solution.mask] == 0).all()


@pytest.mark.parametrize("pattern", ["unstructured 0.5", "2:4"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [2.0**-40, 1e-6, 1e9])
def test_the_scale_of_the_hessian_does_not_matter(solver, pattern, scale):
    weight, hessian = correlated(dtype=torch.float64)
    hessian[:, 5] = hessian[5, :] = 0  # a dead column must not bring a scale of its own
    one, other = (rac.solve(weight, h, pattern, solver) for h in (hessian, hessian * scale))
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-9, atol=1e-9)
    assert one.relative_error == pytest.approx(other.relative_error, rel=1e-9)


@pytest.mark.parametrize("pattern", ["unstructured 0.5", "2:4"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_is_pruned_already_stays_as_it_is(solver, pattern):
    weight, hessian = correlated()
    once = rac.solve(weight, hessian, pattern, solver).weight
    assert torch.equal(rac.solve(once, hessian, pattern, solver).weight, once)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_may_come_in_any_order(solver):
    weight, hessian = correlated()
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(1))
    straight, shuffled = (
        rac.solve(w, hessian, "unstructured 0.5", solver) for w in (weight, weight[order])
    )
    assert torch.equal(straight.mask[order], shuffled.mask)
    torch.testing.assert_close(straight.weight[order], shuffled.weight)


@pytest.mark.parametrize("pattern", ["unstructured 0.5", "2:4"])
@pytest.mark.parametrize("seed", range(3))
def test_each_solver_beats_the_one_before_it(pattern, seed):
    weight, hessian = correlated(seed=seed)
    magnitude, wanda, sparsegpt, alps = (
        rac.solve(weight, hessian, pattern, solver).relative_error for solver in SOLVERS
    )
    assert alps < sparsegpt < wanda < magnitude < 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_same_input_same_bytes_and_input_untouched(solver):
    weight, hessian = correlated()
    before = weight.clone(), hessian.clone()
    one, two = (rac.solve(weight, hessian, "unstructured 0.5", solver) for _ in range(2))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.mask, two.mask)
    assert torch.equal(weight, before[0]) and torch.equal(hessian, before[1])


def test_relative_error_is_that_of_the_outputs():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 12, generator=generator, dtype=torch.float64)
    weight = torch.randn(7, 12, generator=generator, dtype=torch.float64)
    solution = rac.solve(weight, inputs.T @ inputs, "unstructured 0.5")
    before, after = inputs @ weight.T, inputs @ solution.weight.T
    expected = ((before - after).square().sum() / before.square().sum()).item()
    assert solution.relative_error == pytest.approx(expected, rel=1e-12)


def test_relative_error_where_there_is_no_output():
    weight, hessian = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert solvers.relative_error(weight, torch.zeros(1, 2), hessian) == 0
    assert solvers.relative_error(weight, torch.ones(1, 2), hessian) == math.inf


def broken(where, value):
    weight, hessian = torch.ones(3, 4), torch.eye(4)
    (weight if where == "weight" else hessian)[1, 1] = value
    return weight, hessian


@pytest.mark.parametrize(
    ("weight", "hessian", "pattern", "solver", "message"),
    [
        (torch.ones(3, 4), torch.eye(4), "2:3", "wanda", "multiples of 3, not 4"),
        (torch.ones(3, 4), torch.eye(4), "0.5", "wanda", "neither 'unstructured S'"),
        (torch.ones(3, 4), torch.eye(4), "2:4", "wand", "known: alps, magnitude, sparsegpt, wanda"),
        (torch.ones(3, 4), torch.eye(5), "2:4", "wanda", r"Hessian must be \[4, 4\]"),
        (torch.ones(4), torch.eye(4), "2:4", "wanda", r"weight must be \[out, in\]"),
        (torch.ones(0, 4), torch.eye(4), "2:4", "wanda", "not empty"),
        (torch.ones(3, 4).half(), torch.eye(4), "2:4", "wanda", "weight must be float32"),
        (torch.ones(3, 4), torch.eye(4).bfloat16(), "2:4", "wanda", "Hessian must be float32"),
        (*broken("weight", math.nan), "2:4", "magnitude", "weight holds numbers"),
        (*broken("hessian", math.inf), "2:4", "wanda", "Hessian holds numbers"),
        (*broken("hessian", -1.0), "2:4", "sparsegpt", "negative diagonal"),
        (torch.ones(3, 4), torch.zeros(4, 4), "2:4", "wanda", "never had an input"),
        (torch.ones(3, 4), torch.ones(4, 4).triu(), "2:4", "sparsegpt", "not symmetric"),
    ],
)
def test_wrong_input_is_refused(weight, hessian, pattern, solver, message):
    with pytest.raises(ValueError, match=message):
        rac.solve(weight, hessian, pattern, solver)


def test_unknown_options_and_missing_hessians_are_refused():
    with pytest.raises(TypeError, match="solver 'sparsegpt' has no option dampin"):
        rac.solve(torch.ones(3, 4), torch.eye(4), "2:4", dampin=0.1)
    with pytest.raises(TypeError, match="solver 'wanda' has no option block"):
        solvers.prepare(torch.eye(4), "wanda", block=3)
    with pytest.raises(ValueError, match="solver 'wanda' needs a Hessian"):
        solvers.prepare(None, "wanda")
    with pytest.raises(ValueError, match="solver 'wanda' needs a Hessian"):
        solvers.prune(torch.ones(3, 4), None, "2:4", "wanda")
    with pytest.raises(ValueError, match=r"the Hessian must be \[in, in\]"):
        solvers.prepare(torch.ones(4, 3), "wanda")
    with pytest.raises(ValueError, match=r"Hessian is \[5, 5\], but the weight has 4 columns"):
        solvers.prune(torch.ones(3, 4), solvers.prepare(torch.eye(5), "alps"), "2:4", "alps")


def test_options_are_those_of_the_functions():
    assert solvers.options_of("sparsegpt") == ["damping", "block"]
    assert solvers.options_of("alps") == solvers.options_of("gptq") == ["damping"]
    assert solvers.options_of("wanda") == solvers.options_of("magnitude") == []


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_hessian_is_prepared_once_for_all_patterns_and_layers(solver):
    _, hessian = correlated()
    options = {name: 0.02 for name in solvers.options_of(solver) if name == "damping"}
    prepared = solvers.prepare(hessian if solver != "magnitude" else None, solver, **options)
    for pattern, seed in (("unstructured 0.5", 0), ("unstructured 0.7", 1), ("2:4", 2)):
        weight, _ = correlated(seed=seed)
        shared = solvers.prune(weight, prepared, pattern, solver, **options)
        alone = rac.solve(weight, hessian, pattern, solver, **options)
        assert torch.equal(shared.weight, alone.weight) and torch.equal(shared.mask, alone.mask)
        assert shared.damping == options.get("damping")


@pytest.mark.parametrize("solver", SOLVERS)
def test_several_weights_are_solved_as_each_alone(solver):
    weight, hessian = correlated()
    other, _ = correlated(seed=1)
    names = ["unstructured 0.5", "unstructured 0.7", "unstructured 0.25"]
    prepared = solvers.prepare(hessian if solver != "magnitude" else None, solver)
    given_weights = [weight, other[:5], weight]
    together = solvers.prune_all(given_weights, prepared, names, solver)
    for one, dense, pattern in zip(together, given_weights, names, strict=True):
        alone = rac.solve(dense, hessian, pattern, solver)
        assert torch.equal(one.mask, alone.mask)
        torch.testing.assert_close(one.weight, alone.weight, rtol=1e-4, atol=1e-5)
        assert one.weight.untyped_storage().nbytes() == one.weight.nbytes  # none holds all


def test_batches_keep_the_order_and_are_no_larger_than_together(monkeypatch):
    monkeypatch.setattr(solvers, "TOGETHER", 10)
    sizes = {"q": 4, "k": 2, "v": 2, "o": 3, "gate": 20, "up": 1}
    assert solvers.batches(sizes) == [["q", "k", "v"], ["o"], ["gate"], ["up"]]
    assert solvers.batches({}) == []


def test_rounding_does_not_make_a_hessian_asymmetric():
    weight, hessian = correlated()
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) * 1e-6
    noisy = hessian * (1 + noise)
    clean, found = (rac.solve(weight, h, "2:4") for h in (hessian, noisy))
    assert found.relative_error == pytest.approx(clean.relative_error, rel=1e-2)


@pytest.mark.parametrize("columns", [1, 7, 512, 700, 2049])
def test_energy_is_the_trace(columns):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, columns, generator=generator)
    inputs = torch.randn(30, columns, generator=generator)
    hessian = inputs.T @ inputs
    expected = (weight.double() @ hessian.double() * weight.double()).sum().item()
    assert solvers.energy(weight, hessian) == pytest.approx(
        expected, rel=1e-12 if columns <= 2048 else 1e-5
    )


def test_energy_of_huge_and_tiny_numbers():
    weight, hessian = torch.ones(2, 3000), torch.eye(3000)
    for scale in (1e-30, 1e36):
        assert solvers.energy(weight, hessian * scale) == pytest.approx(6000 * scale, rel=1e-5)
    assert solvers.energy(weight, torch.zeros(3000, 3000)) == 0


def test_lost_share_is_the_relative_error():
    weight, hessian = correlated()
    dense = solvers.energy(weight, hessian)
    for pattern in ("2:4", "unstructured 0.7"):
        solution = rac.solve(weight, hessian, pattern)
        share = solvers.lost_share(weight, solution.weight, hessian, dense)
        assert share == solution.relative_error


# ---- on a GPU: the same sums in another order, and Triton's kernel in the place of the loop


@pytest.mark.gpu
@pytest.mark.parametrize("pattern", ["unstructured 0.5", "2:4"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gpu_finds_the_same_zeros(gpu, solver, pattern):
    weight, hessian = correlated(rows=600, columns=384, tokens=1024)
    here = rac.solve(weight, hessian, pattern, solver)
    there = rac.solve(weight.to(gpu), hessian.to(gpu), pattern, solver)
    assert there.weight.device.type == "cuda"
    assert (here.mask == there.mask.cpu()).float().mean() > 0.999
    assert there.relative_error == pytest.approx(here.relative_error, rel=2e-3)
    kept = here.mask & there.mask.cpu()
    far = (here.weight - there.weight.cpu())[kept].norm() / here.weight[kept].norm()
    assert far < 0.02
