"""Log-likelihoods in batches against one sequence at a time, and the same after a kill."""

import importlib.metadata
import math
import random

import pytest
import torch

from rac import blocks, likelihoods
from rac.artifacts import read_json, read_jsonl, write_jsonl
from rac.errors import RacError
from rac.likelihoods import Likelihood, Window, score, write_likelihoods


@pytest.fixture(scope="module")
def model(random_qwen2):
    return random_qwen2(seed=3)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setitem(blocks.BATCH_TOKENS, "cpu", 40)


def make_windows(count=30, seed=0):
    """Windows of many lengths; some differ in their last token only, or in where the context ends."""
    drawn = random.Random(seed)
    windows = []
    for _ in range(count):
        ids = [drawn.randrange(3, 700) for _ in range(drawn.randint(2, 30))]
        cut = drawn.randint(1, len(ids) - 1)
        windows.append(Window(ids[:cut], ids[cut:]))
        windows.append(Window(ids[:-1], [drawn.randrange(3, 700)]))
    return windows


@torch.inference_mode()
def slow(model, window):
    """One sequence by itself, in float64."""
    logits = model(torch.tensor([[*window.context, *window.continuation]])).logits[0].double()
    total, greedy = 0.0, True
    for place, token in enumerate(window.continuation, len(window.context)):
        weights = logits[place - 1].exp()
        total += math.log(weights[token] / weights.sum())
        greedy = greedy and weights.argmax().item() == token
    return Likelihood(total, greedy)


def test_batches_say_what_one_sequence_at_a_time_does(model, small_batches):
    windows = make_windows()
    best = model(torch.tensor([windows[0].context])).logits[0, -1].argmax().item()
    windows.append(Window(windows[0].context, [best]))
    batches = list(score(model, windows))
    assert len(batches) > 5
    found = {i: one for batch in batches for i, one in batch.items()}
    assert sorted(found) == list(range(len(windows)))
    for i, window in enumerate(windows):
        expected = slow(model, window)
        assert found[i].log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-5)
        assert found[i].is_greedy == expected.is_greedy
    assert found[len(windows) - 1].is_greedy and not found[0].is_greedy


def test_windows_that_share_all_but_the_last_token_are_run_once(model, monkeypatch):
    weights = model(torch.tensor([[5, 6]])).logits[0, -1].double().softmax(-1)
    run, forward = [], model.forward

    def counting(**given):
        run.append(given["input_ids"].tolist())
        return forward(**given)

    monkeypatch.setattr(model, "forward", counting)
    (found,) = score(model, [Window([5, 6], [token]) for token in range(100)])
    assert run == [[[5, 6]]]
    for token, one in found.items():
        assert math.exp(one.log_likelihood) == pytest.approx(weights[token].item(), rel=1e-5)


def test_what_is_done_is_not_run_and_changes_nothing_else(model, small_batches):
    windows = make_windows()
    whole = list(score(model, windows))
    done = frozenset([*whole[0], *list(whole[1])[:1]])
    rest = list(score(model, windows, done))
    assert rest[0] == {i: one for i, one in whole[1].items() if i not in done}
    assert rest[1:] == whole[2:]


def test_logits_that_are_no_numbers_name_the_request(random_qwen2, save_model, tmp_path):
    broken = random_qwen2(seed=3, tie_word_embeddings=False)
    broken.model.embed_tokens.weight.data[77] = math.nan
    folder = save_model(broken, tmp_path / "m")
    windows = [[[5], [6]], [[5, 9], [6, 7]], [[8, 77], [6, 7]], [[5], [9]]]
    rows = [
        {"doc_id": i, "id": f"p{i}", "request": i % 2, "arguments": [], "windows": [window]}
        for i, window in enumerate(windows)
    ]
    write_jsonl(tmp_path / "requests.jsonl.zst", rows)
    with pytest.raises(RacError, match=r"^request 0 of problem 'p2': the model's logits are not"):
        write_likelihoods(
            *("float32", folder, tmp_path / "requests.jsonl.zst", "code"),
            tmp_path / "generations.jsonl.zst",
        )


def short_of_memory(model, monkeypatch, limit):
    """Let a model's forward pass break off above `limit` tokens; the shapes that it was asked for."""
    asked, forward = [], type(model).forward

    def short(self, **given):
        asked.append(tuple(given["input_ids"].shape))
        if given["input_ids"].numel() > limit:
            raise torch.OutOfMemoryError("no memory\nfor this")
        return forward(self, **given)

    monkeypatch.setattr(type(model), "forward", short)
    return asked


def test_a_batch_that_memory_is_short_for_is_run_in_halves(model, monkeypatch, capsys):
    monkeypatch.setitem(blocks.BATCH_TOKENS, "cpu", 120)
    windows = make_windows()
    *first, last = score(model, windows)
    expected = {i: one for batch in first for i, one in batch.items()}
    asked = short_of_memory(model, monkeypatch, 30)
    found = list(score(model, windows, frozenset(last)))
    assert sorted(i for batch in found for i in batch) == sorted(expected)
    for batch in found:
        for i, one in batch.items():
            assert one.log_likelihood == pytest.approx(expected[i].log_likelihood, rel=1e-5)
            assert one.is_greedy == expected[i].is_greedy
    broken = [rows * longest for rows, longest in asked if rows * longest > 30]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"memory is short: {tokens // 2} tokens at once from now on (no memory for this)"
        for tokens in broken
    ]
    counts = [one.halvings for batch in found for one in batch.values()]
    assert counts[-1] == max(counts) == len(broken) > 1


def test_memory_that_is_short_for_a_sequence_by_itself_is_one_line(model, monkeypatch):
    short_of_memory(model, monkeypatch, 3)
    with pytest.raises(
        RacError, match="^memory is short for a sequence of 4 tokens: no memory for"
    ):
        list(score(model, [Window([5, 6], [7]), Window([5, 6, 7, 8], [9])]))


def test_halvings_are_on_record(model, tiny_model, requests, tmp_path, monkeypatch):
    write(tiny_model, requests, tmp_path / "whole")
    assert read_json(tmp_path / "whole/generation.json")["halvings"] == 0
    short_of_memory(model, monkeypatch, 100)
    write(tiny_model, requests, tmp_path / "short")
    assert read_json(tmp_path / "short/generation.json")["halvings"] > 0


@pytest.fixture
def requests(tmp_path):
    windows = make_windows(12)
    rows = [
        {"doc_id": i, "id": f"p{i}", "request": 0, "arguments": [], "windows": windows[2 * i :][:2]}
        for i in range(12)
    ]
    write_jsonl(tmp_path / "requests.jsonl.zst", rows)
    return tmp_path / "requests.jsonl.zst"


def write(model, requests, folder):
    output = folder / "generations.jsonl.zst"
    write_likelihoods("float32", model, requests, "c", output)
    return read_jsonl(output)


def test_a_row_a_request_adds_up_its_windows(tiny_model, requests, tmp_path, random_qwen2):
    rows = write(tiny_model, requests, tmp_path / "out")
    asked = read_jsonl(requests)
    model = random_qwen2()
    for row, request in zip(rows, asked, strict=True):
        windows = [Window(*window) for window in request["windows"]]
        of_windows = [slow(model, window) for window in windows]
        assert row == {
            "doc_id": request["doc_id"],
            "id": request["id"],
            "request": 0,
            "log_likelihood": pytest.approx(sum(one.log_likelihood for one in of_windows)),
            "is_greedy": all(one.is_greedy for one in of_windows),
            "tokens": sum(len(window.continuation) for window in windows),
        }
    record = read_json(tmp_path / "out" / "generation.json")
    tokens = sum(
        len(w.context) + len(w.continuation) - 1
        for r in asked
        for w in map(Window._make, r["windows"])
    )
    assert record["tokens"] == tokens and record["seconds"] > 0
    made = record["provenance"]["inputs"]["engine"]
    assert made == f"transformers {importlib.metadata.version('transformers')}"


def test_a_stage_that_broke_off_goes_on_with_the_same_bytes(
    tiny_model, requests, tmp_path, monkeypatch, small_batches
):
    write(tiny_model, requests, tmp_path / "unbroken")
    run, batches = likelihoods.score, []

    def fragile(*arguments):
        for found in run(*arguments):
            batches.append(sorted(found))
            if len(batches) == 3:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(likelihoods, "score", fragile)
    with pytest.raises(KeyboardInterrupt):
        write(tiny_model, requests, tmp_path / "broken")
    write(tiny_model, requests, tmp_path / "broken")
    unbroken, broken = (
        (tmp_path / name / "generations.jsonl.zst").read_bytes() for name in ("unbroken", "broken")
    )
    assert broken == unbroken
    assert batches[2] == batches[3] and sorted(sum(batches[3:], sum(batches[:2], []))) == list(
        range(24)
    )


def test_requests_that_were_cut_are_refused(tmp_path, cut):
    requests, output = tmp_path / "requests.jsonl.zst", tmp_path / "generations.jsonl.zst"
    write_jsonl(requests, [{"doc_id": i, "id": "p", "windows": [[[5], [6]]]} for i in range(2)])
    cut(requests)
    with pytest.raises(RacError, match="is not the file that its requests.json was written for"):
        write_likelihoods("float32", tmp_path, requests, "code", output)
