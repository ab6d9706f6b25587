import copy
import json

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rac.models import checkpoint, quantized, weights
from rac.solvers import gptq, grids
from rac.solvers.grids import Grid, Quantized

GROUP = 16
E4M3 = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)


def random_codes(grid, rows, columns, generator):
    if grid.kind == "float":
        numbers = E4M3[~E4M3.float().isnan()]
        return numbers[torch.randint(len(numbers), (rows, columns), generator=generator)]
    low, high = int(grid.lowest), int(grid.highest) + 1
    return torch.randint(low, high, (rows, columns), generator=generator).to(torch.int8)


def unpack(packed, columns):
    """Eight 4-bit numbers an int32, the lowest bits first, each 8 too large."""
    bits = packed[:, :, None].long() >> torch.arange(0, 32, 4) & 15
    return (bits.flatten(1)[:, :columns] - 8).to(torch.int8)


def codes_in(stored, name, scheme, columns):
    if scheme == "w4a16":
        return unpack(stored[f"{name}.weight_packed"], columns)
    return stored[f"{name}.weight"]


@given(
    st.sampled_from(sorted(quantized.SCHEMES)),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(1, 5),
    st.integers(1, 3),
    st.sampled_from([4, 8, 32]),
    st.floats(-60, 40),
    st.integers(0, 99),
)
def test_codes_and_scales_are_stored_as_they_are(
    scheme, dtype, rows, groups, group, exponent, seed
):
    generator = torch.Generator().manual_seed(seed)
    grid = quantized.grid(scheme, group)
    codes = random_codes(grid, rows, groups * group, generator)
    scales = torch.rand(rows, groups if grid.group else 1, generator=generator) * 2.0**exponent
    scales = scales.to(dtype).clamp_(torch.finfo(dtype).tiny, torch.finfo(dtype).max)

    stored = quantized.tensors("a.b", Quantized(codes, scales), scheme)

    assert torch.equal(stored["a.b.weight_scale"], scales)
    read = codes_in(stored, "a.b", scheme, codes.shape[1])
    assert read.dtype == codes.dtype
    assert torch.equal(read.float(), codes.float())
    if scheme == "w4a16":
        assert stored["a.b.weight_shape"].tolist() == list(codes.shape)


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        ("w4a16", {"weight_packed", "weight_scale", "weight_shape"}),
        ("w8a8", {"weight", "weight_scale"}),
        ("fp8", {"weight", "weight_scale"}),
    ],
)
def test_only_what_vllm_has_a_place_for_is_stored(scheme, names):
    weight = torch.randn(8, 32)
    rounded = gptq.round_to_nearest(weight, quantized.grid(scheme, GROUP), torch.bfloat16)
    stored = quantized.tensors("layer", rounded, scheme)
    assert set(stored) == {f"layer.{name}" for name in names}
    assert all(tensor.is_contiguous() for tensor in stored.values())


def test_grids():
    assert quantized.grid("w4a16", 64) == Grid("int", 4, 64)
    assert quantized.grid("w8a8", 64) == Grid("int", 8, None)
    assert quantized.grid("fp8", 64) == Grid("float", 8, None)


@pytest.mark.parametrize("scheme", quantized.SCHEMES)
def test_configuration_is_plain_and_says_what_was_asked(scheme):
    values = quantized.quantization_config(scheme, 64, ["lm_head", "a.b"])
    assert json.loads(json.dumps(values)) == values
    assert values["quant_method"] == "compressed-tensors"
    assert values["quantization_status"] == "compressed"
    assert values["ignore"] == ["lm_head", "a.b"]
    assert "sparsity_config" not in values
    (group,) = values["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert group["weights"]["group_size"] == (64 if scheme == "w4a16" else None)
    assert (group["input_activations"] is None) == (scheme == "w4a16")
    assert QuantizationConfig.model_validate(values).model_dump(mode="json") == values


def test_a_group_size_does_not_outlive_its_configuration():
    quantized.quantization_config("w4a16", 32, [])
    (group,) = quantized.quantization_config("w4a16", 128, [])["config_groups"].values()
    assert group["weights"]["group_size"] == 128


# ---- in stock transformers


def quantize_folder(dense, folder, scheme, dtype, keep=("lm_head",)):
    """Round all linear layers but `keep`; return what each of them should be, in float32."""
    located = weights.locate(dense)
    groups = json.loads((dense / "model.json").read_text())["linear_groups"]
    layers = [name for group in groups for name in group["layers"]]
    ignore = [name for name in layers if name in keep]
    grid, replaced, exact = quantized.grid(scheme, GROUP), {}, {}
    for name in sorted(set(layers) - set(ignore)):
        weight = weights.read(located[f"{name}.weight"], f"{name}.weight").float()
        rounded = gptq.round_to_nearest(weight, grid, dtype)
        replaced[f"{name}.weight"] = quantized.tensors(name, rounded, scheme)
        exact[name] = grids.dequantize(rounded, grid)
    folder.mkdir()
    weights.rewrite(dense, folder, [replaced])
    config = json.loads((dense / "config.json").read_text())
    config["quantization_config"] = quantized.quantization_config(scheme, GROUP, ignore)
    (folder / "config.json").write_text(json.dumps(config))
    return exact


def per_token(x, grid):
    """Activations as W8A8 and FP8_DYNAMIC round them: a scale a token, spread over the range."""
    scales = x.abs().amax(-1, keepdim=True) / ((grid.highest - grid.lowest) / 2)
    scaled = (x / scales).clamp(grid.lowest, grid.highest)
    rounded = scaled.round() if grid.kind == "int" else scaled.to(torch.float8_e4m3fn).float()
    return rounded * scales


def simulate(dense, exact, scheme):
    """The dense model with the exact weights, its layers' inputs rounded as the scheme has it."""
    model = copy.deepcopy(checkpoint.load_model(dense, "float32"))
    grid = quantized.grid(scheme, GROUP)
    for name, weight in exact.items():
        layer = model.get_submodule(name)
        layer.weight.data.copy_(weight)
        if scheme != "w4a16":
            layer.register_forward_pre_hook(lambda _, args: (per_token(args[0], grid),))
    return model


TOKENS = torch.randint(3, 700, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def untied(random_qwen2, save_model, tmp_path_factory):
    """A random model whose output embedding has a weight of its own."""
    folder = tmp_path_factory.mktemp("models") / "untied"
    return save_model(random_qwen2(tie_word_embeddings=False), folder)


MLP = tuple(f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down"))


@pytest.mark.parametrize("scheme", quantized.SCHEMES)
@pytest.mark.parametrize("keep", [("lm_head",), (*MLP, "lm_head")])
def test_transformers_computes_with_codes_times_scales(untied, tmp_path, scheme, keep):
    exact = quantize_folder(untied, tmp_path / "quantized", scheme, torch.float32, keep)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized")  # as anybody would
    expected = simulate(untied, exact, scheme)
    dense = checkpoint.load_model(untied, "float32")
    with torch.inference_mode():
        logits, simulated, apart = (model(TOKENS).logits for model in (loaded, expected, dense))
    assert (logits - apart).abs().max() > 0.02  # so that the next line can fail
    torch.testing.assert_close(logits, simulated, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("scheme", quantized.SCHEMES)
def test_in_bfloat16_transformers_rounds_the_products_to_it(
    random_qwen2, save_model, tmp_path, scheme
):
    dense = save_model(random_qwen2(tie_word_embeddings=False).bfloat16(), tmp_path / "dense")
    exact = quantize_folder(dense, tmp_path / "quantized", scheme, torch.bfloat16)
    loaded = checkpoint.load_model(tmp_path / "quantized", "bfloat16")
    with torch.inference_mode():
        assert loaded.model(TOKENS).last_hidden_state.isfinite().all()  # from the first call on
    for name, weight in exact.items():
        assert torch.equal(loaded.get_submodule(name).weight, weight.bfloat16())
    assert loaded.lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("scheme", "bits"), [("w4a16", 4 + 32 / GROUP), ("w8a8", 8), ("fp8", 8)])
def test_a_quantized_checkpoint_is_smaller(tiny_model, tmp_path, scheme, bits):
    exact = quantize_folder(tiny_model, tmp_path / "quantized", scheme, torch.float32)
    saved = (tiny_model / "model.safetensors").stat().st_size
    saved -= (tmp_path / "quantized" / "model.safetensors").stat().st_size
    count = sum(weight.numel() for weight in exact.values())
    overhead = sum(4 * len(weight) + 300 for weight in exact.values())  # scales a row, the header
    assert count * (32 - bits) / 8 - overhead < saved <= count * (32 - bits) / 8
