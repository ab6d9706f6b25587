import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import rac
from rac import blocks, evopress, hessians, sources
from rac.artifacts import read_json
from rac.compress import compress
from rac.definitions import Calibration
from rac.errors import RacError
from rac.linear import in_scope
from rac.models import checkpoint, weights
from rac.provenance import hashes, write_record
from rac.variants import Scope, Variant
from tests.test_blocks import FAMILIES, random_model

RAC = Calibration(sum={"traces.prompt": 1, "traces.decode": 1})
NAMES = {"model": "tiny", "calibration": "rac", "variant": "v"}


def run(model, stored, output, solver="sparsegpt", pattern="unstructured 0.5", calibration=RAC):
    kind, _, sparsity = pattern.partition(" ")
    variant = Variant(solver=solver, pattern=kind, sparsity=[float(sparsity)] if sparsity else [])
    if solver == "magnitude":
        stored, calibration = {}, None
    compress(model, stored, calibration, variant, pattern, NAMES, output)
    return read_json(output / "compression.json")


def outcome(folder):
    """The bytes of a folder, the times in compression.json and its hash of them apart."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    record = json.loads(files.pop("compression.json"))
    record.pop("seconds"), record.pop("record_sha256"), record["provenance"].pop("finished")
    for layer in record["layers"]:
        layer.pop("seconds")
    return files, record


@pytest.mark.parametrize("pattern", ["unstructured 0.5", "2:4"])
@pytest.mark.parametrize("solver", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_the_folder_is_the_model_compressed_in_memory(
    tiny_model, tiny_hessians, tmp_path, solver, pattern
):
    record = run(tiny_model, tiny_hessians, tmp_path / "out", solver, pattern)
    network = checkpoint.load_model(tiny_model, "float32")
    terms = hessians.terms(RAC, tiny_hessians, checkpoint.identity(tiny_model))
    flat = [term for of_key in terms.values() for term in of_key]
    errors = {}
    with torch.no_grad():
        for group in in_scope(read_json(tiny_model / "model.json")["linear_groups"], Scope()):
            hessian = hessians.combine(flat, group["block"])[group["name"]]
            for name in group["layers"]:
                weight = network.get_submodule(name).weight
                solution = rac.solve(weight, hessian, pattern, solver)
                weight.copy_(solution.weight)
                errors[name] = solution.relative_error
        token_ids = torch.arange(3, 60)[None]
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert torch.equal(loaded(token_ids).logits, network(token_ids).logits)
    if solver != "magnitude":
        assert {layer["name"]: layer["relative_error"] for layer in record["layers"]} == errors
        assert record["relative_error"] == pytest.approx(sum(errors.values()) / len(errors))
    AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(
        [{"role": "user", "content": "1+1?"}]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_again(save_model, write_sequences, tmp_path, family):
    folder = save_model(random_model(*FAMILIES[family]), tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", folder, "text", [40, 17], below=64)
    hessians.accumulate(folder, sequences, "float32", tmp_path / "h")
    calibration = Calibration(sum={"text": 1})
    record = run(folder, {"text": tmp_path / "h"}, tmp_path / "out", calibration=calibration)
    dense, loaded = map(AutoModelForCausalLM.from_pretrained, (folder, tmp_path / "out"))
    compressed = {f"{layer['name']}.weight": layer for layer in record["layers"]}
    assert compressed
    for name, weight in loaded.named_parameters():
        if name in compressed:
            assert (weight == 0).float().mean() == compressed[name]["sparsity"] == 0.5
            with torch.no_grad():
                dense.get_parameter(name).copy_(weight)
    token_ids = torch.arange(3, 60)[None]
    assert torch.equal(loaded(token_ids).logits, dense(token_ids).logits)
    assert record["relative_error"] < 0.5


def test_record(tiny_model, tiny_hessians, tmp_path):
    record = run(tiny_model, tiny_hessians, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    compressed = {layer["name"]: tensors[f"{layer['name']}.weight"] for layer in record["layers"]}
    assert len(compressed) == 14
    zeros = sum((tensor == 0).sum().item() for tensor in compressed.values())
    assert record["sparsity"] == zeros / sum(tensor.numel() for tensor in compressed.values())
    assert record["sparsity"] == record["sparsity_asked"] == 0.5
    assert record["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    assert record["nonzero_parameters"] == sum(
        tensor.count_nonzero().item() for tensor in tensors.values()
    )
    assert record["bytes_on_disk"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert record["calibration_tokens"] == {"traces.prompt": 49, "traces.decode": 104}
    assert record["dense_sha256"] == checkpoint.identity(tiny_model)
    assert record["weights_sha256"] == weights.identity(
        tmp_path / "out", hashes(tmp_path / "out")["sha256"]
    )
    assert {layer["damping"] for layer in record["layers"]} == {0.01}
    assert record["warnings"] == []
    assert (record["model"], record["solver"]) == ("tiny", "sparsegpt")


def test_magnitude_has_no_errors_to_tell(tiny_model, tmp_path):
    record = run(tiny_model, {}, tmp_path / "out", "magnitude")
    assert record["relative_error"] is None and record["calibration_tokens"] == {}
    assert {layer["relative_error"] for layer in record["layers"]} == {None}
    assert "No relative errors" in (tmp_path / "out" / "README.md").read_text()


def test_card(tiny_model, tiny_hessians, tmp_path):
    record = run(tiny_model, tiny_hessians, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "neither smaller on disk nor faster" in card
    assert "49 tokens of `traces.prompt`, 104 tokens of `traces.decode`" in card
    for layer in record["layers"]:
        assert f"| {layer['name']} | {layer['rows']} | " in card


def test_same_input_same_bytes(tiny_model, tiny_hessians, tmp_path):
    for name in ("one", "two"):
        run(tiny_model, tiny_hessians, tmp_path / name)
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_and_dtype_stay(random_qwen2, save_model, write_sequences, tmp_path, dtype):
    model = random_qwen2().to(dtype)
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="10KB")
    model.save_pretrained = lambda _: None
    save_model(model, folder)
    sequences = write_sequences(tmp_path / "s", folder, "text", [60, 30])
    hessians.accumulate(folder, sequences, "float32", tmp_path / "h")
    calibration = Calibration(share={"text": 1})
    record = run(folder, {"text": tmp_path / "h"}, tmp_path / "out", calibration=calibration)
    dense, compressed = weights.locate(folder), weights.locate(tmp_path / "out")
    assert {name: file.name for name, file in dense.items()} == {
        name: file.name for name, file in compressed.items()
    }
    layers = {f"{layer['name']}.weight": layer for layer in record["layers"]}
    for name, file in dense.items():
        before, after = weights.read(file, name), weights.read(compressed[name], name)
        assert after.dtype == before.dtype == dtype
        assert torch.equal(before, after) == (name not in layers)
    assert record["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == dtype


def test_errors_are_those_of_the_stored_weights(
    random_qwen2, save_model, write_sequences, tmp_path
):
    folder = save_model(random_qwen2().to(torch.bfloat16), tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", folder, "traces", [60, 30])
    hessians.accumulate(folder, sequences, "bfloat16", tmp_path / "h")
    record = run(folder, {"traces": tmp_path / "h"}, tmp_path / "out")
    layer = next(layer for layer in record["layers"] if layer["name"].endswith("0.mlp.down_proj"))
    before, after = (
        load_file(path / "model.safetensors")[f"{layer['name']}.weight"].double()
        for path in (folder, tmp_path / "out")
    )
    terms = hessians.terms(RAC, {"traces": tmp_path / "h"}, checkpoint.identity(folder))
    flat = [term for of_key in terms.values() for term in of_key]
    hessian = hessians.combine(flat, 0)[layer["name"]].double()
    expected = ((before - after) @ hessian @ (before - after).T).trace()
    expected /= (before @ hessian @ before.T).trace()
    assert layer["relative_error"] == pytest.approx(expected.item(), rel=1e-9)


def test_a_solver_worse_than_magnitude_is_told(random_qwen2, save_model, write_sequences, tmp_path):
    # Half the rows of one layer hardly matter: magnitude prunes those, Wanda half of every row.
    model = random_qwen2()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[::2] *= 1e-3
    folder = save_model(model, tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", folder, "traces", [60, 30])
    hessians.accumulate(folder, sequences, "float32", tmp_path / "h")
    record = run(folder, {"traces": tmp_path / "h"}, tmp_path / "out", "wanda")
    warnings = [line for line in record["warnings"] if "layers.1.mlp.up_proj" in line]
    assert len(warnings) == 1 and "above that of magnitude pruning" in warnings[0]
    assert f"- warning: {warnings[0]}" in (tmp_path / "out" / "README.md").read_text()


def test_imports_stay_cheap():
    code = (
        "import sys, rac; assert 'torch' not in sys.modules; rac.solve;"
        "import rac.compress; assert 'torch' in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'solver'"):
        rac.solver  # noqa: B018


@pytest.fixture
def random_phi():
    """A random Phi of 2 blocks, where one norm feeds attention and MLP."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "phi",
        **{"vocab_size": 768, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.2},
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def copied(tiny_model, tmp_path):
    """A copy of the tiny model, to be damaged."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def store(tensors, model):
    """Other weights, and the hash that goes with them."""
    save_file(tensors, model / "model.safetensors")
    known = read_json(model / "model.json")["sha256"]
    edit_record(sha256=known | hashes(model, "model.safetensors")["sha256"])(model)


def remove_layer(model):
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    store(tensors, model)


def reshape_layer(model):
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(48, 31)
    store(tensors, model)


def store_integers(model):
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(48, 32, dtype=torch.int8)
    store(tensors, model)


def store_nan(model):
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = torch.nan
    store(tensors, model)


def truncate(model):
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])


def edit_record(**changes):
    def edit(model):
        record = read_json(model / "model.json")
        write_record(model / "model.json", record | changes)

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "model.json is missing"),
        (truncate, "model.safetensors is not the file that its model.json was written for"),
        (remove_layer, "no file holds model.layers.1.mlp.up_proj.weight"),
        (reshape_layer, r"up_proj.weight is \[48, 31\], not \[out, 32\]"),
        (store_integers, "up_proj.weight is torch.int8"),
        (store_nan, "layer model.layers.1.mlp.up_proj: the weight holds numbers"),
        (edit_record(weights_sha256="f00"), "index.json: these Hessians are of another model"),
        (edit_record(linear_groups=[]), "has no 'linear_groups'"),
    ],
)
def test_damaged_input_is_one_line_and_leaves_nothing(
    copied, tiny_hessians, tmp_path, damage, message
):
    damage(copied)
    with pytest.raises(RacError, match=message) as error:
        run(copied, tiny_hessians, tmp_path / "cell" / "out")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("cell/**/*"))


def test_columns_that_no_group_fits_are_refused(tiny_model, tiny_hessians, tmp_path):
    with pytest.raises(RacError, match="v_proj: pattern '2:5' needs columns in multiples of 5"):
        run(tiny_model, tiny_hessians, tmp_path / "out", pattern="2:5")


def test_a_group_without_hessian_is_refused(copied, tiny_hessians, tmp_path):
    groups = read_json(copied / "model.json")["linear_groups"]
    groups[0]["name"] = "model.layers.0.other"
    edit_record(linear_groups=groups)(copied)
    with pytest.raises(RacError, match="no Hessian of model.layers.0.other"):
        run(copied, tiny_hessians, tmp_path / "out")


def test_layers_out_of_scope_stay_dense(tiny_model, tiny_hessians, tmp_path):
    scope = Scope(blocks="1-1", projections="mlp")
    variant = Variant(solver="sparsegpt", pattern="2:4", scope=scope)
    compress(tiny_model, tiny_hessians, RAC, variant, "2:4", NAMES, tmp_path / "out")
    dense, sparse = (
        load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path / "out")
    )
    changed = {name for name in dense if not torch.equal(dense[name], sparse[name])}
    expected = {f"model.layers.1.mlp.{kind}_proj.weight" for kind in ("gate", "up", "down")}
    assert changed == expected
    record = read_json(tmp_path / "out/compression.json")
    assert {f"{layer['name']}.weight" for layer in record["layers"]} == expected
    assert record["sparsity"] == 0.5
    assert "mlp in decoder blocks 1-1" in (tmp_path / "out/README.md").read_text()


def test_a_scope_beyond_the_model_is_one_line(tiny_model, tiny_hessians, tmp_path):
    variant = Variant(solver="sparsegpt", pattern="2:4", scope=Scope(blocks="0-9"))
    with pytest.raises(RacError, match="scope.blocks 0-9: the model has blocks 0-1"):
        compress(tiny_model, tiny_hessians, RAC, variant, "2:4", NAMES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


QUANTIZED = [
    {"quantize": {"scheme": "w4a16", "group": 16}},
    {"quantize": {"scheme": "w4a16", "group": 16, "method": "rtn"}},
    {"quantize": {"scheme": "w8a8"}},
    {"quantize": {"scheme": "fp8"}},
    {"solver": "sparsegpt", "sparsity": 0.5, "quantize": {"scheme": "w4a16", "group": 16}},
    {
        "solver": "sparsegpt",
        "pattern": "2:4",
        "quantize": {"scheme": "w4a16", "group": 16, "method": "joint"},
    },
]


def compress_by(definition, model, stored, output):
    variant = Variant(**definition)
    pattern = variant.pattern if variant.solver else "dense"
    if variant.sparsity:
        kind = "structured" if variant.solver == "structured" else "unstructured"
        pattern = f"{kind} {variant.sparsity[0]:g}"
    calibration = RAC if variant.needs_hessian else None
    given = stored if calibration else {}
    compress(model, given, calibration, variant, pattern, NAMES, output)
    return read_json(output / "compression.json")


@pytest.mark.parametrize("definition", QUANTIZED)
def test_a_quantized_checkpoint_is_what_its_record_says(
    tiny_model, tiny_hessians, tmp_path, definition
):
    record = compress_by(definition, tiny_model, tiny_hessians, tmp_path / "out")
    loaded = checkpoint.load_model(tmp_path / "out", "float32")
    dense = load_file(tiny_model / "model.safetensors")
    groups = in_scope(read_json(tiny_model / "model.json")["linear_groups"], Scope())
    terms = hessians.terms(RAC, tiny_hessians, checkpoint.identity(tiny_model))
    flat = [term for of_key in terms.values() for term in of_key]
    errors = {layer["name"]: layer["relative_error"] for layer in record["layers"]}
    for group in groups:
        hessian = hessians.combine(flat, group["block"])[group["name"]]
        for name in group["layers"]:
            weight = loaded.get_submodule(name).weight
            error = rac.solvers.relative_error(dense[f"{name}.weight"], weight, hessian)
            assert 0 < error < 0.5
            if errors[name] is not None:
                assert error == pytest.approx(errors[name], rel=1e-4)
            if "solver" in definition:
                assert (weight == 0).float().mean() >= 0.5
    assert record["sparsity"] == (0.5 if "solver" in definition else 0)
    assert record["bytes_on_disk"] < weights.size(tiny_model)["bytes_on_disk"]
    config = read_json(tmp_path / "out" / "config.json")
    assert config["quantization_config"]["ignore"] == ["lm_head"]
    assert "sparsity_config" not in config["quantization_config"]
    assert definition["quantize"]["scheme"] in (tmp_path / "out" / "README.md").read_text()


def test_layers_out_of_scope_are_not_quantized(tiny_model, tiny_hessians, tmp_path):
    definition = {"quantize": {"scheme": "w8a8"}, "scope": {"projections": "mlp"}}
    compress_by(definition, tiny_model, tiny_hessians, tmp_path / "out")
    ignored = read_json(tmp_path / "out/config.json")["quantization_config"]["ignore"]
    assert len(ignored) == 9 and all("attn" in name or name == "lm_head" for name in ignored)
    loaded = checkpoint.load_model(tmp_path / "out", "float32")
    dense = load_file(tiny_model / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    assert torch.equal(loaded.get_submodule(name).weight, dense[f"{name}.weight"])


def test_a_structured_checkpoint_is_a_smaller_dense_model(tiny_model, tiny_hessians, tmp_path):
    definition = {"solver": "structured", "sparsity": 0.3, "multiple": 16}
    record = compress_by(definition, tiny_model, tiny_hessians, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.intermediate_size == 32
    assert loaded(torch.arange(3, 60)[None]).logits.isfinite().all()
    assert record["parameters"] == loaded.num_parameters()
    assert record["parameters"] < weights.size(tiny_model)["parameters"]
    errors = {layer["name"]: layer["relative_error"] for layer in record["layers"]}
    assert {name for name, error in errors.items() if error is not None} == {
        f"model.layers.{i}.mlp.down_proj" for i in range(2)
    }
    assert record["sparsity"] == pytest.approx(1 / 3)
    card = (tmp_path / "out/README.md").read_text()
    assert "Compressed are the linear layers of mlp in all decoder blocks; all else" in card


def test_the_card_names_the_output_embedding(random_qwen2, save_model, tmp_path):
    folder = save_model(random_qwen2(tie_word_embeddings=False), tmp_path / "model")
    definition = {"solver": "magnitude", "sparsity": 0.5, "scope": {"lm_head": True}}
    compress_by(definition, folder, {}, tmp_path / "out")
    said = "attention and mlp in all decoder blocks, and of the output embedding; all else"
    assert f"linear layers of {said}" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    "quantize",
    [{"scheme": "w4a16", "group": 16}, {"scheme": "w8a8"}, {"scheme": "fp8", "method": "rtn"}],
)
def test_a_narrower_model_with_fewer_bits(tiny_model, tiny_hessians, tmp_path, quantize):
    narrower = {"solver": "structured", "sparsity": 0.3, "multiple": 16}
    plain = compress_by(narrower, tiny_model, tiny_hessians, tmp_path / "plain")
    both = narrower | {"quantize": quantize}
    record = compress_by(both, tiny_model, tiny_hessians, tmp_path / "out")
    loaded = checkpoint.load_model(tmp_path / "out", "float32")
    assert loaded.config.intermediate_size == 32
    assert record["parameters"] == plain["parameters"]
    assert record["nonzero_parameters"] == sum(
        int(tensor.count_nonzero())
        for name, tensor in loaded.named_parameters()
        if name.endswith((".weight", ".bias"))  # scales and shapes apart
    )
    assert record["bytes_on_disk"] < plain["bytes_on_disk"]
    layers = {layer["name"]: layer for layer in record["layers"]}
    assert len(layers) == 14
    dense, rows = (
        load_file(tiny_model / "model.safetensors"),
        load_file(tmp_path / "plain/model.safetensors"),
    )
    terms = hessians.terms(RAC, tiny_hessians, checkpoint.identity(tiny_model))
    flat = [term for of_key in terms.values() for term in of_key]
    for group in in_scope(read_json(tiny_model / "model.json")["linear_groups"], Scope()):
        hessian = hessians.combine(flat, group["block"])[group["name"]]
        for name in group["layers"]:
            weight, before = loaded.get_submodule(name).weight.detach(), rows[f"{name}.weight"]
            assert 0 < (weight - before).abs().max() < 0.2 * before.abs().max()
            assert list(weight.shape) == [layers[name]["kept_rows"], layers[name]["kept_columns"]]
            if name.endswith("down_proj"):  # against the dense one, by the neurons that stayed
                gate = name.replace("down_proj", "gate_proj") + ".weight"
                kept = [int((dense[gate] == row).all(1).nonzero()) for row in rows[gate]]
                whole = torch.zeros_like(dense[f"{name}.weight"])
                whole[:, kept] = weight
                before, weight = dense[f"{name}.weight"], whole
                assert layers[name]["relative_error"] > next(
                    one["relative_error"] for one in plain["layers"] if one["name"] == name
                )
            error = rac.solvers.relative_error(before, weight, hessian)
            assert layers[name]["relative_error"] == pytest.approx(error, rel=1e-3)


def test_rounding_what_is_left_may_be_worse_than_magnitude_and_is_told(
    random_qwen2, save_model, write_sequences, tmp_path
):
    """Columns that hardly matter go at next to no cost, so that the rounding is all that is lost."""
    model = random_qwen2()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, ::3] *= 1e-3
    folder = save_model(model, tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", folder, "traces", [60, 30])
    hessians.accumulate(folder, sequences, "float32", tmp_path / "h")
    definition = {"solver": "structured", "sparsity": 0.3, "multiple": 16}
    definition["scope"] = {"projections": "mlp"}
    stored, said = {"traces": tmp_path / "h"}, "above that of keeping the columns of largest norm"
    plain = compress_by(definition, folder, stored, tmp_path / "plain")
    assert plain["warnings"] == []
    definition["quantize"] = {"scheme": "w4a16", "group": 16}
    (warning,) = compress_by(definition, folder, stored, tmp_path / "out")["warnings"]
    assert "layers.1.mlp.down_proj" in warning and said in warning


def test_a_kind_that_no_share_is_removed_of_is_told(tiny_model, tiny_hessians, tmp_path):
    definition = {"solver": "structured", "sparsity": 0.3, "multiple": 16}
    record = compress_by(definition, tiny_model, tiny_hessians, tmp_path / "out")
    groups = read_json(tiny_model / "config.json")["num_key_value_heads"]
    said = f"structured 0.3 of {groups} attention groups removes nothing: all are kept"
    assert said in record["warnings"]
    assert f"- warning: {said}" in (tmp_path / "out/README.md").read_text()


def test_nothing_to_remove_is_one_line(tiny_model, tiny_hessians, tmp_path):
    definition = {"solver": "structured", "sparsity": 0.3, "scope": {"projections": "attention"}}
    with pytest.raises(RacError, match="removes nothing: ask for a larger share"):
        compress_by(definition, tiny_model, tiny_hessians, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def sequences_of(stored):
    """The sequences that the tiny model's Hessians were taken over, by source."""
    folder = stored["traces"].parent.parent / "sources"
    return {source: folder / source / "sequences.safetensors" for source in stored}


def compress_with_sequences(definition, model, stored, output, spill=None):
    variant = Variant(solver="sparsegpt", sparsity=0.5, **definition)
    pattern, sequences = "unstructured 0.5", sequences_of(stored)
    compress(model, stored, RAC, variant, pattern, NAMES, output, sequences, "float32", spill)
    return read_json(output / "compression.json")


def test_sequential_blocks_are_solved_by_what_compressed_ones_give(
    tiny_model, tiny_hessians, tmp_path
):
    variant = Variant(solver="sparsegpt", sparsity=0.5, propagation="sequential")
    given = RAC, variant, "unstructured 0.5", NAMES, tmp_path / "out", sequences_of(tiny_hessians)
    compress(tiny_model, {}, *given)  # without stored Hessians
    record = read_json(tmp_path / "out" / "compression.json")
    assert record["calibration_tokens"] == {"traces.prompt": 49, "traces.decode": 104}
    compress_with_sequences({}, tiny_model, tiny_hessians, tmp_path / "dense")
    ours, dense = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "dense"))
    for name, weight in ours.items():
        assert torch.equal(weight, dense[name]) == (
            "layers.1" not in name or "proj.weight" not in name
        )
    # The second block again, by hand: the first one compressed, and the second still dense.
    network = checkpoint.load_model(tmp_path / "out", "float32")
    before = checkpoint.load_model(tiny_model, "float32")
    network.model.layers[1].load_state_dict(before.model.layers[1].state_dict())
    entries = {layer["name"]: layer for layer in record["layers"]}
    for kind in ("self_attn.o_proj", "mlp.down_proj"):
        name, seen = f"model.layers.1.{kind}", []
        layer = network.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0]))
        with torch.no_grad():
            for sequence in sources.read(sequences_of(tiny_hessians)["traces"]):
                network(input_ids=sequence.token_ids[None])
        x = torch.cat(seen)
        error = rac.solvers.relative_error(layer.weight.data, ours[f"{name}.weight"], x.T @ x)
        assert error == pytest.approx(entries[name]["relative_error"], rel=1e-3)


@pytest.mark.parametrize(
    "definition", [{"propagation": "sequential"}, {"reconstruct": {"steps": 3}}]
)
def test_sequences_wait_on_a_disk_and_memory_that_is_short_halves_their_batch(
    tiny_model, tiny_hessians, tmp_path, monkeypatch, capsys, definition
):
    walk, asked = blocks.walk, []

    def short(model, dtype, read, batch_tokens, spill):
        asked.append((batch_tokens, spill))
        for step in walk(model, dtype, read, batch_tokens, spill):
            yield step
            if batch_tokens > 100 and step.index == 1:
                raise torch.OutOfMemoryError("no memory for this")

    monkeypatch.setitem(blocks.BATCH_TOKENS, blocks.default_device(), 400)
    whole = compress_with_sequences(definition, tiny_model, tiny_hessians, tmp_path / "whole")
    assert whole["batch_tokens"] == 400
    monkeypatch.setattr(blocks, "walk", short)
    record = compress_with_sequences(
        definition, tiny_model, tiny_hessians, tmp_path / "out", tmp_path
    )
    assert asked == [(400, tmp_path), (200, tmp_path), (100, tmp_path)]
    assert capsys.readouterr().err.count("memory is short: again with") == 2
    assert record["batch_tokens"] == 100
    assert [layer["name"] for layer in record["layers"]] == [
        layer["name"] for layer in whole["layers"]
    ]
    assert record["relative_error"] == pytest.approx(whole["relative_error"], rel=0.02)


def test_a_fit_of_kept_weights_is_in_the_checkpoint_and_the_record(
    tiny_model, tiny_hessians, tmp_path
):
    fit = {"reconstruct": {"steps": 50, "learning_rate": 0.003}}
    record = compress_with_sequences(fit, tiny_model, tiny_hessians, tmp_path / "out")
    compress_with_sequences({}, tiny_model, tiny_hessians, tmp_path / "plain")
    fitted, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "plain"))
    for layer in record["layers"]:
        name = f"{layer['name']}.weight"
        assert torch.equal(fitted[name] == 0, plain[name] == 0)
        assert not torch.equal(fitted[name], plain[name])
    assert [part["part"].rpartition(".")[2] for part in record["reconstruction"]] == [
        *("self_attn", "mlp", "self_attn", "mlp")
    ]
    assert all(part["after"] < part["before"] for part in record["reconstruction"])
    assert "fitted again" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("method", ["owl", "evopress"])
def test_shares_of_zeros_differ_at_the_same_total(tiny_model, tiny_hessians, tmp_path, method):
    asked = {"method": method}
    if method == "evopress":
        asked |= {"source": "traces", "sequences": 3, "step": 0.1, "generations": 4}
    record = compress_with_sequences(
        {"allocation": asked}, tiny_model, tiny_hessians, tmp_path / "out"
    )
    assert len({round(layer["sparsity"], 2) for layer in record["layers"]}) > 1
    assert record["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert record["allocation"]["method"] == method
    assert method in (tmp_path / "out/README.md").read_text()
    if method == "evopress":  # the search saw the very model that was written
        fitness = evopress.divergence(
            checkpoint.load_model(tiny_model, "float32"),
            names := [layer["name"] for layer in record["layers"]],
            lambda name, level: load_file(tmp_path / "out/model.safetensors")[f"{name}.weight"],
            sources.read(sequences_of(tiny_hessians)["traces"])[:3],
        )
        divergence = fitness((0,) * len(names), (0, 1, 2))
        assert divergence == pytest.approx(record["allocation"]["divergence"][-1], rel=1e-4)


def test_memory_that_is_short_for_shares_of_zeros_is_one_line(
    tiny_model, tiny_hessians, tmp_path, monkeypatch
):
    def short(*given):
        raise torch.OutOfMemoryError("no memory for this")

    monkeypatch.setattr(evopress, "evolve", short)
    asked = {"method": "evopress", "source": "traces", "sequences": 3, "step": 0.1}
    definition = {"allocation": asked, "propagation": "sequential"}
    with pytest.raises(RacError, match="^memory is short for 'allocation': no memory for this$"):
        compress_with_sequences(definition, tiny_model, tiny_hessians, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_smoothed_norms_and_weights_cancel(tiny_model, tiny_hessians, tmp_path):
    definition = {"quantize": {"scheme": "w8a8", "method": "rtn", "smooth": 0.8}}
    record = compress_by(definition, tiny_model, tiny_hessians, tmp_path / "out")
    loaded = checkpoint.load_model(tmp_path / "out", "float32")
    dense = checkpoint.load_model(tiny_model, "float32")
    for group in in_scope(read_json(tiny_model / "model.json")["linear_groups"], Scope()):
        factors = 1.0
        if group["norm"]:
            before, after = (x.get_submodule(group["norm"]).weight for x in (dense, loaded))
            factors = (before / after).detach()
            assert (factors - 1).abs().max() > 0.1
        for name in group["layers"]:
            weight = loaded.get_submodule(name).weight.detach() / factors
            torch.testing.assert_close(
                weight, dense.get_submodule(name).weight.detach(), rtol=0, atol=0.01
            )
    assert all(layer["relative_error"] < 1e-3 for layer in record["layers"])
    assert "smoothed" in (tmp_path / "out/README.md").read_text()


def test_a_norm_that_feeds_layers_out_of_scope_is_not_smoothed(
    random_phi, save_model, write_sequences, tmp_path
):
    folder = save_model(random_phi, tmp_path / "model")
    sequences = write_sequences(tmp_path / "s", folder, "traces", [60, 30])
    hessians.accumulate(folder, sequences, "float32", tmp_path / "h")
    definition = {
        "quantize": {"scheme": "w8a8", "smooth": 0.8},
        "scope": {"projections": "mlp"},
    }
    compress_by(definition, folder, {"traces": tmp_path / "h"}, tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    for name in (name for name in before if "layernorm" in name):
        assert torch.equal(before[name], after[name])


def test_missing_sequences_are_one_line(tiny_model, tiny_hessians, tmp_path):
    variant = Variant(solver="sparsegpt", sparsity=0.5, propagation="sequential")
    with pytest.raises(RacError, match="nothing was given of 'traces.prompt'; given: nothing"):
        compress(
            tiny_model, tiny_hessians, RAC, variant, "unstructured 0.5", NAMES, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_stored_by_an_older_name_is_one_line_that_says_what_to_do(
    save_model, tmp_path
):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = AutoConfig.for_model("gpt_neox", vocab_size=64, num_hidden_layers=1, **sizes)
    network = AutoModelForCausalLM.from_config(config)
    folder = save_model(network, tmp_path / "model")
    assert "embed_out.weight" in weights.locate(folder)
    variant = Variant(solver="magnitude", sparsity=0.5, scope=Scope(lm_head=True))
    with pytest.raises(
        RacError, match="no file holds lm_head.weight, .*older name.* save_original_format"
    ):
        compress(folder, {}, None, variant, "unstructured 0.5", NAMES, tmp_path / "out")
    network.save_pretrained(folder, save_original_format=False)
    record = read_json(folder / "model.json")
    (folder / "model.json").unlink()
    write_record(folder / "model.json", record | hashes(folder))
    compress(folder, {}, None, variant, "unstructured 0.5", NAMES, tmp_path / "out")
    head = checkpoint.load_model(tmp_path / "out", "float32").get_output_embeddings().weight
    assert (head == 0).float().mean() == pytest.approx(0.5, abs=1e-3)
