import json

import pytest
import torch
from safetensors.torch import save_file

from rac.models import checkpoint, narrow, weights
from rac.models.narrow import Widths
from rac.solvers import structured

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
KINDS = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "mistral": {"sliding_window": None},
}


def build(kind):
    """A random model whose biases and norms are random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE, **KINDS[kind]))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, std=0.3).data.add_("norm" in name)
    return model.eval()


def run_with_hessians(model, token_ids):
    """Hessians of every linear layer's input, by its name."""
    hessians, handles = {}, []
    for name, layer in model.model.named_modules(prefix="model"):
        if isinstance(layer, torch.nn.Linear):

            def remember(_, inputs, name=name):
                flat = inputs[0].flatten(0, 1)
                hessians[name] = flat.T @ flat

            handles.append(layer.register_forward_pre_hook(remember))
    with torch.inference_mode():
        model(token_ids)
    for handle in handles:
        handle.remove()
    return hessians


def linear_names(model, block):
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and f"layers.{block}." in name
    ]


@pytest.fixture(params=KINDS)
def dense(request, tmp_path):
    """A random model, its folder, and the Hessians of its layers."""
    model = build(request.param)
    model.save_pretrained(tmp_path / "dense")
    token_ids = torch.randint(2, 97, (6, 40), generator=torch.Generator().manual_seed(1))
    return model, tmp_path / "dense", run_with_hessians(model, token_ids)


def narrow_folder(model, folder, hessians, widths):
    """The narrowed tensors and layer entries of all blocks; the model is in the folder `narrow` beside."""
    config = json.loads((folder / "config.json").read_text())
    located = weights.locate(folder)

    def read(name):
        return weights.read(located[name], name) if name in located else None

    tensors, layers = {}, []
    for block in range(SHAPE["num_hidden_layers"]):
        names = linear_names(model, block)
        changed = narrow.block(read, names, hessians, config, widths)
        tensors |= changed.tensors
        layers += changed.layers
    output = folder.parent / "narrow"
    output.mkdir()
    whole = {name: weights.read(file, name) for name, file in located.items()}
    save_file(whole | tensors, output / "model.safetensors", {"format": "pt"})
    (output / "config.json").write_text(json.dumps(narrow.narrowed(config, widths)))
    return tensors, layers


def mask_equivalent(model, hessians, keep, output, unit):
    """Give the dense-shaped model zeros for the columns removed, and the others as re-fitted."""
    for name, layer in model.named_modules():
        if name.endswith(output):
            units = layer.in_features // unit
            prepared = structured.prepare(hessians[name])
            kept, fitted, _ = structured.remove(layer.weight.data, prepared, unit, keep)
            mask = torch.isin(torch.arange(units), kept).repeat_interleave(unit)
            layer.weight.data.zero_()[:, mask] = fitted


@pytest.mark.parametrize("widths", [Widths(32, 2), Widths(16, None), Widths(None, 1)])
def test_narrow_model_loads_and_equals_the_dense_one_with_zeros(dense, widths):
    from transformers import AutoModelForCausalLM

    model, folder, hessians = dense
    narrow_folder(model, folder, hessians, widths)
    head_dim = model.config.head_dim if hasattr(model.config, "head_dim") else 4
    if widths.mlp:
        mask_equivalent(model, hessians, widths.mlp, "down_proj", 1)
    if widths.kv_heads:
        mask_equivalent(model, hessians, widths.kv_heads, "o_proj", 2 * head_dim)

    loaded = AutoModelForCausalLM.from_pretrained(folder.parent / "narrow")
    checked = checkpoint.load_model(folder.parent / "narrow", "float32")  # no key is left over
    assert type(loaded) is type(model) is type(checked)
    config = loaded.config
    assert config.intermediate_size == (widths.mlp or 48)
    assert config.num_key_value_heads == (widths.kv_heads or 4)
    assert config.num_attention_heads == 2 * config.num_key_value_heads
    token_ids = torch.randint(2, 97, (3, 30), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected, logits = model(token_ids).logits, loaded.eval()(token_ids).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    generated = loaded.generate(token_ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(generated, model.generate(token_ids, max_new_tokens=4, do_sample=False))


def test_what_changes_and_what_is_written_about_it(dense):
    model, folder, hessians = dense
    tensors, layers = narrow_folder(model, folder, hessians, Widths(32, 2))
    before = {name: weights.read(file, name) for name, file in weights.locate(folder).items()}
    narrowed = folder.parent / "narrow"
    after = {name: weights.read(file, name) for name, file in weights.locate(narrowed).items()}
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        inner = any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"))
        changes = inner or name.endswith(("o_proj.weight", "down_proj.weight"))
        assert (name in tensors) == changes
        assert changes or torch.equal(tensor, after[name])
        assert tensor.dtype == after[name].dtype

    head_dim = before["model.layers.0.self_attn.k_proj.weight"].shape[0] // 4
    sizes = {
        "q_proj": (8 * head_dim, 32, 4 * head_dim, 32),
        "k_proj": (4 * head_dim, 32, 2 * head_dim, 32),
        "v_proj": (4 * head_dim, 32, 2 * head_dim, 32),
        "o_proj": (32, 8 * head_dim, 32, 4 * head_dim),
        "gate_proj": (48, 32, 32, 32),
        "up_proj": (48, 32, 32, 32),
        "down_proj": (32, 48, 32, 32),
    }
    names = linear_names(model, 0) + linear_names(model, 1)
    assert sorted(layer["name"] for layer in layers) == sorted(names)
    for layer in layers:
        kind = layer["name"].rpartition(".")[2]
        shape = tuple(layer[key] for key in ("rows", "columns", "kept_rows", "kept_columns"))
        assert shape == sizes[kind]
        assert tuple(after[f"{layer['name']}.weight"].shape) == shape[2:]
        solved = kind in ("o_proj", "down_proj")
        assert layer["damping"] == (0.01 if solved else None)
        assert solved == (layer["relative_error"] is not None)
        assert layer["warnings"] == []


def test_the_error_is_of_the_layer_as_stored(dense):
    """Outputs of the narrow layer on what is kept of the inputs, beside the dense layer's."""
    model, folder, hessians = dense
    name = "model.layers.1.mlp.down_proj"
    stored = {key: value.bfloat16() for key, value in model.state_dict().items()}
    config = json.loads((folder / "config.json").read_text())
    changed = narrow.block(
        stored.get, linear_names(model, 1), hessians, config, Widths(32, None), damping=0.1
    )
    weight = stored[f"{name}.weight"].double()
    gate = stored["model.layers.1.mlp.gate_proj.weight"]
    rows = changed.tensors["model.layers.1.mlp.gate_proj.weight"]
    kept = [i for i in range(48) if any(torch.equal(gate[i], row) for row in rows)]
    lost = weight.clone()
    lost[:, kept] -= changed.tensors[f"{name}.weight"].double()
    hessian = hessians[name].double()
    expected = torch.trace(lost @ hessian @ lost.T) / torch.trace(weight @ hessian @ weight.T)
    entry = changed.layers[-1]
    assert entry["name"] == name and entry["damping"] == 0.1
    assert entry["relative_error"] == pytest.approx(expected.item(), rel=1e-6)
    assert changed.tensors[f"{name}.weight"].dtype == torch.bfloat16


QWEN_1B = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "architectures": ["Qwen2ForCausalLM"],
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "architectures": ["LlamaForCausalLM"],
}
MISTRAL_7B = LLAMA_8B | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}


@pytest.mark.parametrize(
    ("config", "share", "projections", "multiple", "expected"),
    [
        (QWEN_1B, 0.25, "all", 128, Widths(6784, None)),  # 52.5 multiples: up; no half a group
        (QWEN_1B, 0.2, "mlp", 128, Widths(7168, None)),
        (QWEN_1B, 0.5, "all", 128, Widths(4480, 1)),
        (QWEN_1B, 0.5, "mlp", 128, Widths(4480, None)),
        (QWEN_1B, 0.5, "attention", 128, Widths(None, 1)),
        (QWEN_1B, 0.99, "all", 128, Widths(128, 1)),  # at least one of each
        (QWEN_1B, 0.001, "mlp", 128, Widths(8832, None)),  # fewer than there were
        (QWEN_1B, 0.29, "mlp", 1, Widths(6362, None)),  # 6361.6
        (QWEN_1B, 0.5, "all", 8960, Widths(None, 1)),  # one multiple is all
        (MISTRAL_7B, 0.25, "all", 128, Widths(10752, 6)),
        (MISTRAL_7B, 0.2, "attention", 128, Widths(None, 7)),
        (LLAMA_8B, 0.25, "all", 128, Widths(10752, None)),  # 24 and 28 do not divide 4096
        (LLAMA_8B, 0.6, "all", 128, Widths(5760, 4)),
    ],
)
def test_widths(config, share, projections, multiple, expected):
    assert narrow.widths(config, share, projections, multiple) == expected


@pytest.mark.parametrize(
    ("config", "share", "projections", "multiple", "message"),
    [
        (QWEN_1B, 0.25, "attention", 128, "0.25 of 2 attention groups removes nothing"),
        (QWEN_1B, 0.25, "mlp", 8960, "8960 neurons in multiples of 8960 removes nothing"),
        (QWEN_1B, 0.25, "all", 9000, "neurons in multiples of 9000 or 2 attention groups removes"),
        (LLAMA_8B, 0.25, "attention", 128, "0.25 of 8 attention groups removes nothing"),
        ({"model_type": "opt"}, 0.25, "all", 128, "'opt' cannot be narrowed; known are llama,"),
        ({}, 0.25, "all", 128, "'None' cannot be narrowed"),
    ],
)
def test_widths_that_are_refused(config, share, projections, multiple, message):
    with pytest.raises(ValueError, match=message):
        narrow.widths(config, share, projections, multiple)


@pytest.mark.parametrize(
    ("config", "share", "projections", "multiple", "kept"),
    [
        (LLAMA_8B, 0.25, "all", 128, ["0.25 of 8 attention groups"]),
        (LLAMA_8B, 0.25, "mlp", 128, []),
        (LLAMA_8B, 0.6, "all", 128, []),
        (QWEN_1B, 0.5, "all", 8960, ["0.5 of 8960 neurons in multiples of 8960"]),
        (QWEN_1B, 0.5, "attention", 8960, []),
    ],
)
def test_what_is_kept_whole_is_told(config, share, projections, multiple, kept):
    asked = share, projections, multiple
    told = narrow.kept_whole(config, narrow.widths(config, *asked), *asked)
    assert told == [f"structured {what} removes nothing: all are kept" for what in kept]


def test_configuration():
    assert narrow.narrowed(QWEN_1B, Widths(6784, None)) == QWEN_1B | {"intermediate_size": 6784}
    assert narrow.narrowed(QWEN_1B, Widths(None, 1)) == QWEN_1B | {
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "head_dim": 128,
        "architectures": ["TransformersForCausalLM"],
    }
    assert narrow.narrowed(MISTRAL_7B, Widths(256, 6)) == MISTRAL_7B | {
        "intermediate_size": 256,
        "num_attention_heads": 24,
        "num_key_value_heads": 6,
        "head_dim": 128,
    }
    explicit = QWEN_1B | {"model_type": "qwen3", "head_dim": 64}
    assert narrow.narrowed(explicit, Widths(None, 1))["head_dim"] == 64


@pytest.mark.parametrize("kind", narrow.MODEL_TYPES)
@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_only_llama_refuses_heads_that_do_not_divide_the_hidden_size(kind, kv_heads):
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    dense = {"model_type": kind, **SHAPE}
    config = narrow.narrowed(dense, Widths(None, kv_heads))
    config.pop("model_type")
    if kind == "llama" and kv_heads == 3:
        with pytest.raises(StrictDataclassError):
            AutoConfig.for_model(kind, **config)
        assert narrow.widths(dense, 0.25, "all", 16).kv_heads is None
    else:
        assert AutoConfig.for_model(kind, **config).head_dim == 4
        assert narrow.widths(dense, 1 - kv_heads / 4, "all", 16).kv_heads == kv_heads


@pytest.fixture
def small():
    """Arguments of `narrow.block` for a block of 6 neurons and 2 attention groups of 4 columns."""
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    sizes = {"q": (8, 8), "k": (4, 8), "v": (4, 8), "o": (8, 8)}
    shapes = {f"b.attn.{name}_proj": size for name, size in sizes.items()}
    shapes |= {"b.mlp.gate_proj": (6, 8), "b.mlp.up_proj": (6, 8), "b.mlp.down_proj": (8, 6)}
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{k}.weight": torch.randn(v, generator=generator) for k, v in shapes.items()}
    hessians = {"b.attn.o_proj": torch.eye(8), "b.mlp.down_proj": torch.eye(6)}
    return tensors, list(shapes), hessians, config


def test_misfits_are_refused(small):
    tensors, layers, hessians, config = small

    def refused(message, tensors=tensors, layers=layers, hessians=hessians):
        with pytest.raises(ValueError, match=message):
            narrow.block(tensors.get, layers, hessians, config, Widths(3, 1))

    refused("there is no Hessian of b.mlp.down_proj", hessians={"b.attn.o_proj": torch.eye(8)})
    refused("0 layers q_proj, not one", layers=layers[1:])
    refused("2 layers up_proj, not one", layers=[*layers, "b.mlp.expert.up_proj"])
    missing = {name: tensor for name, tensor in tensors.items() if "k_proj" not in name}
    refused("b.attn.k_proj.weight is missing; config.json says rows 4", tensors=missing)
    wide = tensors | {"b.mlp.down_proj.weight": torch.ones(8, 7)}
    refused(r"b.mlp.down_proj.weight is \[8, 7\]; config.json says columns 6", tensors=wide)
    zero = hessians | {"b.mlp.down_proj": torch.zeros(6, 6)}
    refused("layer b.mlp.down_proj: the Hessian is zero", hessians=zero)
    half = {name: tensor.half() for name, tensor in tensors.items()}
    huge = half | {"b.mlp.down_proj.weight": torch.full((8, 6), 6e4, dtype=torch.float16)}
    equal = hessians | {"b.mlp.down_proj": torch.ones(6, 6)}
    refused("layer b.mlp.down_proj: .* does not fit in torch.float16", huge, hessians=equal)


def test_an_error_above_that_of_magnitude_is_a_warning(small, monkeypatch):
    def first(weight, prepared, unit, keep):
        kept = torch.arange(keep)
        return structured.Removed(kept, weight[:, : keep * unit], 0.01)

    tensors, layers, hessians, config = small
    tensors["b.mlp.down_proj.weight"][:, :3] /= 100
    monkeypatch.setattr(structured, "remove", first)
    *_, entry = narrow.block(tensors.get, layers, hessians, config, Widths(3, None)).layers
    (warning,) = entry["warnings"]
    assert warning.startswith("b.mlp.down_proj: relative error 0.99")
    assert "above that of keeping the columns of largest norm" in warning
