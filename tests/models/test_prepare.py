"""The model stage: a folder that later stages can use, or one line that says why not."""

import os
import shutil
import subprocess
import sys

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from rac import linear
from rac.artifacts import read_json
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
