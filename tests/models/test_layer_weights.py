"""Weights that are read one by one against those of the model that transformers loads."""

import pytest
import torch

from rac.artifacts import read_json
from rac.compress import compress
from rac.definitions import Calibration
from rac.errors import RacError
from rac.linear import decoder_groups
from rac.models import checkpoint, layer_weights
from rac.variants import Variant

QUANTIZED = [
    {"scheme": scheme, "method": "rtn", "smooth": smooth, "group": 16}
    for scheme, smooth in (("w4a16", None), ("w8a8", None), ("fp8", None), ("w8a8", 0.5))
]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def dense(request, random_qwen2, save_model, tmp_path_factory):
    """A model in either type of number."""
    model = random_qwen2().to(getattr(torch, request.param))
    return save_model(model, tmp_path_factory.mktemp("dense") / "model")


def layers(dense):
    groups = decoder_groups(read_json(dense / "model.json")["linear_groups"])
    return [(name, group["norm"]) for group in groups for name in group["layers"]]


def squeezed(dense, quantize, write_sequences, folder):
    """A quantized checkpoint of a model."""
    from rac import hessians

    source = write_sequences(folder / "text" / "s", dense, "text", [30, 20])
    hessians.accumulate(dense, source, "float32", folder / "hessians" / "text")
    of = {"text": folder / "hessians" / "text"}
    names = {"model": "m", "calibration": "c", "variant": "v"}
    variant = Variant(quantize=quantize)
    compress(dense, of, Calibration(sum={"text": 1}), variant, "dense", names, folder / "c")
    return folder / "c"


@pytest.mark.parametrize("quantize", QUANTIZED, ids=lambda q: f"{q['scheme']}-{q['smooth']}")
def test_quantized_weights_are_those_that_the_loaded_model_has(
    dense, quantize, write_sequences, tmp_path
):
    folder = squeezed(dense, quantize, write_sequences, tmp_path)
    for dtype in ("float32", "bfloat16"):
        network = checkpoint.load_model(folder, dtype)
        read = layer_weights.of_folder(folder, dtype)
        for name, norm in layers(dense):
            for module in filter(None, (name, norm)):
                expected = network.get_parameter(f"{module}.weight").detach().float()
                assert torch.equal(read(module), expected), (dtype, module)


def test_smoothing_is_taken_back(dense, write_sequences, tmp_path):
    folder = squeezed(dense, QUANTIZED[-1], write_sequences, tmp_path)
    before, after = layer_weights.of_folder(dense), layer_weights.of_folder(folder, "float32")
    moved = 0
    for name, norm in layers(dense):
        found = layer_weights.unsmoothed(after, before, name, norm)
        assert torch.allclose(found, before(name), atol=0.02)
        moved += not torch.allclose(after(name), before(name), atol=0.02)
    assert moved >= 6  # the layers behind a norm


def test_stored_weights_are_read_as_they_are_or_in_what_the_model_runs_in(dense):
    network = checkpoint.load_model(dense, "bfloat16")
    stored, rounded = (layer_weights.of_folder(dense, dtype) for dtype in (None, "bfloat16"))
    for name, _ in layers(dense):
        expected = network.get_parameter(f"{name}.weight").detach().float()
        assert torch.equal(rounded(name), expected)
        assert torch.equal(stored(name).bfloat16().float(), expected)


def test_a_weight_that_no_file_holds_is_named(dense):
    with pytest.raises(RacError, match="no file of .* holds model.absent.weight"):
        layer_weights.of_folder(dense)("model.absent")
