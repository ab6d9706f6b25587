import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac import linear, smooth

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 9))
SEEDS = st.integers(0, 999)


def random(shape, seed, spread=2.0):
    """Numbers of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x = x * 10 ** (spread * torch.randn(shape[-1:], generator=generator))
    return x.masked_fill(torch.rand(shape[-1:], generator=generator) < 0.1, 0)


def oracle(absmax, weights, strength):
    """Equation 4, a column at a time."""
    result = []
    for j, x in enumerate(absmax.double().tolist()):
        w = max(abs(entry) for weight in weights for entry in weight[:, j].double().tolist())
        factor = x**strength / w ** (1 - strength) if x and w else 1
        result.append(min(max(factor, 1e-5), 1e5))
    return torch.tensor(result)


@given(SIZES, SEEDS, st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
def test_factors_are_those_of_the_paper(sizes, seed, strength):
    rows, layers, columns = sizes
    weights = [random((rows, columns), seed + i) for i in range(layers)]
    absmax = random((5, columns), seed + 100).abs().amax(0)
    found = smooth.factors(absmax, weights, strength)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, oracle(absmax, weights, strength).float(), rtol=1e-5, atol=0)


def test_half_strength_gives_activations_and_weights_the_same_range():
    x, weight = random((50, 8), 1) + 1e-3, random((4, 8), 2) + 1e-3
    factors = smooth.factors(x.abs().amax(0), [weight], 0.5)
    torch.testing.assert_close(
        (x / factors).abs().amax(0), smooth.smooth_weight(weight, factors).abs().amax(0)
    )


class Norm(torch.nn.Module):
    """weight ⊙ x / ‖x‖ + bias."""

    def __init__(self, columns, seed):
        super().__init__()
        self.weight = torch.nn.Parameter(random((columns,), seed, 0.5))
        self.bias = torch.nn.Parameter(random((columns,), seed + 1, 0.5))

    def forward(self, x):
        return self.weight * torch.nn.functional.normalize(x, dim=-1) + self.bias


@given(SIZES, SEEDS)
def test_norm_and_layers_together_compute_the_same(sizes, seed):
    rows, layers, columns = sizes
    norm = Norm(columns, seed)
    weights = [random((rows, columns), seed + 2 + i) for i in range(layers)]
    x = random((7, columns), seed + 50)
    with torch.no_grad():
        before = norm(x)
        parts = (before - norm.bias).abs() + norm.bias.abs()  # which may cancel
        wanted = smooth.factors(before.abs().amax(0), weights)
        smoothed, factors = smooth.smooth_norm(dict(norm.named_parameters()), "weight", wanted)
        kept = norm.weight != 0
        torch.testing.assert_close(factors[kept], wanted[kept], rtol=1e-5, atol=0)
        norm.load_state_dict(smoothed)
        after = norm(x)
        torch.testing.assert_close(after * factors, before, rtol=1e-4, atol=1e-6)
        for weight in weights:
            products = parts @ weight.abs().T  # what rounding is measured by
            apart = after @ smooth.smooth_weight(weight, factors).T - before @ weight.T
            assert (apart.abs() <= 1e-5 * products + 1e-30).all()


@given(st.integers(1, 9), SEEDS, st.sampled_from([torch.bfloat16, torch.float16]))
def test_what_rounds_away_in_the_norm_is_in_the_factors(columns, seed, dtype):
    """Half as many bits in the norm's weight, and still W S · x S⁻¹ is W x to float32."""
    weight = (random((columns,), seed, 0.3) + 0.01).to(dtype)
    wanted = 10 ** torch.randn(columns, generator=torch.Generator().manual_seed(seed))
    smoothed, factors = smooth.smooth_norm({"norm.weight": weight}, "norm.weight", wanted)
    assert smoothed["norm.weight"].dtype == dtype
    torch.testing.assert_close(
        smoothed["norm.weight"].float() * factors, weight.float(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(factors, wanted, rtol=2**-7, atol=0)


def test_a_norm_that_underflows_keeps_its_weight():
    weight = torch.tensor([6e-8, 0.0, 1.0], dtype=torch.float16)
    smoothed, factors = smooth.smooth_norm({"w": weight}, "w", torch.tensor([1e3, 5.0, 4.0]))
    assert smoothed["w"].tolist() == [weight[0].item(), 0.0, 0.25]
    assert factors.tolist() == [1.0, 1.0, 4.0]


@given(st.integers(1, 8), st.integers(1, 20), SEEDS)
def test_hessian_is_that_of_the_divided_activations(columns, tokens, seed):
    x = random((tokens, columns), seed, 1.0).double()
    factors = 10 ** torch.randn(columns, generator=torch.Generator().manual_seed(seed))
    divided = x / factors
    hessian = x.T @ x
    found = smooth.smooth_hessian((hessian + hessian.T) / 2, factors)
    expected = divided.T @ divided
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * expected.max().item())
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_logits_of_a_model_stay_as_they_were(random_qwen2, kind):
    """Every group that a norm feeds is smoothed, by the names that model.json would give."""
    dtype = getattr(torch, kind)
    model = random_qwen2(tie_word_embeddings=False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator) + 0.1)
    model = model.to(dtype).float()  # weights that the dtype holds
    smoothed = copy.deepcopy(model)
    groups = [group for group in linear.groups(model) if group["norm"]]
    assert len(groups) == 5  # attention and MLP of two blocks, and the output embedding
    for i, group in enumerate(groups):
        layers = [smoothed.get_submodule(name) for name in group["layers"]]
        absmax = 10 * torch.rand(group["columns"], generator=torch.Generator().manual_seed(i))
        wanted = smooth.factors(absmax, [layer.weight for layer in layers])
        norm = smoothed.get_submodule(group["norm"])
        stored = {"weight": norm.weight.data.to(dtype)}
        tensors, factors = smooth.smooth_norm(stored, "weight", wanted)
        norm.weight.data.copy_(tensors["weight"])
        for layer in layers:
            layer.weight.data = smooth.smooth_weight(layer.weight.data, factors)
    tokens = torch.randint(3, 700, (2, 20), generator=generator)
    with torch.inference_mode():
        expected, found = model(tokens).logits, smoothed(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert not torch.equal(smoothed.model.norm.weight, model.model.norm.weight)


def test_smoothing_lets_eight_bits_hold_outliers():
    """The paper's point: with outlier columns, rounded activations lose less after smoothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 64, generator=generator)
    x[:, ::16] *= 100
    weight = torch.randn(32, 64, generator=generator)

    def rounded(matrix):
        scale = matrix.abs().amax(-1, keepdim=True) / 127.5
        return (matrix / scale).round() * scale

    def error(x, weight):
        exact = x @ weight.T
        return ((rounded(x) @ rounded(weight).T - exact).norm() / exact.norm()).item()

    factors = smooth.factors(x.abs().amax(0), [weight], 0.5)
    assert error(x / factors, smooth.smooth_weight(weight, factors)) < error(x, weight) / 2
