import shutil
import subprocess
import sys

import pytest

from rac import artifacts, diagnostics, hessians, sources
from rac.artifacts import read_json
from rac.compress import compress
from rac.definitions import Calibration
from rac.errors import RacError
from rac.fingerprint import stage
from rac.models import checkpoint as checkpoints
from rac.provenance import is_whole
from rac.variants import Variant

LENGTHS = [40, 17, 3, 64, 1]


@pytest.fixture(scope="module")
def inputs(tiny_model, tiny_pruned, write_sequences, tmp_path_factory):
    """Held-out Hessians of the tiny model, their sequences, and a checkpoint pruned by magnitude."""
    folder = tmp_path_factory.mktemp("heldout")
    thoughts = write_sequences(folder / "thoughts" / "s", tiny_model, "traces", LENGTHS, seed=7)
    hessians.accumulate(tiny_model, thoughts, "float32", folder / "hessians")
    return {"pruned": tiny_pruned, "stored": folder / "hessians", "thoughts": thoughts}


def diagnose(inputs, checkpoint, dense, output):
    code = stage("diagnostics")
    diagnostics.diagnose(checkpoint, dense, inputs["stored"], "float32", code, output)
    return read_json(output)


def test_layer_errors_are_those_of_the_outputs(inputs, inputs_of, tiny_model, tmp_path):
    found = diagnose(inputs, inputs["pruned"], tiny_model, tmp_path / "d.json")
    dense, pruned = (
        checkpoints.load_model(path, "float32") for path in (tiny_model, inputs["pruned"])
    )
    for layer in (found["layers"][0], found["layers"][-1]):
        before, after = (network.get_submodule(layer["name"]) for network in (dense, pruned))
        lost, whole = {"prompt": 0.0, "decode": 0.0}, {"prompt": 0.0, "decode": 0.0}
        for sequence in sources.read(inputs["thoughts"]):
            for position, x in enumerate(inputs_of(dense, before, sequence.token_ids)):
                part = "prompt" if position < sequence.prompt_length else "decode"
                lost[part] += ((before.weight - after.weight).double() @ x).square().sum().item()
                whole[part] += (before.weight.double() @ x).square().sum().item()
        for part in lost:
            assert layer[f"error_{part}"] == pytest.approx(lost[part] / whole[part], rel=1e-4)
    assert [layer["block"] for layer in found["layers"]] == [0] * 7 + [1] * 7
    assert {layer["projection"] for layer in found["layers"]} == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    mean = sum(layer["error_decode"] for layer in found["layers"]) / 14
    assert found["error_decode"] == pytest.approx(mean)
    assert is_whole(found) and found["provenance"]["code"].endswith(stage("diagnostics"))


def test_a_file_of_hessians_is_checked_once_for_both_parts(
    inputs, tiny_model, tmp_path, monkeypatch
):
    read, sha256 = [], artifacts.sha256_file
    monkeypatch.setattr(artifacts, "sha256_file", lambda file: read.append(file) or sha256(file))
    diagnose(inputs, inputs["pruned"], tiny_model, tmp_path / "d.json")
    files = [file.name for file in read if file.name.startswith("layer-")]
    assert sorted(files) == ["layer-000.safetensors", "layer-001.safetensors"]


def test_errors_of_a_smoothed_model_are_those_of_its_outputs(
    inputs, tiny_model, tiny_hessians, tmp_path
):
    calibration = Calibration(sum={"traces": 1})
    names = {"model": "tiny", "calibration": "rac", "variant": "smooth"}
    errors = []
    for smooth in (None, 0.8):
        quantize = {"scheme": "w8a8", "method": "rtn", "smooth": smooth}
        folder = tmp_path / str(smooth)
        variant = Variant(quantize=quantize)
        compress(tiny_model, tiny_hessians, calibration, variant, "dense", names, folder)
        errors.append(diagnose(inputs, folder, tiny_model, tmp_path / "d.json")["error_decode"])
    assert 0 < errors[1] < 5 * errors[0] < 1e-2


def test_the_dense_model_has_no_errors(inputs, tiny_model, tmp_path):
    found = diagnose(inputs, tiny_model, tiny_model, tmp_path / "d.json")
    assert found["error_prompt"] == found["error_decode"] == 0


def test_a_narrower_model_has_no_layers(inputs, tiny_model, tiny_narrow, tmp_path):
    found = diagnose(inputs, tiny_narrow, tiny_model, tmp_path / "d.json")
    assert found["layers"] == [] and found["error_prompt"] is found["error_decode"] is None


def test_hessians_of_another_model_are_refused(inputs, random_qwen2, save_model, tmp_path):
    other = save_model(random_qwen2(seed=1), tmp_path / "other")
    with pytest.raises(RacError, match="are of another model"):
        diagnose(inputs, other, other, tmp_path / "d.json")


def test_a_changed_checkpoint_is_refused(inputs, tiny_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(inputs["pruned"], copy)
    file = copy / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RacError, match="is not the file that its compression.json was written for"):
        diagnose(inputs, copy, tiny_model, tmp_path / "d.json")


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_an_error_that_is_no_number_is_named_or_empty(
    lost, inputs, tiny_model, tmp_path, monkeypatch
):
    error = diagnostics.relative_error
    errors = iter([0.5, lost])
    monkeypatch.setattr(diagnostics, "relative_error", lambda *of: next(errors, None) or error(*of))
    if lost == float("inf"):  # something is lost of nothing
        found = diagnose(inputs, inputs["pruned"], tiny_model, tmp_path / "d.json")
        assert found["layers"][0]["error_decode"] is None and found["error_decode"] is None
        assert found["error_prompt"] > 0
    else:
        with pytest.raises(RacError, match=r"^model.layers.0.self_attn.q_proj: .* are not numbers"):
            diagnose(inputs, inputs["pruned"], tiny_model, tmp_path / "d.json")


def test_no_model_is_loaded(inputs, tiny_model, tmp_path):
    command = ["diagnostics", "--dtype", "float32", "--code", "x"]
    command += ["--model", str(tiny_model), "--checkpoint", str(inputs["pruned"])]
    command += ["--hessians", str(inputs["stored"]), "--output", str(tmp_path / "d.json")]
    script = (
        f"import sys; sys.argv[1:] = {command}; from rac.__main__ import app\n"
        "app(standalone_mode=False); sys.exit('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(read_json(tmp_path / "d.json")["layers"]) == 14
