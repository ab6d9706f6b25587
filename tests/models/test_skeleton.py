import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rac.errors import RacError
from rac.linear import groups
from rac.models import skeleton

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SMALL)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    return tmp_path


def edit(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def edit_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_blocks_and_embeddings_wait_for_their_weights(folder):
    network = skeleton.skeleton(folder, "bfloat16")
    real = {name for name, tensor in network.named_parameters() if not tensor.is_meta}
    assert real == {"model.norm.weight"}
    assert {tensor.dtype for tensor in network.parameters()} == {torch.bfloat16}
    assert not any(tensor.requires_grad for tensor in network.parameters())
    assert not network.training


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 1e6},
    "llama3": {"rope_type": "llama3", "rope_theta": 1e4, "original_max_position_embeddings": 32}
    | LLAMA3,
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 16}


@pytest.mark.parametrize("rope", ROPES)
def test_buffers_that_no_file_holds_are_those_of_transformers(folder, rope):
    edit_config(folder, rope_parameters=ROPES[rope])
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    network = skeleton.skeleton(folder, "bfloat16")
    buffers = dict(expected.named_buffers())
    assert buffers.keys() == dict(network.named_buffers()).keys() != set()
    for name, buffer in network.named_buffers():
        assert buffer.dtype == buffers[name].dtype and torch.equal(buffer, buffers[name])


def test_a_buffer_that_transformers_does_not_compute_is_refused(folder, monkeypatch):
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "_init_weights", lambda self, module: None)
    with pytest.raises(ValueError, match="LlamaRotaryEmbedding.inv_freq cannot be computed"):
        skeleton.skeleton(folder, "float32")


def test_a_tensor_that_no_file_holds_is_named(folder):
    edit(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(RacError, match=r"no file holds model\.layers\.1\.mlp\.up_proj\.weight"):
        skeleton.skeleton(folder, "float32")


def test_a_tensor_without_a_place_is_named(folder):
    edit_config(folder, num_hidden_layers=1)
    with pytest.raises(RacError, match=r"model.safetensors holds model\.layers\.1\..*no place"):
        skeleton.skeleton(folder, "float32")


def test_frequencies_of_old_checkpoints_are_ignored(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(folder, lambda tensors: tensors.update({name: torch.ones(4)}))
    skeleton.skeleton(folder, "float32")


def test_another_shape_is_named(folder):
    edit(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}))
    with pytest.raises(RacError, match=r"model.norm.weight is \[3\], .* asks for \[32\]"):
        skeleton.skeleton(folder, "float32")


def test_tied_embeddings_are_stored_once(folder):
    edit(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(RacError, match=r"no file holds lm_head\.weight"):
        skeleton.skeleton(folder, "float32")
    edit_config(folder, tie_word_embeddings=True)
    network = skeleton.skeleton(folder, "float32")
    located = skeleton.locate(network, folder)
    assert located["lm_head.weight"] == located["model.embed_tokens.weight"]


def test_several_files(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(
        tmp_path / "cut", max_shard_size="20KB"
    )
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 2
    network = skeleton.skeleton(tmp_path / "cut", "float32")
    located = skeleton.locate(network, tmp_path / "cut")
    assert located.keys() == network.state_dict().keys()
    skeleton.load(network, list(located), located, "cpu")
    expected = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in network.state_dict().items())


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(RacError, match=f"{file} is missing"):
        skeleton.skeleton(folder, "float32")


def test_an_unknown_architecture_is_one_line(folder):
    edit_config(folder, model_type="unheard_of")
    with pytest.raises(
        RacError, match="config.json: transformers cannot build this model: .*unheard_of"
    ):
        skeleton.skeleton(folder, "float32")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("llama", {"rope_parameters": DYNAMIC}, "rope_type dynamic"),
        (
            "phi3",
            {"rope_parameters": LONG | {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}}
            | {"original_max_position_embeddings": 16, "pad_token_id": 0},
            "rope_type longrope",
        ),
        (
            "gemma4_text",
            {"num_kv_shared_layers": 1, "hidden_size_per_layer_input": 0, "global_head_dim": 8}
            | {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 8},
            "num_kv_shared_layers",
        ),
        (
            "opt",
            {"ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
            r"\(project_out\)",
        ),
    ],
)
def test_blocks_that_hang_on_more_than_the_one_before_are_refused(tmp_path, kind, settings, said):
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | settings))
    network.save_pretrained(tmp_path)
    for refused in (lambda: skeleton.skeleton(tmp_path, "float32"), lambda: groups(network)):
        with pytest.raises(ValueError, match=f"{said}.*: refused") as error:
            refused()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
@pytest.mark.parametrize("original", [True, False])
def test_a_mixture_of_experts_is_refused_however_it_is_stored(tmp_path, kind, original):
    experts = {"num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 16}
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL | experts))
    network.save_pretrained(tmp_path, save_original_format=original)
    stored = load_file(tmp_path / "model.safetensors")
    assert any(tensor.ndim == 3 for tensor in stored.values()) != original
    for refused in (lambda: skeleton.skeleton(tmp_path, "float32"), lambda: groups(network)):
        with pytest.raises(ValueError, match="experts.* a mixture of experts is refused") as error:
            refused()
        assert "\n" not in str(error.value)
