from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rac
from rac.solvers import columns, gptq, grids, prepare
from rac.solvers.grids import Grid
from rac.solvers.patterns import parse

SMALL = {"AHEAD": 16, "BLOCK": 8, "INNER": (4, 2)}
W8, FP8 = Grid("int", 8, None), Grid("float", 8, None)


def to_grid(weight, scale, grid):
    scaled = (weight / scale).clamp(grid.lowest, grid.highest)
    return (
        scaled.round() if grid.kind == "int" else scaled.to(torch.float8_e4m3fn)
    ).double() * scale


def oracle(weight, hessian, grid, *, shape=None, mask=None, pattern=None, block=128, damping=0.01):
    """The published loop: updates with the Cholesky factor of the inverse Hessian, one by one, float64.

    `shape` is the weight that scales are of; a pattern is pruned jointly, in the columns' own order.
    """
    weight, hessian, rows = weight.clone(), hessian.clone(), len(weight)
    dead = hessian.diagonal() == 0
    weight[:, dead] = 0
    order = (-hessian.diagonal()).argsort(stable=True)
    if pattern is not None:
        order = torch.arange(len(hessian))
    hessian.diagonal()[dead] = hessian.diagonal()[~dead].mean()
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian[order][:, order]), upper=True)
    keep = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.clone()
    importance = torch.empty(len(hessian), dtype=torch.float64)
    importance[order] = upper.diagonal() ** -2
    shape = (weight if shape is None else shape) * keep
    scales = grids.scales_of(shape, grid, torch.bfloat16, importance).double()
    for i, j in enumerate(order.tolist()):
        if pattern is not None and i % (pattern.group if pattern.group > 1 else block) == 0:
            at = slice(i, i + (pattern.group if pattern.group > 1 else block))
            scores = (weight[:, at] / upper.diagonal()[at]).T  # a column in each row
            flat = scores.abs().T if pattern.group > 1 else scores.abs().reshape(1, -1)
            count = int(pattern.sparsity * flat.shape[1])
            chosen = torch.zeros_like(flat, dtype=torch.bool)
            chosen.scatter_(1, flat.argsort(dim=1, stable=True)[:, :count], True)
            keep[:, at] = ~(chosen if pattern.group > 1 else chosen.view(-1, rows).T)
        settled = to_grid(weight[:, j], scales[:, j // (grid.group or len(hessian))], grid)
        settled *= keep[:, j]
        error = (weight[:, j] - settled) / upper[i, i]
        weight[:, order[i:]] -= torch.outer(error, upper[i, i:])
        weight[:, j] = settled
    return weight, keep


@st.composite
def problems(draw, multiple=1):
    """Float64: one row, one column, dead columns, zero weights, fewer tokens than columns."""
    rows, count, tokens = draw(st.integers(1, 7)), draw(st.integers(1, 8)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    count *= multiple
    weight = torch.randn(rows, count, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, count, generator=generator, dtype=torch.float64)
    inputs += inputs.roll(1, 1)
    inputs *= torch.logspace(-1, 1, count, dtype=torch.float64)
    if draw(st.booleans()):
        weight[torch.rand(weight.shape, generator=generator) < 0.4] = 0
    if count > 1 and draw(st.booleans()):
        inputs[:, draw(st.integers(0, count - 1))] = 0
    return weight, inputs.T @ inputs


@settings(max_examples=60)
@given(problems(multiple=6), st.sampled_from((Grid("int", 4, 3), Grid("int", 4, 6), W8, FP8)))
def test_against_the_published_loop(problem, grid):
    weight, hessian = problem
    with mock.patch.multiple(columns, **SMALL):
        found, mask, damping = gptq.quantize(weight, gptq.prepare(hessian), grid, torch.bfloat16)
    expected, _ = oracle(weight, hessian, grid)
    torch.testing.assert_close(grids.dequantize(found, grid), expected.float(), rtol=1e-6, atol=0)
    assert mask is None and damping == 0.01


@settings(max_examples=60)
@given(
    problems(multiple=4),
    st.sampled_from((Grid("int", 4, 4), W8, FP8)),
    st.sampled_from(("unstructured 0.5", "2:4")),
)
def test_prune_then_quantize_against_the_published_loop(problem, grid, pattern):
    weight, hessian = problem
    pruned = rac.solve(weight, hessian, pattern)
    with mock.patch.multiple(columns, **SMALL):
        found, mask, _ = gptq.quantize(
            pruned.weight, gptq.prepare(hessian), grid, torch.bfloat16, mask=pruned.mask
        )
    expected, _ = oracle(pruned.weight, hessian, grid, mask=pruned.mask)
    torch.testing.assert_close(grids.dequantize(found, grid), expected.float(), rtol=1e-6, atol=0)
    assert not found.codes.float()[~pruned.mask].any() and torch.equal(mask, pruned.mask)


@settings(max_examples=60)
@given(
    problems(multiple=12),
    st.sampled_from((Grid("int", 4, 4), Grid("int", 4, 6), W8, FP8)),
    st.sampled_from(("unstructured 0.5", "unstructured 0.3", "2:4", "1:3")),
    st.integers(1, 30),
)
def test_joint_against_the_published_loop(problem, grid, pattern, block):
    weight, hessian = problem
    factor = prepare(hessian, "sparsegpt")
    with mock.patch.multiple(columns, **SMALL):
        found, mask, _ = gptq.quantize(
            weight, factor, grid, torch.bfloat16, pattern=parse(pattern), block=block
        )
    alone = rac.solve(weight, hessian, pattern, block=block).weight
    expected, kept = oracle(weight, hessian, grid, shape=alone, pattern=parse(pattern), block=block)
    assert torch.equal(mask, kept)
    torch.testing.assert_close(grids.dequantize(found, grid), expected.float(), rtol=1e-6, atol=0)
    assert not found.codes.float()[~mask].any()


@settings(max_examples=60)
@given(
    problems(multiple=4),
    st.lists(st.integers(1, 5), max_size=3),
    st.sampled_from((Grid("int", 4, 4), W8, FP8)),
    st.sampled_from(("alone", "masks", "patterns")),
)
def test_several_weights_in_one_loop_against_the_published_one(problem, heights, grid, kind):
    weight, hessian = problem
    generator, count = torch.Generator().manual_seed(0), weight.shape[1]
    weights = [
        torch.randn(rows, count, generator=generator, dtype=torch.float64) for rows in heights
    ]
    weights.append(weight)
    names = ["2:4", "1:4", "3:4", "2:4"][: len(weights)]
    pruned = [rac.solve(one, hessian, name) for one, name in zip(weights, names, strict=True)]
    factor = prepare(hessian, "sparsegpt" if kind == "patterns" else "gptq")
    asked: list[dict] = [{} for _ in weights]
    given_weights, arguments = weights, {}
    if kind == "masks":
        given_weights = [one.weight for one in pruned]
        arguments = {"masks": [one.mask for one in pruned]}
        asked = [{"mask": one.mask} for one in pruned]
    if kind == "patterns":
        arguments = {"patterns": [parse(name) for name in names]}
        asked = [
            {"shape": one.weight, "pattern": parse(name), "block": 128}
            for one, name in zip(pruned, names, strict=True)
        ]
    found = gptq.quantize_all(given_weights, factor, grid, torch.bfloat16, **arguments)
    for one, dense, how in zip(found, given_weights, asked, strict=True):
        expected, kept = oracle(dense, hessian, grid, **how)
        numbers = grids.dequantize(one.quantized, grid)
        torch.testing.assert_close(numbers, expected.float(), rtol=1e-6, atol=0)
        assert one.mask is None if kind == "alone" else torch.equal(one.mask, how.get("mask", kept))


def correlated(tokens=512, rows=48, count=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, count, generator=generator)
    mixing = torch.randn(count, count, generator=generator)
    inputs = torch.randn(tokens, count, generator=generator) @ mixing
    inputs *= torch.logspace(-1, 1, count)[torch.randperm(count, generator=generator)]
    return weight, inputs.T @ inputs


def error_of(weight, quantized, hessian, grid):
    return rac.solvers.relative_error(weight, grids.dequantize(quantized, grid), hessian)


@pytest.mark.parametrize("grid", [Grid("int", 4, 16), W8, FP8])
@pytest.mark.parametrize("tokens", [20, 512])  # fewer than columns, and more
def test_loses_less_than_rounding_to_nearest(grid, tokens):
    weight, hessian = correlated(tokens)
    found, _, _ = gptq.quantize(weight, gptq.prepare(hessian), grid, torch.bfloat16)
    floor = gptq.round_to_nearest(weight, grid, torch.bfloat16)
    ours, theirs = (error_of(weight, q, hessian, grid) for q in (found, floor))
    assert ours < 0.5 * theirs


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_activations_lowers_the_error(seed):
    weight, hessian = correlated(seed=seed)
    grid = Grid("int", 4, 16)
    ordered, plain = (
        error_of(weight, gptq.quantize(weight, factor, grid, torch.bfloat16)[0], hessian, grid)
        for factor in (prepare(hessian, "gptq"), prepare(hessian, "sparsegpt"))
    )
    assert ordered < 0.9 * plain


@pytest.mark.parametrize("pattern", ["unstructured 0.5", "2:4"])
def test_jointly_loses_less_than_one_after_the_other(pattern):
    grid, jointly, after = Grid("int", 4, 16), 0.0, 0.0
    for seed in range(4):
        weight, hessian = correlated(seed=seed)
        factor = prepare(hessian, "sparsegpt")
        found, _, _ = gptq.quantize(
            weight, factor, grid, torch.bfloat16, pattern=parse(pattern), block=16
        )
        jointly += error_of(weight, found, hessian, grid)
        pruned = rac.solve(weight, hessian, pattern, block=16)
        found, _, _ = gptq.quantize(pruned.weight, factor, grid, torch.bfloat16, mask=pruned.mask)
        after += error_of(weight, found, hessian, grid)
    assert jointly < after


@pytest.mark.parametrize("grid", [Grid("int", 4, 16), FP8])
def test_same_input_same_bytes_and_input_untouched(grid):
    weight, hessian = correlated()
    before = weight.clone(), hessian.clone()
    one, two = (
        gptq.quantize(weight, gptq.prepare(hessian), grid, torch.bfloat16)[0] for _ in range(2)
    )
    assert torch.equal(one.codes.view(torch.uint8), two.codes.view(torch.uint8))
    assert torch.equal(one.scales, two.scales)
    assert torch.equal(weight, before[0]) and torch.equal(hessian, before[1])


@pytest.mark.parametrize("grid", [Grid("int", 4, 16), W8, FP8])
def test_float32_is_close_to_float64(grid):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 192, generator=generator).cumsum(1)  # strongly correlated
    weight, hessian = torch.randn(24, 192, generator=generator), inputs.T @ inputs
    single, double = (
        error_of(
            weight,
            gptq.quantize(weight.to(dtype), gptq.prepare(hessian.to(dtype)), grid, torch.bfloat16)[
                0
            ],
            hessian,
            grid,
        )
        for dtype in (torch.float32, torch.float64)
    )
    assert single == pytest.approx(double, rel=0.02)


def test_dead_columns_and_rows_of_zeros():
    weight, hessian = correlated()
    hessian[5] = hessian[:, 5] = 0
    weight[7] = 0
    found, _, _ = gptq.quantize(weight, gptq.prepare(hessian), Grid("int", 4, 16), torch.float16)
    assert not found.codes[:, 5].any() and not found.codes[7].any()
    assert found.scales.isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.full((4, 8), torch.nan)}, "weight holds numbers"),
        ({"weight": torch.ones(4, 8).bfloat16()}, "weight must be float32 or float64"),
        ({"weight": torch.ones(4, 6)}, r"Hessian is \[8, 8\], but the weight has 6"),
        ({"weight": torch.ones(0, 8)}, "not empty"),
        ({"mask": torch.ones(4, 7).bool()}, r"mask must be boolean \[4, 8\]"),
        ({"mask": torch.ones(4, 8)}, r"mask must be boolean \[4, 8\]"),
        ({"grid": Grid("int", 4, 3)}, "groups of 3 columns do not divide the weight's 8 columns"),
        ({"pattern": parse("2:4")}, "a pattern needs columns in their order"),
        ({"pattern": parse("2:4"), "mask": torch.ones(4, 8).bool()}, "not both"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"weight": torch.ones(4, 8), "grid": Grid("int", 4, 4)} | change
    with pytest.raises(ValueError, match=message):
        gptq.quantize(factor=gptq.prepare(torch.eye(8)), scale_dtype=torch.bfloat16, **arguments)
