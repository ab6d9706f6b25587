"""The model stage: a folder that later stages can use, or one line that says why not."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rac import linear
from rac.artifacts import read_json, write_json
from rac.definitions import Model
from rac.errors import RacError
from rac.models import checkpoint, weights
from rac.models.prepare import prepare_model
from rac.provenance import hashes
from tests import hub_server


@pytest.fixture
def source(tiny_model, tmp_path):
    """A user's folder, to damage."""
    return shutil.copytree(tiny_model, tmp_path / "theirs")


def failing(model: Model, output) -> str:
    with pytest.raises(RacError) as error:
        prepare_model(model, "mine", output)
    assert not output.exists()
    assert [file.name for file in output.parent.iterdir() if file.name.endswith(".tmp")] == []
    assert "\n" not in str(error.value) and ".tmp" not in str(error.value)
    return str(error.value)


def test_the_embedded_reasoner(tmp_path):
    prepare_model(Model(embedded="reasoner", dtype="float32"), "r", tmp_path / "r")
    record = read_json(tmp_path / "r" / "model.json")
    assert record["weights_sha256"] == weights.identity(
        tmp_path / "r", hashes(tmp_path / "r")["sha256"]
    )
    assert not any(file.is_symlink() for file in (tmp_path / "r").iterdir())  # it can move
    model = checkpoint.load_model(tmp_path / "r", "float32")
    assert record["linear_groups"] == linear.groups(model)
    assert record["parameters"] == model.num_parameters() >= record["nonzero_parameters"] > 0
    assert record["bytes_on_disk"] == (tmp_path / "r" / "model.safetensors").stat().st_size
    assert checkpoint.stop_tokens(tmp_path / "r")
    checkpoint.load_tokenizer(tmp_path / "r")


def test_a_local_folder_is_linked_and_gets_records_of_its_own(source, tmp_path):
    (source / "compression.json").write_text('{"weights_sha256": "stale"}')
    (source / "model.json").write_text('{"weights_sha256": "stale"}')
    (source / "notes.py").write_text("")
    prepare_model(Model(path=source, dtype="float32"), "m", tmp_path / "m")
    linked = tmp_path / "m" / "model.safetensors"
    assert linked.is_symlink() and linked.resolve() == (source / "model.safetensors").resolve()
    assert checkpoint.identity(tmp_path / "m") == weights.identity(source, hashes(source)["sha256"])
    assert not (tmp_path / "m" / "compression.json").exists()
    assert not (tmp_path / "m" / "notes.py").exists()


PREPARE = """
import json, sys
from pathlib import Path
from rac.definitions import Model
from rac.models.prepare import prepare_model
prepare_model(Model(hub="o/n", revision=sys.argv[1], dtype="float32"), "m", Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_weights_that_a_repository_holds_twice_are_taken_once(random_qwen2, save_model, tmp_path):
    model = random_qwen2()
    save_model(model, tmp_path / "repository")
    (tmp_path / "repository/model.safetensors").unlink()
    model.save_pretrained(tmp_path / "repository", max_shard_size="20KB")
    own = {file.name for file in (tmp_path / "repository").glob("*.safetensors")}
    assert len(own) > 1
    (tmp_path / "repository/consolidated.safetensors").write_bytes(b"the same again")
    with hub_server.running() as hub:
        hub.repositories["o/n"] = tmp_path / "repository"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        patience = {"HF_HUB_ETAG_TIMEOUT": "120", "HF_HUB_DOWNLOAD_TIMEOUT": "120"}
        environment |= patience  # on a busy machine
        command = [sys.executable, "-c", PREPARE, hub.commit, tmp_path / "m"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "m").glob("*.safetensors")} == own
    assert {name for name in hub.asked if name.endswith(".safetensors")} == own
    assert set(hub.asked.values()) == {1}
    # A folder that holds them twice: the same.
    prepare_model(Model(path=tmp_path / "repository", dtype="float32"), "m", tmp_path / "l")
    assert {file.name for file in (tmp_path / "l").glob("*.safetensors")} == own


def test_the_weights_decide_the_identity(random_qwen2, save_model, tmp_path):
    identities = []
    for seed in (0, 1, 1):
        folder = tmp_path / str(len(identities))
        save_model(random_qwen2(seed), folder / "theirs")
        prepare_model(Model(path=folder / "theirs", dtype="float32"), "m", folder / "m")
        identities.append(checkpoint.identity(folder / "m"))
    assert identities[0] != identities[1] == identities[2]


def test_a_folder_that_is_none(tmp_path):
    message = failing(Model(path=tmp_path), tmp_path / "out")
    assert message.startswith(f"models.mine.path: {tmp_path} is not a Hugging Face folder")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", "safetensors"),
        ("tokenizer.json", "no tokenizer"),
        ("chat_template.jinja", "no chat template"),
    ],
)
def test_a_missing_file_is_named_with_the_user_s_folder(source, tmp_path, file, message):
    (source / file).unlink()
    said = failing(Model(path=source, dtype="float32"), tmp_path / "out")
    assert said.startswith("models.mine") and message in said and str(source) in said


def test_a_mixture_of_experts_is_one_line(source, tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2}
    config = AutoConfig.for_model("mixtral", vocab_size=768, **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    said = failing(Model(path=source, dtype="float32"), tmp_path / "out")
    assert said.startswith("models.mine: its decoder blocks hold experts (0.mlp.experts.")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, " is quantized (gptq): give the dense model"),
        ({"quant_method": "awq"}, " is quantized (awq): give the dense model"),
        ({"quant_method": "fp8"}, " is quantized (fp8): give the dense model"),
        ({"quant_method": "compressed-tensors"}, " is quantized (compressed-tensors): give the"),
        ({"quant_method": "a\nb"}, " is quantized (a b): give the dense model"),
        ({"load_in_4bit": True}, " is quantized: give the dense model"),
        (5, "/config.json: quantization_config is 5; a dense model has none: take it out"),
        (None, "/config.json: quantization_config is null; a dense model has none: take it out"),
    ],
)
@pytest.mark.parametrize("within", [True, False])
def test_a_quantized_model_is_refused_at_once(source, tmp_path, settings, said, within):
    config = read_json(source / "config.json")
    asked = {"quantization_config": settings}
    write_json(source / "config.json", config | ({"text_config": asked} if within else asked))
    (source / "model.safetensors").unlink()  # not asked for before
    message = failing(Model(path=source, dtype="float32"), tmp_path / "out")
    assert message.startswith(f"models.mine.path: {source}{said}")


def test_a_quantized_model_of_the_hub_is_refused_before_its_weights_come(
    source, tmp_path, monkeypatch
):
    asked = {"quantization_config": {"quant_method": "awq"}}
    write_json(source / "config.json", read_json(source / "config.json") | asked)
    patterns = []

    def fetch(repository, revision, files, *arguments):
        patterns.extend(files)
        return source

    monkeypatch.setattr("rac.hub.fetch", fetch)
    said = failing(Model(hub="a/b", revision="0" * 40, dtype="float32"), tmp_path / "out")
    assert said == f"models.mine: a/b@{'0' * 40} is quantized (awq): give the dense model"
    assert not any("safetensors" in name for name in patterns)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.int8, "I8"),
        (torch.bool, "BOOL"),
        (torch.int64, "I64"),
        (torch.float16, None),
        (torch.float64, None),
    ],
)
def test_weights_that_are_no_plain_floats_are_named(source, tmp_path, name, dtype, said):
    file = source / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = tensors[name].to(dtype)
    scales = {f"{name}_scale_inv": torch.ones(1)} if said else {}
    save_file(tensors | scales, file, {"format": "pt"})
    model = Model(path=source, dtype="float32")
    if said is None:
        return prepare_model(model, "mine", tmp_path / "out")
    message = failing(model, tmp_path / "out")
    assert message == (
        f"models.mine: {file}: {name} is stored as {said}, and not as BF16, F16, F32, F64"
    )


@pytest.mark.parametrize("content", ["null", "5", "[]", "{", "[" * 100_000])
def test_a_config_json_that_is_none_is_one_line(source, tmp_path, content):
    (source / "config.json").write_text(content)
    message = failing(Model(path=source, dtype="float32"), tmp_path / "out")
    assert message.startswith(f"models.mine.path: {source}/config.json is ")


BUILT = "/config.json: transformers cannot build this model: "
SIZED = "/model.safetensors: model."


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": []}, BUILT),
        ({"dtype": "nope"}, BUILT),
        ({"num_attention_heads": 0}, BUILT),
        ({"num_key_value_heads": 0}, BUILT),
        ({"head_dim": 0}, BUILT),
        ({"hidden_size": 0}, BUILT),
        ({"hidden_size": -4}, BUILT),
        ({"vocab_size": 0}, BUILT),
        ({"text_config": {}}, BUILT),
        ({"num_attention_heads": 7}, SIZED),
        ({"num_key_value_heads": 1}, SIZED),
        ({"intermediate_size": 0}, SIZED),
        ({"vocab_size": 700}, SIZED),
    ],
)
def test_a_config_json_that_no_model_can_have_is_one_line(source, tmp_path, values, said):
    write_json(source / "config.json", read_json(source / "config.json") | values)
    message = failing(Model(path=source, dtype="float32"), tmp_path / "out")
    assert message.startswith(f"models.mine: {source}{said}")
    assert said == BUILT or "and config.json asks for [" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "/generation_config.json is not a JSON object"),
        ([], "/generation_config.json is not a JSON object"),
        ({"eos_token_id": True}, "/generation_config.json: eos_token_id is true, not a token's id"),
        ({"eos_token_id": -1}, "/generation_config.json: eos_token_id is -1, not a token's id"),
        ({"eos_token_id": [2, 768]}, ": eos_token_id 768 is no token's id: the vocabulary has 768"),
    ],
)
def test_stop_tokens_that_are_none_are_one_line(source, tmp_path, content, said):
    (source / "generation_config.json").write_text(json.dumps(content))
    message = failing(Model(path=source, dtype="float32"), tmp_path / "out")
    assert message.startswith(f"models.mine: {source}{said}")


def test_cut_weights_are_named_with_the_user_s_folder(source, tmp_path):
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    said = failing(Model(path=source, dtype="float32"), tmp_path / "out")
    assert said.startswith(f"models.mine: {file} is damaged: ")


def test_an_unreachable_hub_names_the_way_without_a_network(tmp_path, monkeypatch):
    def offline(*arguments, **keywords):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("rac.hub.WAITS", ())
    said = failing(Model(hub="a/b", revision="0" * 40), tmp_path / "out")
    assert said == (
        "models.mine: a/b@000000000000: no network; without a network, give a folder with its files: "
        "models.mine.path"
    )
