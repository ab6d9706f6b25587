"""Folders that are cut, foreign or hostile are one line each."""

import json
import shutil

import pytest
import torch

from rac.artifacts import read_json, sha256_file, write_json
from rac.errors import RacError
from rac.models import checkpoint
from rac.models.reasoner import WEIGHTS
from rac.provenance import write_record


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of the tiny model to damage, as if no stage had made it."""
    return shutil.copytree(tiny_model, tmp_path / "m", ignore=shutil.ignore_patterns("model.json"))


def set_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def failing(load, folder, *arguments) -> str:
    with pytest.raises(RacError) as error:
        load(folder, *arguments)
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_folder_is_loaded_to_be_evaluated(tiny_model, dtype):
    model = checkpoint.load_model(tiny_model, dtype)
    assert not model.training
    assert model.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("left", [0, 5, -100])
def test_cut_weights(folder, left):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    assert "cannot load" in failing(checkpoint.load_model, folder, "float32")


def test_a_missing_folder_and_missing_weights(folder, tmp_path):
    assert "config.json is missing" in failing(checkpoint.load_model, tmp_path / "x", "float32")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in failing(checkpoint.load_model, folder, "float32")


def test_a_pickle_is_refused_and_not_opened(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Hostile()}, folder / "pytorch_model.bin")
    assert "model.safetensors" in failing(checkpoint.load_model, folder, "float32")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "nonsense"}, "nonsense"),
        ({"model_type": "bert"}, "missing_keys"),
        ({"model_type": "t5"}, "T5Config"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 9}, "num_hidden_layers"),
        ({"intermediate_size": 8}, "mismatched_keys"),
        ({"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "unexpected_keys"),
        (
            {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
            "missing_keys model.layers.2",
        ),
    ],
)
def test_weights_that_do_not_fit_their_configuration(folder, values, message):
    set_config(folder, **values)
    assert message in failing(checkpoint.load_model, folder, "float32")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_configuration_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    failing(checkpoint.load_model, folder, "float32")


def test_code_in_a_folder_is_not_run_and_not_asked_about(folder, tmp_path, monkeypatch):
    (folder / "code.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    auto = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    set_config(folder, model_type="hostile", auto_map=auto)
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("asked the user"))
    assert "custom code" in failing(checkpoint.load_model, folder, "float32")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_is_loaded_with_its_template(tiny_model):
    tokenizer = checkpoint.load_tokenizer(tiny_model)
    assert tokenizer.chat_template
    assert tokenizer.decode(tokenizer.encode("1 + 1")) == "1 + 1"


def test_what_tokenizer_json_says_is_not_what_its_class_would_make_of_it(tmp_path):
    """As in DeepSeek-R1-Distill-Llama: bytes by tokenizer.json, words by the class that is named."""
    folder = tmp_path / "llama"
    shutil.copytree(WEIGHTS, folder)
    said = read_json(folder / "tokenizer_config.json") | {"tokenizer_class": "LlamaTokenizerFast"}
    write_json(folder / "tokenizer_config.json", said)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"model_type": "llama"})
    tokenizer, text = checkpoint.load_tokenizer(folder), " So  12+3 = 15\n\nnaïve"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text) == checkpoint.load_tokenizer(WEIGHTS).encode(text)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "cannot load the tokenizer"),
        ("tokenizer.json", "{}", "cannot load the tokenizer"),
        ("tokenizer_config.json", "{", "cannot load the tokenizer"),
        ("tokenizer.json", None, "has no tokenizer"),
        ("chat_template.jinja", None, "no chat template"),
    ],
)
def test_a_tokenizer_that_is_damaged_or_missing(folder, file, content, message):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert message in failing(checkpoint.load_tokenizer, folder)


@pytest.mark.parametrize(
    ("generation", "configuration", "expected"),
    [
        ({"eos_token_id": 7}, {"eos_token_id": 8}, [7]),
        ({"eos_token_id": [7, 9]}, {}, [7, 9]),
        ({}, {"eos_token_id": 8}, [8]),
        ({"eos_token_id": []}, {"eos_token_id": 8}, [8]),
        ({"eos_token_id": None}, {"eos_token_id": [8]}, [8]),
        (None, {"eos_token_id": 0}, [0]),
        ({}, {"eos_token_id": []}, None),
        (None, {}, None),
    ],
)
def test_stop_tokens(tmp_path, generation, configuration, expected):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    if expected is None:
        assert "no eos_token_id" in failing(checkpoint.stop_tokens, tmp_path)
    else:
        assert checkpoint.stop_tokens(tmp_path) == expected


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("content", ["null", "5", "[]"])
def test_a_file_of_stop_tokens_that_is_no_object_is_named(tmp_path, file, content):
    (tmp_path / file).write_text(content)
    message = failing(checkpoint.stop_tokens, tmp_path)
    assert message == f"{tmp_path / file} is not a JSON object"


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("stop", [True, -1, 1.0, "x", {}, [2, True], [[2]], [2, -1], [None]])
def test_what_is_no_stop_token_is_named(tmp_path, file, stop):
    write_json(tmp_path / "config.json", {"eos_token_id": 2})
    write_json(tmp_path / file, {"eos_token_id": stop})
    assert failing(checkpoint.stop_tokens, tmp_path) == (
        f"{tmp_path / file}: eos_token_id is {json.dumps(stop)}, not a token's id or a list of them"
    )


def test_identity_is_that_of_the_folder_s_record(tmp_path):
    failing(checkpoint.identity, tmp_path)
    write_record(tmp_path / "model.json", {"weights_sha256": "dense"})
    assert checkpoint.identity(tmp_path) == "dense"
    record = tmp_path / "compression.json"
    write_record(record, {"weights_sha256": "pruned"})
    assert checkpoint.identity(tmp_path) == "pruned"
    record.write_text(record.read_text().replace("pruned", "prunee"))
    assert f"{record} was changed" in failing(checkpoint.identity, tmp_path)
    for content in ("{}", "[]"):
        (tmp_path / "compression.json").write_text(content)
        assert "no 'weights_sha256'" in failing(checkpoint.identity, tmp_path)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("model.safetensors", [checkpoint.load_model]),
        ("config.json", [checkpoint.load_model, checkpoint.load_tokenizer]),
        ("generation_config.json", [checkpoint.load_model, checkpoint.stop_tokens]),
        ("tokenizer.json", [checkpoint.load_model, checkpoint.load_tokenizer]),
        ("chat_template.jinja", [checkpoint.load_model, checkpoint.load_tokenizer]),
    ],
)
def test_a_file_that_changed_since_it_was_written_is_named_before_use(
    tiny_model, tmp_path, name, load
):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    checkpoint.check(folder)
    file = folder / name
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    for read in load:
        arguments = ("float32",) if read is checkpoint.load_model else ()
        message = failing(read, folder, *arguments)
        assert message.startswith(f"{file} is not the file that its model.json was written for")
    file.unlink()
    assert f"{file} is missing" in failing(checkpoint.check, folder)
    (folder / "model.json").unlink()
    if name != "model.safetensors":
        checkpoint.check(folder)  # no stage's work


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "LICENSE.txt"])
def test_a_text_that_nothing_reads_may_be_edited_or_removed(tiny_model, tmp_path, name):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    file = folder / name
    file.write_text("as it was written\n")
    record = read_json(folder / "model.json")
    record["sha256"][name] = sha256_file(file)
    write_record(folder / "model.json", record)
    file.write_text("edited\n")
    for _ in range(2):
        checkpoint.load_model(folder, "float32")
        checkpoint.load_tokenizer(folder)
        checkpoint.stop_tokens(folder)
        file.unlink(missing_ok=True)


def test_a_record_that_changed_since_it_was_written_is_named_before_use(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "m")
    record = folder / "model.json"
    record.write_text(record.read_text().replace('"columns": 32', '"columns": 33', 1))
    assert f"{record} was changed" in failing(checkpoint.load_tokenizer, folder)
