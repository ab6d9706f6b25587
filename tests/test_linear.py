import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rac.linear import by_block, decoder_groups, groups, in_scope
from rac.models import weights
from rac.models.skeleton import skeleton
from rac.variants import Scope

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
PHI3 = [["self_attn.o_proj"], ["self_attn.qkv_proj"], ["mlp.gate_up_proj"], ["mlp.down_proj"]]
NEOX = [
    ["attention.query_key_value"],
    ["attention.dense"],
    ["mlp.dense_h_to_4h"],
    ["mlp.dense_4h_to_h"],
]


def random_model(kind, **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


LLAMA_NORMS = ["input_layernorm", None, "post_attention_layernorm", None]
FAMILIES = [
    ("qwen2", GROUPED, LLAMA, LLAMA_NORMS),
    ("qwen3", GROUPED, LLAMA, LLAMA_NORMS),
    ("llama", GROUPED, LLAMA, LLAMA_NORMS),
    ("mistral", GROUPED, LLAMA, LLAMA_NORMS),
    ("gemma", GROUPED, LLAMA, [None] * 4),  # scales by 1 + weight
    ("olmo2", GROUPED, LLAMA, [None] * 4),  # norms after the layers
    ("phi", SMALL, PHI, ["input_layernorm", None, None]),
    ("phi3", GROUPED, PHI3, [None, *LLAMA_NORMS[::2], None]),  # fused
    ("gpt_neox", SMALL, NEOX, ["input_layernorm", None, "post_attention_layernorm", None]),
]
FAMILY = pytest.mark.parametrize(
    ("kind", "settings", "layers", "norms"), FAMILIES, ids=[kind for kind, *_ in FAMILIES]
)


@FAMILY
def test_what_shares_an_input(kind, settings, layers, norms, tmp_path):
    model = random_model(kind, **settings)
    *found, head = groups(model)
    prefix = "gpt_neox.layers" if kind == "gpt_neox" else "model.layers"
    assert [(group["block"], group["layers"], group["norm"]) for group in found] == [
        (
            block,
            [f"{prefix}.{block}.{layer}" for layer in group],
            norm and f"{prefix}.{block}.{norm}",
        )
        for block in range(2)
        for group, norm in zip(layers, norms, strict=True)
    ]
    for group in [*found, head]:
        assert group["name"] == group["layers"][0]
        for layer in group["layers"]:
            assert model.get_submodule(layer).in_features == group["columns"]
    assert (head["block"], head["name"]) == (2, "lm_head")
    assert head["tied"] == (kind == "gemma") and (head["norm"] is None) == (kind == "gemma")
    model.save_pretrained(tmp_path)
    stored = weights.locate(tmp_path)
    assert all(f"{layer}.weight" in stored for group in found for layer in group["layers"])


@FAMILY
def test_a_model_without_weights_will_do(kind, settings, layers, norms, tmp_path):
    model = random_model(kind, **settings)
    model.save_pretrained(tmp_path)
    assert groups(skeleton(tmp_path, "float32")) == groups(model)


@FAMILY
@torch.no_grad()
def test_what_a_norm_is_divided_by_its_layers_can_make_up_for(kind, settings, layers, norms):
    model = random_model(kind, **settings)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    token_ids = torch.arange(3, 40)[None]
    expected = model(input_ids=token_ids).logits
    folded = [group for group in groups(model) if group["norm"] and not group.get("tied")]
    for group in folded:
        scale = torch.rand(group["columns"]) + 0.5
        for parameter in model.get_submodule(group["norm"]).parameters():
            parameter /= scale
        for layer in group["layers"]:
            model.get_submodule(layer).weight *= scale
    assert len(folded) == 2 * sum(norm is not None for norm in norms) + (kind != "gemma")
    torch.testing.assert_close(model(input_ids=token_ids).logits, expected, rtol=1e-3, atol=1e-3)


def test_a_norm_that_others_use_too_is_none_to_fold_into():
    model = random_model("llama", **GROUPED)
    mlp = model.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda x: (
        plain(x) + x
    )  # as in a mixture of experts, which nn.Linear is not all of
    norms = {group["name"]: group["norm"] for group in groups(model)}
    assert norms["model.layers.0.mlp.gate_proj"] is None
    assert norms["model.layers.1.mlp.gate_proj"] == "model.layers.1.post_attention_layernorm"


def test_no_hook_is_left():
    model = random_model("qwen2", **GROUPED)
    groups(model)
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks


def test_one_block():
    model = random_model("llama", **GROUPED | {"num_hidden_layers": 1})
    assert [group["block"] for group in groups(model)] == [0, 0, 0, 0, 1]


def test_a_model_without_linear_layers_is_refused():
    model = random_model("gpt2", vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no nn.Linear"):
        groups(model)


def test_layers_that_quantized_checkpoints_do_not_know_by_their_name_are_refused():
    model = random_model("falcon", **SMALL | {"new_decoder_architecture": True})
    with pytest.raises(ValueError, match="FalconForCausalLM has no nn.Linear"):
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


def test_groups_by_block():
    given = [{"name": name, "block": block} for name, block in (("a", 1), ("b", 0), ("c", 1))]
    found = by_block(given)
    assert list(found) == [0, 1]
    assert [[group["name"] for group in of] for of in found.values()] == [["b"], ["a", "c"]]


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


HEAD = {"block": 3, "name": "lm_head", "layers": ["lm_head"], "columns": 32, "tied": True}


@pytest.mark.parametrize("blocks", ["all", "last-third", "1-2"])
def test_the_output_embedding_is_left_out(blocks):
    found = [*of_blocks(3), HEAD]
    assert in_scope(found, Scope(blocks=blocks)) == in_scope(of_blocks(3), Scope(blocks=blocks))
    assert decoder_groups(found) == of_blocks(3)
    with pytest.raises(ValueError, match="the model has blocks 0-2"):
        in_scope(found, Scope(blocks="1-3"))


def test_the_output_embedding_on_request():
    asked = Scope(blocks="0-0", projections="attention", lm_head=True)
    scoped = in_scope([*of_blocks(3), HEAD], asked)
    assert [group["name"] for group in scoped] == [
        "0.self_attn.q_proj",
        "0.self_attn.o_proj",
        "lm_head",
    ]
    assert scoped[-1]["tied"]
    with pytest.raises(ValueError, match="no linear output embedding"):
        in_scope(of_blocks(3), asked)
