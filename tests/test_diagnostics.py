import pytest
import torch
from torch.nn.functional import log_softmax

from rac import diagnostics, hessians, sources, token_errors
from rac.artifacts import read_json, read_jsonl
from rac.compress import compress
from rac.errors import RacError
from rac.models import checkpoint as checkpoints
from rac.variants import Variant

LENGTHS = [40, 17, 3, 64, 1]


@pytest.fixture(scope="module")
def inputs(tiny_model, write_sequences, tmp_path_factory):
    """Held-out sequences and Hessians of the tiny model, and a checkpoint pruned by magnitude."""
    folder = tmp_path_factory.mktemp("heldout")
    thoughts = write_sequences(folder / "thoughts" / "s", tiny_model, "traces", LENGTHS, seed=7)
    text = write_sequences(folder / "c4" / "s", tiny_model, "text", LENGTHS, seed=8)
    hessians.accumulate(tiny_model, thoughts, "float32", folder / "hessians")
    variant = Variant(solver="magnitude", sparsity=[0.5])
    names = {"model": "tiny", "calibration": "none", "variant": "magnitude"}
    pruned = folder / "pruned"
    compress(tiny_model, {}, None, variant, "unstructured 0.5", names, pruned)
    return {"pruned": pruned, "stored": folder / "hessians", "thoughts": thoughts, "text": text}


def diagnose(inputs, checkpoint, dense, output):
    arguments = (inputs[key] for key in ("stored", "thoughts", "text"))
    tokens = output.with_name("tokens.jsonl.zst")
    diagnostics.diagnose(checkpoint, dense, *arguments, "float32", output, tokens)
    return read_json(output) | {"tokens": read_jsonl(tokens)}


def slow_losses(network, file, skip_prompt):
    """Log-probabilities one sequence and one token at a time, in float64."""
    losses = []
    for sequence in sources.read(file):
        with torch.no_grad():
            logits = network(input_ids=sequence.token_ids[None]).logits[0].double()
        start = sequence.prompt_length if skip_prompt else 1
        predicted = range(max(start, 1), len(sequence.token_ids))
        nats = [-log_softmax(logits[i - 1], -1)[sequence.token_ids[i]].item() for i in predicted]
        if nats:
            losses.append((sum(nats), len(nats)))
    return losses


@torch.no_grad()
def slow_divergences(network, dense, file, skip_prompt):
    """Σ p (log p − log q) over the predicted tokens of each sequence, in float64."""
    found = []
    for sequence in sources.read(file):
        log_p, log_q = (
            log_softmax(model(input_ids=sequence.token_ids[None]).logits[0].double(), -1)
            for model in (dense, network)
        )
        start = max(sequence.prompt_length if skip_prompt else 1, 1)
        if start < len(sequence.token_ids):
            each = (log_p.exp() * (log_p - log_q)).sum(-1)
            found.append(each[start - 1 : len(sequence.token_ids) - 1].sum().item())
    return found


@pytest.mark.parametrize("limit", [2**27, 1])
def test_losses_against_a_loop_over_tokens(inputs, tiny_model, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(diagnostics, "LOGITS", limit)
    found = diagnose(inputs, inputs["pruned"], tiny_model, tmp_path / "d.json")
    network = checkpoints.load_model(inputs["pruned"], "float32")
    dense = checkpoints.load_model(tiny_model, "float32")
    for role, source, skip in (("thoughts", "thoughts", True), ("text", "c4", False)):
        expected = slow_losses(network, inputs[role], skip)
        scored = found["per_sequence"][role]
        assert [tokens for *_, tokens in scored] == [tokens for _, tokens in expected]
        assert [loss for loss, *_ in scored] == pytest.approx([loss for loss, _ in expected], 1e-4)
        divergences = slow_divergences(network, dense, inputs[role], skip)
        assert [kl for _, kl, _ in scored] == pytest.approx(divergences, rel=1e-3)
        kl = sum(divergences) / sum(tokens for _, tokens in expected)
        assert found["losses"][role]["kl"] == pytest.approx(kl, rel=1e-3)
        assert 0 < found["losses"][role]["kl_se"] < found["losses"][role]["kl"]
        tokens = sum(tokens for _, tokens in expected)
        assert found["losses"][role]["source"] == source
        assert found["losses"][role]["tokens"] == tokens
        assert found["losses"][role]["sequences"] == len(expected) == 4
        loss = sum(loss for loss, _ in expected) / tokens
        assert found["losses"][role]["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["provenance"]["inputs"]["dtype"] == "float32"
    assert found["losses"]["text"]["tokens"] == sum(LENGTHS) - len(LENGTHS)


def test_layer_errors_are_those_of_the_outputs(inputs, tiny_model, tmp_path):
    found = diagnose(inputs, inputs["pruned"], tiny_model, tmp_path / "d.json")
    dense, pruned = (
        checkpoints.load_model(path, "float32") for path in (tiny_model, inputs["pruned"])
    )
    for layer in (found["layers"][0], found["layers"][-1]):
        before, after = (network.get_submodule(layer["name"]) for network in (dense, pruned))
        lost, whole = {"prompt": 0.0, "decode": 0.0}, {"prompt": 0.0, "decode": 0.0}
        for sequence in sources.read(inputs["thoughts"]):
            seen = []
            handle = before.register_forward_pre_hook(
                lambda _, args, seen=seen: seen.append(args[0])
            )
            with torch.no_grad():
                dense(input_ids=sequence.token_ids[None])
            handle.remove()
            for position, x in enumerate(seen[0][0].double()):
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


@pytest.mark.parametrize("limit", [4096, 1])
def test_errors_of_a_token_are_those_of_its_outputs(
    inputs, tiny_model, tmp_path, monkeypatch, limit
):
    monkeypatch.setattr(token_errors, "TOKENS", limit)
    found = diagnose(inputs, inputs["pruned"], tiny_model, tmp_path / "d.json")
    dense, pruned = (
        checkpoints.load_model(path, "float32") for path in (tiny_model, inputs["pruned"])
    )
    sequences = sources.read(inputs["thoughts"])
    assert [row["prompt_length"] for row in found["tokens"]] == [
        sequence.prompt_length for sequence in sequences
    ]
    for sequence, row in zip(sequences, found["tokens"], strict=True):
        assert len(row["errors"]) == len(sequence.token_ids)
        expected = 0.0
        for layer in found["layers"]:
            before, after = (network.get_submodule(layer["name"]) for network in (dense, pruned))
            seen = []
            handle = before.register_forward_pre_hook(
                lambda _, args, seen=seen: seen.append(args[0])
            )
            with torch.no_grad():
                dense(input_ids=sequence.token_ids[None])
            handle.remove()
            x = seen[0][0, -1].double()
            lost = ((before.weight - after.weight).double() @ x).square().sum()
            expected += (lost / (before.weight.double() @ x).square().sum()).item()
        assert row["errors"][-1] == pytest.approx(expected / len(found["layers"]), rel=1e-3)


def test_errors_of_a_smoothed_model_are_those_of_its_outputs(
    inputs, tiny_model, tiny_hessians, tmp_path
):
    from rac.definitions import Calibration

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
    assert found["losses"]["text"]["kl"] == 0
    assert found["tokens"] == []


def test_nothing_to_predict_is_refused(inputs, tiny_model, write_sequences, tmp_path):
    text = write_sequences(tmp_path / "s", tiny_model, "text", [1, 1])
    with pytest.raises(RacError, match="holds no token to predict"):
        diagnose(inputs | {"text": text}, tiny_model, tiny_model, tmp_path / "d.json")
    assert not (tmp_path / "d.json").exists()


def test_sequences_of_another_model_are_refused(inputs, random_qwen2, save_model, tmp_path):
    other = save_model(random_qwen2(seed=1), tmp_path / "other")
    with pytest.raises(RacError, match="was made for another model"):
        diagnose(inputs, other, other, tmp_path / "d.json")


def test_a_sequence_whose_logits_are_not_numbers_is_named(random_qwen2):
    model = random_qwen2(tie_word_embeddings=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[77] = torch.nan
    read = [sources.Sequence(torch.tensor(ids), 1) for ids in ([5, 6, 7], [8, 77, 9], [3, 4])]
    with pytest.raises(RacError, match="sequence 1: the model's logits are not numbers"):
        diagnostics.score_sequences(model, None, read, skip_prompt=False)
