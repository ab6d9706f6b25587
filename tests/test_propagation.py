import pytest
import torch

from rac import propagation
from rac.artifacts import read_json
from rac.errors import RacError
from rac.linear import decoder_groups
from rac.models import checkpoint
from rac.sources import read


@pytest.fixture
def files(tiny_model, tiny_hessians):
    folder = tiny_hessians["traces"].parent.parent / "sources"
    return {source: folder / source / "sequences.safetensors" for source in tiny_hessians}


@pytest.fixture
def groups(tiny_model):
    return decoder_groups(read_json(tiny_model / "model.json")["linear_groups"])


@torch.no_grad()
def slow_sums(network, group, files, weights):
    """Σ w x xᵀ in float64 over every token of unpadded sequences, one at a time."""
    seen = []
    layer = network.get_submodule(group["name"])
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].double()))
    total = torch.zeros(group["columns"], group["columns"], dtype=torch.float64)
    largest = torch.zeros(group["columns"], dtype=torch.float64)
    for source, file in files.items():
        for sequence in read(file):
            network(input_ids=sequence.token_ids[None])
            x = seen.pop()
            prompt = torch.arange(len(x)) < sequence.prompt_length
            masks = {"text": prompt | ~prompt, "prompt": prompt, "decode": ~prompt}
            for (of_source, part), weight in weights.items():
                if of_source == source and masks[part].any():
                    total += weight * x[masks[part]].T @ x[masks[part]]
                    largest = torch.maximum(largest, x[masks[part]].abs().amax(0))
    return total, largest


@pytest.mark.parametrize(
    "weights",
    [
        {("traces", "prompt"): 1.0, ("traces", "decode"): 1.0},
        {("traces", "decode"): 2.0, ("text", "text"): 0.5},
    ],
)
def test_a_block_sees_what_the_blocks_before_it_now_give(tiny_model, files, groups, weights):
    generator = torch.Generator().manual_seed(0)
    network = checkpoint.load_model(tiny_model, "float32")
    for arrived in propagation.walk(tiny_model, "float32", files):
        block = arrived["traces"].step.index
        of_block = [group for group in groups if group["block"] == block]
        sums = propagation.sum_all(arrived, of_block, weights)
        for group in of_block:
            total, largest = slow_sums(network, group, files, weights)
            torch.testing.assert_close(
                sums[group["name"]].hessian.double(), total, rtol=1e-4, atol=1e-3
            )
            torch.testing.assert_close(
                sums[group["name"]].absmax.double(), largest, rtol=1e-4, atol=1e-4
            )
        changed = {}
        for name in (name for group in of_block for name in group["layers"]):
            weight = network.get_submodule(name).weight
            noise = torch.randn(weight.shape, generator=generator)
            weight.data += 0.2 * noise
            changed[f"{name}.weight"] = weight.data.clone()
        if changed:
            name = of_block[0]["norm"]
            network.get_submodule(name).weight.data *= 2
            changed[f"{name}.weight"] = network.get_submodule(name).weight.data.clone()
            propagation.put(arrived, changed)
    assert block == 2  # the output embedding


def test_sequences_of_another_model_are_refused(random_qwen2, save_model, files, tmp_path):
    other = save_model(random_qwen2(seed=1), tmp_path / "other")
    with pytest.raises(RacError, match="was made for another model"):
        next(propagation.walk(other, "float32", files))
