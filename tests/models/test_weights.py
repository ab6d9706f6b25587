import pytest
import torch
from safetensors.torch import load_file

from rac.errors import RacError
from rac.models import weights


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_overwrite_changes_one_tensor(random_qwen2, tmp_path, dtype):
    random_qwen2().to(dtype).save_pretrained(tmp_path)
    file, name = tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.weight"
    before = {key: tensor.clone() for key, tensor in load_file(file).items()}
    identity = weights.sha256(tmp_path)
    new = torch.randn(48, 32).to(dtype)
    weights.overwrite(file, name, new)
    after = load_file(file)
    assert before.keys() == after.keys()
    assert torch.equal(after[name], new)
    assert all(torch.equal(after[key], before[key]) for key in before if key != name)
    assert weights.sha256(tmp_path) != identity


def test_overwrite_refuses_another_size(random_qwen2, tmp_path):
    random_qwen2().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 6144 bytes"):
        weights.overwrite(
            tmp_path / "model.safetensors", "model.layers.1.mlp.up_proj.weight", torch.ones(3)
        )


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
