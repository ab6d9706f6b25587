import pytest
import torch
from torch.nn.functional import log_softmax

from rac import losses, sources, token_errors
from rac.artifacts import read_json, read_jsonl
from rac.errors import RacError
from rac.linear import decoder_groups
from rac.models import checkpoint as checkpoints
from rac.provenance import is_whole

LENGTHS = [40, 17, 3, 64, 1]


@pytest.fixture(scope="module")
def inputs(tiny_model, tiny_pruned, write_sequences, tmp_path_factory):
    """Held-out sequences of the tiny model, and a checkpoint pruned by magnitude."""
    folder = tmp_path_factory.mktemp("heldout")
    thoughts = write_sequences(folder / "thoughts" / "s", tiny_model, "traces", LENGTHS, seed=7)
    text = write_sequences(folder / "c4" / "s", tiny_model, "text", LENGTHS, seed=8)
    return {"pruned": tiny_pruned, "thoughts": thoughts, "text": text}


def measure(inputs, checkpoint, dense, output):
    tokens = output.with_name("tokens.jsonl.zst")
    sequences = (inputs[key] for key in ("thoughts", "text"))
    losses.measure_losses(checkpoint, dense, *sequences, "float32", output, tokens)
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
    monkeypatch.setattr(losses, "LOGITS", limit)
    found = measure(inputs, inputs["pruned"], tiny_model, tmp_path / "l.json")
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
    assert found["provenance"]["inputs"]["dtype"] == "float32" and found["halvings"] == 0
    assert found["losses"]["text"]["tokens"] == sum(LENGTHS) - len(LENGTHS)


@pytest.mark.parametrize("limit", [4096, 1])
def test_errors_of_a_token_are_those_of_its_outputs(
    inputs, inputs_of, tiny_model, tmp_path, monkeypatch, limit
):
    monkeypatch.setattr(token_errors, "TOKENS", limit)
    found = measure(inputs, inputs["pruned"], tiny_model, tmp_path / "l.json")
    dense, pruned = (
        checkpoints.load_model(path, "float32") for path in (tiny_model, inputs["pruned"])
    )
    sequences = sources.read(inputs["thoughts"])
    groups = decoder_groups(read_json(tiny_model / "model.json")["linear_groups"])
    layers = [name for group in groups for name in group["layers"]]
    assert [row["prompt_length"] for row in found["tokens"]] == [
        sequence.prompt_length for sequence in sequences
    ]
    for sequence, row in zip(sequences, found["tokens"], strict=True):
        assert len(row["errors"]) == len(sequence.token_ids)
        expected = 0.0
        for name in layers:
            before, after = (network.get_submodule(name) for network in (dense, pruned))
            x = inputs_of(dense, before, sequence.token_ids)[-1]
            lost = ((before.weight - after.weight).double() @ x).square().sum()
            expected += (lost / (before.weight.double() @ x).square().sum()).item()
        assert row["errors"][-1] == pytest.approx(expected / len(layers), rel=1e-3)


def test_batches_that_memory_has_no_room_for_are_halved_and_it_is_on_record(
    inputs, tiny_model, tmp_path, monkeypatch, capsys
):
    whole = measure(inputs, inputs["pruned"], tiny_model, tmp_path / "whole.json")
    load = checkpoints.load_model

    def load_short(folder, dtype):
        """A model on a device that has room for 80 tokens at once."""
        model = load(folder, dtype)
        forward = model.base_model.forward

        def short(input_ids, **kwargs):
            if len(input_ids) > 1 and input_ids.numel() > 80:
                raise torch.OutOfMemoryError("no memory for this")
            return forward(input_ids=input_ids, **kwargs)

        model.base_model.forward = short
        return model

    monkeypatch.setattr(checkpoints, "load_model", load_short)
    found = measure(inputs, inputs["pruned"], tiny_model, tmp_path / "l.json")
    # Of 5 sequences of up to 64 tokens 5, 2, 1 at once, in three passes: thoughts, text, errors by token.
    assert found["halvings"] == 2 and whole["halvings"] == 0
    assert capsys.readouterr().err.count("memory is short: 64 tokens at once from now on") == 3
    for role in ("thoughts", "text"):
        for ours, theirs in zip(
            found["per_sequence"][role], whole["per_sequence"][role], strict=True
        ):
            assert ours == pytest.approx(theirs, rel=1e-4)
    for ours, theirs in zip(found["tokens"], whole["tokens"], strict=True):
        assert ours["errors"] == pytest.approx(theirs["errors"], rel=1e-2)


def test_the_dense_model_diverges_nowhere_from_itself(inputs, tiny_model, tmp_path):
    found = measure(inputs, tiny_model, tiny_model, tmp_path / "l.json")
    assert found["losses"]["text"]["kl"] == 0
    assert found["tokens"] == [] and is_whole({k: v for k, v in found.items() if k != "tokens"})


def test_a_narrower_model_has_losses_and_no_errors_by_token(
    inputs, tiny_model, tiny_narrow, tmp_path
):
    found = measure(inputs, tiny_narrow, tiny_model, tmp_path / "l.json")
    assert found["losses"]["thoughts"]["kl"] > 0 and found["tokens"] == []


def test_nothing_to_predict_is_refused(inputs, tiny_model, write_sequences, tmp_path):
    text = write_sequences(tmp_path / "s", tiny_model, "text", [1, 1])
    with pytest.raises(RacError, match="holds no token to predict"):
        measure(inputs | {"text": text}, tiny_model, tiny_model, tmp_path / "l.json")
    assert not (tmp_path / "l.json").exists()


def test_sequences_of_another_model_are_refused(inputs, random_qwen2, save_model, tmp_path):
    other = save_model(random_qwen2(seed=1), tmp_path / "other")
    with pytest.raises(RacError, match="was made for another model"):
        measure(inputs, other, other, tmp_path / "l.json")


def test_a_sequence_whose_logits_are_not_numbers_is_named(random_qwen2):
    model = random_qwen2(tie_word_embeddings=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[77] = torch.nan
    read = [sources.Sequence(torch.tensor(ids), 1) for ids in ([5, 6, 7], [8, 77, 9], [3, 4])]
    for network, reference in ((model, None), (random_qwen2(tie_word_embeddings=False), model)):
        with pytest.raises(RacError, match="sequence 1: the model's logits are not numbers"):
            losses.score_sequences(network, reference, read, skip_prompt=False)
