import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rac.config import Scope
from rac.linear import groups, in_scope
from rac.models import weights

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GROUPED = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
LLAMA = [
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    ["self_attn.o_proj"],
    ["mlp.gate_proj", "mlp.up_proj"],
    ["mlp.down_proj"],
]
PHI = [
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1"],
    ["self_attn.dense"],
    ["mlp.fc2"],
]
NEOX = [
    ["attention.query_key_value"],
    ["attention.dense"],
    ["mlp.dense_h_to_4h"],
    ["mlp.dense_4h_to_h"],
]


def random_model(kind, **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


@pytest.mark.parametrize(
    ("kind", "settings", "prefix", "expected"),
    [
        ("qwen2", GROUPED, "model.layers", LLAMA),
        ("qwen3", GROUPED, "model.layers", LLAMA),
        ("llama", GROUPED, "model.layers", LLAMA),
        ("mistral", GROUPED, "model.layers", LLAMA),
        ("gemma", GROUPED, "model.layers", LLAMA),
        ("phi", SMALL, "model.layers", PHI),
        ("gpt_neox", SMALL, "gpt_neox.layers", NEOX),
    ],
)
def test_what_shares_an_input(kind, settings, prefix, expected, tmp_path):
    model = random_model(kind, **settings)
    found = groups(model)
    assert [(group["block"], group["layers"]) for group in found] == [
        (block, [f"{prefix}.{block}.{layer}" for layer in layers])
        for block in range(2)
        for layers in expected
    ]
    for group in found:
        assert group["name"] == group["layers"][0]
        for layer in group["layers"]:
            assert model.get_submodule(layer).in_features == group["columns"]
    model.save_pretrained(tmp_path)
    stored = weights.locate(tmp_path)
    assert all(f"{layer}.weight" in stored for group in found for layer in group["layers"])


def test_no_hook_is_left():
    model = random_model("qwen2", **GROUPED)
    groups(model)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_one_block_and_a_vocabulary_smaller_than_the_probe():
    model = random_model("llama", **GROUPED | {"num_hidden_layers": 1, "vocab_size": 3})
    assert len(groups(model)) == 4


def test_a_model_without_linear_layers_is_refused():
    model = random_model("gpt2", vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no nn.Linear"):
        groups(model)


def test_a_model_without_decoder_blocks_is_refused():
    model = random_model("llama", **GROUPED)
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="no list of 2 decoder blocks"):
        groups(model)


def of_blocks(count, names=LLAMA):
    return [
        {"block": i, "name": f"{i}.{layers[0]}", "layers": [f"{i}.{name}" for name in layers]}
        for i in range(count)
        for layers in names
    ]


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("first-third", [0, 1, 2]),
        ("middle-third", [3, 4]),
        ("last-third", [5, 6]),
        ("2-4", [2, 3, 4]),
        ("6-6", [6]),
    ],
)
def test_a_scope_of_blocks(blocks, chosen):
    scoped = in_scope(of_blocks(7), Scope(blocks=blocks))
    assert sorted({group["block"] for group in scoped}) == chosen
    assert scoped == [group for group in of_blocks(7) if group["block"] in chosen]


@pytest.mark.parametrize("names", [LLAMA, PHI, NEOX])
def test_attention_and_mlp_are_all_there_is(names):
    kept = {
        kind: [
            name
            for group in in_scope(of_blocks(2, names), Scope(projections=kind))
            for name in group["layers"]
        ]
        for kind in ("attention", "mlp", "all")
    }
    assert sorted(kept["attention"] + kept["mlp"]) == sorted(kept["all"])
    assert all(".mlp." in name for name in kept["mlp"])
    assert not any(".mlp." in name for name in kept["attention"])


def test_layers_in_scope_keep_the_hessian_of_their_group():
    (group, *_) = in_scope(of_blocks(1, PHI), Scope(projections="mlp"))
    assert group["name"] == "0.self_attn.q_proj" and group["layers"] == ["0.mlp.fc1"]


def test_a_range_beyond_the_model_is_refused():
    with pytest.raises(ValueError, match="scope.blocks 1-2: the model has blocks 0-1"):
        in_scope(of_blocks(2), Scope(blocks="1-2"))


def test_a_third_of_too_few_blocks_is_refused():
    with pytest.raises(ValueError, match="no layer is in it"):
        in_scope(of_blocks(1), Scope(blocks="last-third"))
