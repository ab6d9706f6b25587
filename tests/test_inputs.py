import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac import linear, sources
from rac.blocks import walk
from rac.errors import RacError
from rac.inputs import PANEL, add_outer_product, count_tokens, mirror, sum_inputs
from rac.models import checkpoint


@given(
    st.integers(1, 40), st.integers(1, 5 * PANEL["cpu"]), st.sampled_from(["float32", "bfloat16"])
)
def test_the_lower_triangle_of_a_product(rows, columns, dtype):
    generator = torch.Generator().manual_seed(rows * columns)
    first, second = (
        torch.randn(rows, columns, generator=generator).to(getattr(torch, dtype)) for _ in range(2)
    )
    total = torch.zeros(columns, columns)
    add_outer_product(total, first)
    add_outer_product(total, second)
    mirror(total)
    expected = first.double().T @ first.double() + second.double().T @ second.double()
    torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(total, total.T)


def test_only_half_of_the_product_is_computed():
    panel = PANEL["cpu"]
    total = torch.zeros(8 * panel, 8 * panel)
    add_outer_product(total, torch.ones(1, 8 * panel))
    above = 8 * 7 / 2 * panel**2
    assert total.numel() - total.count_nonzero() == above


def all_sums(model, sequences, parts, batch_tokens):
    groups = linear.groups(checkpoint.load_model(model, "float32"))
    sums = {}
    for step in walk(model, "float32", sequences, batch_tokens):
        of_block = [group for group in groups if group["block"] == step.index]
        sums |= sum_inputs(step, of_block, sequences, parts)
    return sums


@pytest.fixture(scope="module")
def sequences(tiny_model, write_sequences, tmp_path_factory):
    file = tmp_path_factory.mktemp("s") / "s"
    return sources.read(write_sequences(file, tiny_model, "traces", [9, 31, 1, 20]))


@pytest.mark.parametrize("batch_tokens", [1, 64, 10**6])
def test_padding_never_enters(tiny_model, sequences, batch_tokens):
    alone = [all_sums(tiny_model, [sequence], ("all",), 1) for sequence in sequences]
    for key, found in all_sums(tiny_model, sequences, ("all",), batch_tokens).items():
        hessian = sum(of_one[key].hessian.double() for of_one in alone)
        torch.testing.assert_close(found.hessian.double(), hessian, rtol=1e-4, atol=1e-4)
        absmax = torch.stack([of_one[key].absmax for of_one in alone]).amax(0)
        torch.testing.assert_close(found.absmax, absmax, rtol=1e-4, atol=1e-4)


def test_parts_add_up(tiny_model, sequences):
    whole = all_sums(tiny_model, sequences, ("all",), 64)
    by_part = all_sums(tiny_model, sequences, ("prompt", "decode"), 64)
    for (name, _), found in whole.items():
        prompt, decode = by_part[name, "prompt"], by_part[name, "decode"]
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(prompt.hessian + decode.hessian, found.hessian, **close)
        assert torch.equal(prompt.absmax.maximum(decode.absmax), found.absmax)
        assert not torch.equal(prompt.hessian, decode.hessian)


def test_tokens_are_counted_by_part(sequences):
    assert count_tokens(sequences, ("text",)) == {"text": 61}
    assert count_tokens(sequences, ("prompt", "decode")) == {"prompt": 20, "decode": 41}


def test_a_pass_that_is_not_kept_changes_nothing(tiny_model, sequences):
    groups = linear.groups(checkpoint.load_model(tiny_model, "float32"))
    expected = all_sums(tiny_model, sequences, ("all",), 64)
    for step in walk(tiny_model, "float32", sequences, 64):
        of_block = [group for group in groups if group["block"] == step.index]
        for _ in range(2):
            sums = sum_inputs(step, of_block, sequences, ("all",), keep=False)
            assert all(torch.equal(x.hessian, expected[key].hessian) for key, x in sums.items())
    assert not any(module._forward_pre_hooks for module in step._walk.network.modules())


def test_a_layer_that_is_not_given_every_token_is_refused(tiny_model, sequences):
    step = next(walk(tiny_model, "float32", sequences, 64))
    plain = step.module.mlp.forward
    step.module.mlp.forward = lambda x: plain(x[:, 1:])
    group = {"name": "model.layers.0.mlp.gate_proj", "columns": 32}
    with pytest.raises(RacError, match="gate_proj is given 60 of 62 tokens"):
        sum_inputs(step, [group], sequences, ("all",))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_of_a_gpu_are_as_exact_as_float32(gpu, dtype):
    """Nearly so of 16 bit numbers: their products are exact, but tensor cores cut sums short."""
    columns = 3 * PANEL["cuda"] + 40
    x = torch.randn(8192, columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    total = torch.zeros(columns, columns, device=gpu)
    add_outer_product(total, x.to(gpu))
    mirror(total)
    expected = x.double().T @ x.double()
    limit = 1e-5 if dtype == torch.float32 else 1e-4
    assert (total.cpu().double() - expected).norm() / expected.norm() < limit
