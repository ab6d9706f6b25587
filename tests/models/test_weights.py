import json

import pytest
import torch

from rac.artifacts import read_json
from rac.errors import RacError
from rac.models import weights
from rac.models.checkpoint import INDEX


@pytest.fixture
def sharded(random_qwen2, tmp_path):
    """Folder of a model in several files, with an index."""
    folder = tmp_path / "sharded"
    random_qwen2().save_pretrained(folder, max_shard_size="20KB")
    assert len(weights.files(folder)) > 2
    return folder


def test_every_tensor_is_found(sharded, random_qwen2):
    located = weights.locate(sharded)
    for name, tensor in random_qwen2().state_dict().items():
        if name != "lm_head.weight":  # tied, so stored once
            assert torch.equal(weights.read(located[name], name), tensor)


def test_rewrite_replaces_what_blocks_bring_and_nothing_else(sharded, tmp_path):
    name, other = "model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"
    codes, scales = torch.ones(3, 2, dtype=torch.int8), torch.ones(3)
    blocks = iter([{other: {"a.codes": codes, "a.scales": scales}}, {name: {name: torch.ones(5)}}])
    out = tmp_path / "out"
    out.mkdir()
    weights.rewrite(sharded, out, blocks)
    before, after = weights.locate(sharded), weights.locate(out)
    assert after.keys() == before.keys() - {other} | {"a.codes", "a.scales"}
    assert torch.equal(weights.read(after["a.codes"], "a.codes"), codes)
    assert torch.equal(weights.read(after[name], name), torch.ones(5))
    for kept in before.keys() - {name, other}:
        assert before[kept].name == after[kept].name
        assert torch.equal(weights.read(before[kept], kept), weights.read(after[kept], kept))
    assert after["a.codes"].name == before[other].name
    index = read_json(out / INDEX)
    assert index["weight_map"] == {key: file.name for key, file in after.items()}
    tensors = [weights.read(file, key) for key, file in after.items()]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)
    assert {file.name for file in out.iterdir()} == {f.name for f in sharded.glob("model*")}


def test_rewrite_refuses_a_tensor_that_is_not_there(random_qwen2, tmp_path):
    random_qwen2().save_pretrained(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="stores no tensor absent"):
        weights.rewrite(tmp_path, tmp_path / "out", [{"absent": {"absent": torch.ones(1)}}])


def test_missing_and_damaged_files_are_refused(sharded, tmp_path):
    with pytest.raises(RacError, match="model.safetensors is missing"):
        weights.locate(tmp_path)
    file = weights.files(sharded)[1]
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(RacError, match=f"{file.name} is damaged"):
        weights.locate(sharded)
    file.write_bytes(b"not safetensors")
    with pytest.raises(RacError, match=f"{file.name} is damaged"):
        weights.locate(sharded)
    file.unlink()
    with pytest.raises(RacError, match=f"{file.name} is missing"):
        weights.locate(sharded)


@pytest.mark.parametrize(
    "weight_map", [{}, [], {"w": "../other/model.safetensors"}, {"w": 5}, {"w": ["a"]}, {"w": ".."}]
)
def test_an_index_that_names_no_files_of_its_folder_is_refused(tmp_path, weight_map):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(RacError, match="does not say which file of its folder holds which weight"):
        weights.files(tmp_path)


def test_sizes_count_what_is_stored_tied_numbers_once(random_qwen2, tmp_path):
    model = random_qwen2()
    model.model.layers[0].mlp.gate_proj.weight.data[:, ::2] = 0
    model.save_pretrained(tmp_path)
    parameters = sum(p.numel() for p in model.parameters())
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    assert zeros >= model.config.hidden_size // 2 * model.config.intermediate_size
    assert weights.size(tmp_path) == {
        "parameters": parameters,
        "nonzero_parameters": parameters - zeros,
        "bytes_on_disk": (tmp_path / "model.safetensors").stat().st_size,
    }
