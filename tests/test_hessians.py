import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rac import hessians, linear, sources
from rac.artifacts import read_json
from rac.config import Calibration
from rac.errors import RacError
from rac.models import checkpoint


def oracle(model, sequences):
    """Σ x xᵀ a token at a time, one sequence a batch, in float64: (group, is decode) → sum."""
    sums = {}
    groups = linear.groups(model)

    def hook(name):
        def add(layer, args):
            for position, x in enumerate(args[0][0].double()):
                key = name, position >= sequence.prompt_length
                sums[key] = sums.get(key, 0) + torch.outer(x, x)

        return add

    handles = [
        model.get_submodule(group["name"]).register_forward_pre_hook(hook(group["name"]))
        for group in groups
    ]
    with torch.no_grad():
        for sequence in sequences:
            model(input_ids=sequence.token_ids[None])
    for handle in handles:
        handle.remove()
    return sums


@pytest.fixture(scope="module")
def network(tiny_model):
    return checkpoint.load_model(tiny_model, "float32")


def stored_sum(folder, name, part):
    block = next(
        group["block"]
        for group in read_json(folder / "index.json")["groups"]
        if group["name"] == name
    )
    return load_file(folder / f"layer-{block:03d}.safetensors")[f"{name}/{part}"]


def test_against_a_loop_over_tokens(tiny_model, tiny_hessians, network, write_sequences, tmp_path):
    sequences = write_sequences(tmp_path / "s", tiny_model, "traces", [40, 17, 3, 64, 29])
    expected = oracle(network, sources.read(sequences))
    index = read_json(tiny_hessians["traces"] / "index.json")
    assert len(index["groups"]) == 8
    for group in index["groups"]:
        for part, is_decode in (("prompt", False), ("decode", True)):
            stored = stored_sum(tiny_hessians["traces"], group["name"], part)
            reference = expected[group["name"], is_decode].float()
            torch.testing.assert_close(stored, reference, rtol=1e-4, atol=1e-4)
    assert index["parts"] == {"prompt": {"tokens": 49}, "decode": {"tokens": 104}}
    assert index["model"] == checkpoint.identity(tiny_model)


@pytest.mark.parametrize("batch_tokens", [1, 70, 10**6])
def test_padding_never_enters(network, tiny_model, write_sequences, tmp_path, batch_tokens):
    sequences = sources.read(write_sequences(tmp_path / "s", tiny_model, "text", [5, 30, 1, 12]))
    groups = linear.groups(network)
    sums, tokens = hessians.sum_outer_products(network, groups, sequences, ("text",), batch_tokens)
    expected = oracle(network, sequences)
    assert tokens == {"text": 48}
    for group in groups:
        reference = expected[group["name"], False].float()
        torch.testing.assert_close(sums[group["name"], "text"], reference, rtol=1e-4, atol=1e-4)


def test_sums_add(network, tiny_model, write_sequences, tmp_path):
    sequences = sources.read(write_sequences(tmp_path / "s", tiny_model, "traces", [9, 31, 14, 20]))
    groups = linear.groups(network)

    def sums(of, parts=("all",)):
        return hessians.sum_outer_products(network, groups, of, parts, 64)[0]

    whole, first, second = sums(sequences), sums(sequences[:2]), sums(sequences[2:])
    by_part = sums(sequences, ("prompt", "decode"))
    for name in (group["name"] for group in groups):
        close = {"rtol": 1e-4, "atol": 1e-4}
        both = first[name, "all"] + second[name, "all"]
        torch.testing.assert_close(both, whole[name, "all"], **close)
        parts = by_part[name, "prompt"] + by_part[name, "decode"]
        torch.testing.assert_close(parts, whole[name, "all"], **close)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_batches_hold_everything_once_within_the_limit(lengths, limit):
    batches = list(hessians.batches(lengths, limit))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= limit or len(batch) == 1


def test_same_input_same_bytes(tiny_model, tiny_hessians, write_sequences, tmp_path):
    sequences = write_sequences(tmp_path / "s", tiny_model, "traces", [40, 17, 3, 64, 29])
    hessians.accumulate(tiny_model, sequences, "float32", tmp_path / "again")
    for file in tiny_hessians["traces"].iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def combined(tiny_model, stored, block=1, **calibration):
    terms = hessians.terms(Calibration(**calibration), stored, checkpoint.identity(tiny_model))
    return hessians.combine([term for of_key in terms.values() for term in of_key], block)


def test_sum_of_parts(tiny_model, tiny_hessians):
    name = "model.layers.1.mlp.gate_proj"
    parts = {
        key: stored_sum(tiny_hessians[key.split(".")[0]], name, key.split(".")[1])
        for key in ("traces.prompt", "traces.decode", "text.text")
    }
    mixed = combined(tiny_model, tiny_hessians, sum={"traces.decode": 2, "text": 0.5})
    assert len(mixed) == 4
    expected = 2 * parts["traces.decode"] + 0.5 * parts["text.text"]
    torch.testing.assert_close(mixed[name], expected)
    whole = combined(tiny_model, tiny_hessians, sum={"traces": 1})
    torch.testing.assert_close(whole[name], parts["traces.prompt"] + parts["traces.decode"])


def test_shares_of_tokens(tiny_model, tiny_hessians):
    name = "model.layers.1.self_attn.o_proj"
    decode, text = (
        stored_sum(tiny_hessians[source], name, part)
        for source, part in (("traces", "decode"), ("text", "text"))
    )
    mixed = combined(tiny_model, tiny_hessians, share={"traces.decode": 0.25, "text": 0.75})
    expected = (0.25 * decode / 104 + 0.75 * text / 153) * (104 + 153)
    torch.testing.assert_close(mixed[name], expected)


def test_a_source_may_have_a_dot_in_its_name(tiny_model, tiny_hessians):
    stored = {"v1.0": tiny_hessians["traces"]}
    one = combined(tiny_model, stored, sum={"v1.0.decode": 1})
    other = combined(tiny_model, tiny_hessians, sum={"traces.decode": 1})
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.fixture
def copied(tiny_hessians, tmp_path):
    """Copies of the stored Hessians, to be damaged."""
    return {
        name: shutil.copytree(folder, tmp_path / name) for name, folder in tiny_hessians.items()
    }


def edit_index(folder, **changes):
    index = read_json(folder / "index.json")
    (folder / "index.json").write_text(json.dumps(index | changes))


def test_hessians_of_another_model_are_refused(tiny_model, copied):
    edit_index(copied["traces"], model="f00")
    with pytest.raises(RacError, match="traces/index.json: these Hessians are of another model"):
        combined(tiny_model, copied, sum={"text": 1, "traces": 1})


def test_another_file_is_refused(tiny_model, copied):
    file = copied["traces"] / "layer-001.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(RacError, match="layer-001.safetensors is not the file"):
        combined(tiny_model, copied, sum={"traces": 1})
    file.unlink()
    with pytest.raises(RacError, match="layer-001.safetensors is missing"):
        combined(tiny_model, copied, sum={"traces": 1})


def test_another_shape_is_refused(tiny_model, copied):
    file = copied["text"] / "layer-001.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj/text"] = torch.eye(3)
    save_file(tensors, file)
    hashes = read_json(copied["text"] / "index.json")["sha256"]
    edit_index(copied["text"], sha256=hashes | {file.name: hessians.sha256_file(file)})
    with pytest.raises(RacError, match=r"layer-001.*down_proj is \[3, 3\], not \[48, 48\]"):
        combined(tiny_model, copied, sum={"text": 1})


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_index_is_refused(tiny_model, copied, content):
    (copied["text"] / "index.json").write_text(content)
    with pytest.raises(RacError, match="index.json is"):
        combined(tiny_model, copied, sum={"text": 1})


def test_other_layers_are_refused(tiny_model, copied):
    edit_index(copied["text"], groups=[])
    with pytest.raises(RacError, match="Hessians of different layers"):
        combined(tiny_model, copied, sum={"traces": 1, "text": 1})


def test_unknown_sources_and_parts_are_refused(tiny_model, tiny_hessians):
    with pytest.raises(RacError, match="no Hessians were given for 'c4'; given: traces, text"):
        combined(tiny_model, tiny_hessians, sum={"c4": 1})
    with pytest.raises(RacError, match="holds prompt, decode and no 'text'"):
        combined(tiny_model, tiny_hessians, sum={"traces.text": 1})


def test_a_share_of_no_tokens_is_refused(tiny_model, copied):
    edit_index(copied["traces"], parts={"prompt": {"tokens": 0}, "decode": {"tokens": 104}})
    with pytest.raises(RacError, match="'traces.prompt' has no tokens"):
        combined(tiny_model, copied, share={"traces.prompt": 0.5, "text": 0.5})


def test_sequences_of_another_model_are_refused(
    tiny_model, random_qwen2, save_model, write_sequences, tmp_path
):
    sequences = write_sequences(tmp_path / "s", tiny_model, "text", [5])
    other = save_model(random_qwen2(seed=1), tmp_path / "other")
    with pytest.raises(RacError, match="was made for another model"):
        hessians.accumulate(other, sequences, "float32", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_activations_that_are_not_finite_are_refused(
    random_qwen2, save_model, write_sequences, tmp_path
):
    model = random_qwen2()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(1e30)
    folder = save_model(model, tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", folder, "text", [5])
    with pytest.raises(RacError, match="model.layers.1.mlp.down_proj .* not finite in float32"):
        hessians.accumulate(folder, sequences, "float32", tmp_path / "out")
    assert not (tmp_path / "out").exists()
