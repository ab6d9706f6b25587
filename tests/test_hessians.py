import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rac import hessians, linear, sources
from rac.artifacts import read_json
from rac.definitions import Calibration
from rac.errors import RacError
from rac.models import checkpoint
from rac.provenance import is_whole, write_record


def oracle(model, sequences):
    """Σ x xᵀ and max |x| a token at a time, one sequence a batch, in float64, by (group, is decode)."""
    sums = {}

    def hook(name):
        def add(layer, args):
            for position, x in enumerate(args[0][0].double()):
                key = name, position >= sequence.prompt_length
                total, largest = sums.get(key, (0, x.abs()))
                sums[key] = total + torch.outer(x, x), largest.maximum(x.abs())

        return add

    handles = [
        model.get_submodule(group["name"]).register_forward_pre_hook(hook(group["name"]))
        for group in linear.groups(model)
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
    assert len(index["groups"]) == 9
    for group in index["groups"]:
        for part, is_decode in (("prompt", False), ("decode", True)):
            stored = stored_sum(tiny_hessians["traces"], group["name"], part)
            total, largest = expected[group["name"], is_decode]
            torch.testing.assert_close(stored, total.float(), rtol=1e-4, atol=1e-4)
            absmax = stored_sum(tiny_hessians["traces"], group["name"], f"{part}.absmax")
            torch.testing.assert_close(absmax, largest.float(), rtol=1e-4, atol=1e-4)
    assert index["shard"] == [0, 1]
    assert index["parts"] == {"prompt": {"tokens": 49}, "decode": {"tokens": 104}}
    assert index["model"] == checkpoint.identity(tiny_model)


def test_same_input_same_bytes(tiny_model, tiny_hessians, write_sequences, tmp_path):
    sequences = write_sequences(tmp_path / "s", tiny_model, "traces", [40, 17, 3, 64, 29])
    hessians.accumulate(tiny_model, sequences, "float32", tmp_path / "again")
    for file in tiny_hessians["traces"].glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    indexes = [read_json(f / "index.json") for f in (tiny_hessians["traces"], tmp_path / "again")]
    for index in indexes:
        assert index.pop("provenance")["stage"] == "hessians"  # with the time, and so never equal
        del index["record_sha256"]
    assert indexes[0] == indexes[1]


def combined(tiny_model, stored, block=1, **calibration):
    terms = hessians.terms(Calibration(**calibration), stored, checkpoint.identity(tiny_model))
    flat = [term for of_key in terms.values() for term in of_key]
    assert list(hessians.checked(flat, [block])) == [block]
    return hessians.combine(flat, block)


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
    write_record(folder / "index.json", index | changes)


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


def test_blocks_before_a_damaged_one_can_be_read(tiny_model, copied):
    terms = hessians.terms(Calibration(sum={"traces": 1}), copied, checkpoint.identity(tiny_model))
    (copied["traces"] / "layer-001.safetensors").write_bytes(b"")
    checked = hessians.checked(terms["traces"], [0, 1])
    assert next(checked) == 0
    with pytest.raises(RacError, match="layer-001.safetensors is not the file"):
        next(checked)
    assert list(hessians.checked([], [0, 2])) == [0, 2]  # nothing is stored of a variant without


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


def test_a_changed_digit_of_an_index_is_refused(tiny_model, copied):
    file = copied["traces"] / "index.json"
    file.write_text(file.read_text().replace('"tokens": 104', '"tokens": 105'))
    with pytest.raises(RacError, match="traces/index.json was changed after it was written"):
        combined(tiny_model, copied, share={"traces.decode": 0.5, "text": 0.5})


def test_other_layers_are_refused(tiny_model, copied):
    edit_index(copied["text"], groups=[])
    with pytest.raises(RacError, match="Hessians of different layers"):
        combined(tiny_model, copied, sum={"traces": 1, "text": 1})


def test_unknown_sources_and_parts_are_refused(tiny_model, tiny_hessians):
    with pytest.raises(RacError, match="nothing was given of 'c4'; given: traces, text"):
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


OVERFLOWS = {
    "float32": ("layers.1.mlp.up_proj", 1e30, "model.layers.1.mlp.down_proj"),
    "float16": ("layers.0.mlp.down_proj", 3e4, "model.layers.1.self_attn.q_proj"),
    "bfloat16": ("layers.1.mlp.down_proj", 1e38, "lm_head"),
}


@pytest.mark.parametrize("dtype", OVERFLOWS)
def test_activations_that_are_not_finite_are_refused(
    random_qwen2, save_model, write_sequences, tmp_path, dtype
):
    where, value, named = OVERFLOWS[dtype]
    model = random_qwen2()
    with torch.no_grad():
        model.model.get_submodule(where).weight.fill_(value)
    folder = save_model(model, tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", folder, "text", [5])
    with pytest.raises(RacError, match=f"{named} .* not finite in {dtype}"):
        hessians.accumulate(folder, sequences, dtype, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", range(3))
def test_nan_in_a_single_batch_is_refused(
    random_qwen2, save_model, write_sequences, tmp_path, number
):
    folder = save_model(random_qwen2(), tmp_path / "model")
    path = write_sequences(tmp_path / "s", folder, "text", [5, 6, 7])
    token = sources.read(path)[number].token_ids[-1]
    model = random_qwen2()
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = float("nan")
    folder = save_model(model, tmp_path / "other")
    path = write_sequences(tmp_path / "s", folder, "text", [5, 6, 7])
    named = rf"model.layers.0.self_attn.q_proj .* not finite .* of sequence {number}$"
    with pytest.raises(RacError, match=named):
        hessians.accumulate(folder, path, "float32", tmp_path / "out", batch_tokens=7)


# ---- shards


@pytest.fixture
def shards(tiny_model, write_sequences, tmp_path):
    """A function (count) → folders of the shards of the source that `tiny_hessians` has whole."""
    sequences = write_sequences(tmp_path / "s", tiny_model, "traces", [40, 17, 3, 64, 29])

    def make(count):
        folders = [tmp_path / f"shard-{i}-of-{count}" for i in range(count)]
        for i, folder in enumerate(folders):
            hessians.accumulate(tiny_model, sequences, "float32", folder, shard=(i, count))
        return folders

    return make


def test_shards_add_up_to_the_whole(tiny_hessians, shards, tmp_path):
    folders = shards(3)
    hessians.add(folders, tmp_path / "whole")
    whole, added = (
        read_json(folder / "index.json") for folder in (tiny_hessians["traces"], tmp_path / "whole")
    )
    assert is_whole(added)
    of_shards = [hessians.sha256_file(folder / "index.json") for folder in folders]
    assert added["provenance"]["inputs"]["shards"] == of_shards
    for index in (added, whole):
        assert index["provenance"]["inputs"]["dtype"] == "float32"
        del index["provenance"], index["record_sha256"]
    assert added.pop("sha256").keys() == whole.pop("sha256").keys()
    assert added == whole
    for file in tiny_hessians["traces"].glob("*.safetensors"):
        found, expected = load_file(tmp_path / "whole" / file.name), load_file(file)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-4)
    hessians.add(folders[::-1], tmp_path / "again")
    for file in (tmp_path / "whole").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_shards_that_make_no_whole_are_refused(shards, tiny_hessians, tmp_path):
    two, three = shards(2), shards(3)
    for folders, message in (
        (three[:2], "all 3 shards .* given: 0 of 3, 1 of 3"),
        ([*three, three[0]], "all 3 shards"),
        ([two[0], *three[1:]], "all 2 shards .* given: 0 of 2, 1 of 3, 2 of 3"),
        ([two[0], tiny_hessians["traces"]], "all 2 shards .* given: 0 of 1, 0 of 2"),
        ([two[0], tiny_hessians["text"]], "no shards of one whole: other sequences"),
    ):
        with pytest.raises(RacError, match=message):
            hessians.add(folders, tmp_path / "out")
    edit_index(two[1], model="f00")
    with pytest.raises(RacError, match="shard-1-of-2 and .*shard-0-of-2 .* other model"):
        hessians.add(two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_is_no_source(tiny_model, shards):
    with pytest.raises(RacError, match="shard-0-of-2 is shard 0 of 2: add up all"):
        combined(tiny_model, {"traces": shards(2)[0]}, sum={"traces": 1})


def test_more_shards_than_sequences_are_refused(tiny_model, write_sequences, tmp_path):
    sequences = write_sequences(tmp_path / "s", tiny_model, "text", [5, 6])
    with pytest.raises(
        RacError, match="no shard 0 of 3; lower the source's 'shards' to 2 or fewer"
    ):
        hessians.accumulate(tiny_model, sequences, "float32", tmp_path / "out", shard=(0, 3))


# ---- the largest activations


def test_the_largest_of_a_calibration(tiny_model, tiny_hessians):
    name = "model.layers.1.mlp.gate_proj"
    calibration = Calibration(sum={"traces.decode": 0.5, "text": 2})
    terms = hessians.terms(calibration, tiny_hessians, checkpoint.identity(tiny_model))
    flat = [term for of_key in terms.values() for term in of_key]
    found = hessians.combine_absmax(flat, 1)
    decode = stored_sum(tiny_hessians["traces"], name, "decode.absmax")
    text = stored_sum(tiny_hessians["text"], name, "text.absmax")
    assert found.keys() == hessians.combine(flat, 1).keys()
    assert torch.equal(found[name], decode.maximum(text))
    assert not torch.equal(found[name], decode) and not torch.equal(found[name], text)
    none = [flat[0]._replace(of=flat[0].of._replace(weight=0)), *flat[1:]]
    assert torch.equal(hessians.combine_absmax(none, 1)[name], text)


def test_progress_counts_tokens_once(tiny_model, write_sequences, tmp_path, capsys):
    sequences = write_sequences(tmp_path / "s", tiny_model, "text", [7, 6])
    hessians.accumulate(tiny_model, sequences, "float32", tmp_path / "out")
    assert "hessians: 13 of at most 13 tokens" in capsys.readouterr().err


def test_a_batch_that_memory_is_short_for_is_halved(
    tiny_model, tiny_hessians, tmp_path, monkeypatch, capsys, write_sequences
):
    sequences = write_sequences(tmp_path / "s", tiny_model, "traces", [40, 17, 3, 64, 29])
    asked, walk = [], hessians.blocks.walk

    def short(model, dtype, read, batch_tokens, spill):
        asked.append(batch_tokens)
        for step in walk(model, dtype, read, batch_tokens, spill):
            yield step
            if batch_tokens > limit:
                raise torch.OutOfMemoryError("no memory for this")

    monkeypatch.setattr(hessians.blocks, "walk", short)
    limit = 150
    hessians.accumulate(tiny_model, sequences, "float32", tmp_path / "h", batch_tokens=400)
    assert asked == [400, 200, 100]
    assert capsys.readouterr().err.count("memory is short: again with") == 2
    assert read_json(tmp_path / "h/index.json")["batch_tokens"] == 100
    for file in tiny_hessians["traces"].glob("*.safetensors"):
        for key, expected in load_file(file).items():
            found = load_file(tmp_path / "h" / file.name)[key]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    limit = 10
    with pytest.raises(
        RacError, match="short with only a sequence of 64 tokens at once: no memory"
    ):
        hessians.accumulate(tiny_model, sequences, "float32", tmp_path / "i", batch_tokens=400)
    assert asked[3:] == [400, 200, 100, 64] and not (tmp_path / "i").exists()


@pytest.mark.gpu
def test_a_gpu_whose_memory_is_really_short_sums_the_same(
    short_memory, random_qwen2, save_model, write_sequences, tmp_path, capsys
):
    model = save_model(random_qwen2(hidden_size=256, intermediate_size=1024), tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", model, "traces", [512] * 40)
    hessians.accumulate(model, sequences, "float32", tmp_path / "whole")
    short_memory(2**27)
    hessians.accumulate(model, sequences, "float32", tmp_path / "halved")
    assert "memory is short: again with" in capsys.readouterr().err
    assert read_json(tmp_path / "halved/index.json")["batch_tokens"] < 16384
    for file in (tmp_path / "whole").glob("*.safetensors"):
        for key, expected in load_file(file).items():
            found = load_file(tmp_path / "halved" / file.name)[key]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
