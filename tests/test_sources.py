"""Sources meet their budget of tokens exactly, and keep token ids as they are."""

import itertools
import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rac import sources
from rac.artifacts import read_json, sha256_file, write_jsonl
from rac.definitions import Chat, Source
from rac.errors import RacError
from rac.models import checkpoint
from rac.provenance import hashes, is_whole, write_record
from rac.sources import cut_to_budget, text_windows

PLAIN = Chat()


def definition(kind: str, tokens: int, **values) -> Source:
    return Source.model_validate({"kind": kind, "dataset": "d", "tokens": tokens} | values)


def write(source, model, rows, output, traces=None):
    data = output.with_name("data.jsonl")
    write_jsonl(data, rows)
    sources.write_sequences(source, "mine", model, data, traces, output, code="f00d")
    record = read_json(output.with_suffix(".json"))
    made = record["provenance"]
    assert is_whole(record) and record["sha256"] == hashes(output.parent, output.name)["sha256"]
    assert made["inputs"]["dataset"] == sha256_file(data)
    assert made["inputs"]["source"]["tokens"] == source.tokens == record["tokens"]
    assert made["inputs"]["files"]["tokenizer.json"] and made["code"].endswith("+f00d")
    return sources.read(output)


@given(
    sequences=st.lists(
        st.lists(st.integers(0, 9), min_size=1, max_size=7).flatmap(
            lambda ids: st.tuples(st.just(ids), st.integers(0, len(ids)))
        ),
        max_size=6,
    ),
    tokens=st.integers(1, 30),
)
def test_a_budget_is_met_exactly_or_refused(sequences, tokens):
    held = sum(len(ids) for ids, _ in sequences)
    if held < tokens:
        with pytest.raises(RacError, match=f"'s' holds {held} tokens and its budget is {tokens}:"):
            list(cut_to_budget(sequences, tokens, "s"))
        return
    taken = list(cut_to_budget(sequences, tokens, "s"))
    whole = [token for ids, _ in sequences for token in ids]
    assert torch.cat([sequence.token_ids for sequence in taken]).tolist() == whole[:tokens]
    for (ids, prompt), sequence in zip(sequences, taken, strict=False):
        assert sequence.token_ids.tolist() == ids[: len(sequence.token_ids)]
        assert sequence.prompt_length == min(prompt, len(sequence.token_ids))
    assert all(
        len(sequence.token_ids) == len(ids)
        for (ids, _), sequence in zip(sequences, taken[:-1], strict=False)
    )


def test_an_endless_source_is_read_as_far_as_its_budget():
    assert len(list(cut_to_budget(itertools.repeat(([1, 2, 3], 3)), 7, "s"))) == 3


@given(st.lists(st.lists(st.integers(3, 9), max_size=8), max_size=6), st.integers(1, 9))
def test_windows_hold_all_documents_with_a_stop_token_after_each(documents, window):
    windows = list(text_windows(documents, window, 2))
    assert [t for ids, _ in windows for t in ids] == [t for ids in documents for t in [*ids, 2]]
    assert all(len(ids) == window for ids, _ in windows[:-1])
    assert all(prompt == len(ids) > 0 for ids, prompt in windows)


def test_text_is_cut_into_windows(tiny_model, tmp_path):
    rows = [{"id": str(i), "text": f"A plain text, number {i}.\u2028 <|im_end|>"} for i in range(9)]
    taken = write(definition("text", 50, window=16), tiny_model, rows, tmp_path / "s")
    assert [len(sequence.token_ids) for sequence in taken] == [16, 16, 16, 2]
    tokenizer = checkpoint.load_tokenizer(tiny_model)
    stop = checkpoint.stop_tokens(tiny_model)[0]
    first = [*tokenizer.encode(rows[0]["text"], add_special_tokens=False), stop]
    flat = torch.cat([sequence.token_ids for sequence in taken]).tolist()
    assert flat[: min(len(first), 50)] == first[:50]


def test_prompts_go_through_the_chat_template(tiny_model, tmp_path):
    rows = [{"id": "a", "problem": "What is 1 + 1?"}, {"id": "b", "problem": "{problem} {x}"}]
    source = definition("prompts", 20, prompt="{problem} Think.")
    taken = write(source, tiny_model, rows, tmp_path / "s")
    tokenizer = checkpoint.load_tokenizer(tiny_model)
    said = [{"role": "user", "content": "What is 1 + 1? Think."}]
    text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert taken[0].token_ids.tolist() == ids[:20]
    assert (
        tokenizer.decode(sources.prompt_ids(rows[1], source, tokenizer, PLAIN)).count("{x} Think.")
        == 1
    )


def test_traces_keep_their_token_ids_and_prompt_lengths(tiny_model, tmp_path):
    rows = [
        {"token_ids": [5, 6, 7, 8], "prompt_length": 2},
        {"token_ids": [9, 2, 2, 2], "prompt_length": 3},
        {"token_ids": [1], "prompt_length": 1},
    ]
    write_jsonl(tmp_path / "t.jsonl.zst", rows)
    source = definition("traces", 6)
    taken = write(source, tiny_model, [], tmp_path / "s", tmp_path / "t.jsonl.zst")
    assert [(s.token_ids.tolist(), s.prompt_length) for s in taken] == [
        ([5, 6, 7, 8], 2),
        ([9, 2], 2),
    ]
    assert taken[0].token_ids.dtype == torch.int64
    made = sources.read_metadata(tmp_path / "s")
    assert (made["kind"], made["model"]) == ("traces", checkpoint.identity(tiny_model))
    content = bytearray((tmp_path / "s").read_bytes())
    content[-1] ^= 1
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(RacError, match="its token ids are not those written"):
        sources.read(tmp_path / "s")


def test_the_same_sequences_are_the_same_bytes(tiny_model, tmp_path):
    written = set()
    for i in range(8):
        folder = tmp_path / str(i)
        folder.mkdir()
        write(definition("text", 5), tiny_model, [{"id": "a", "text": "A text."}], folder / "s")
        written.add((folder / "s").read_bytes())
    assert len(written) == 1


def test_too_few_tokens_leave_no_file(tiny_model, tmp_path):
    with pytest.raises(RacError, match=r"source 'mine' holds \d+ tokens and its budget is 999"):
        write(definition("text", 999), tiny_model, [{"id": "a", "text": "Hi."}], tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_missing_and_a_damaged_file_are_one_line(tmp_path, write_sequences, tiny_model):
    with pytest.raises(RacError, match="absent is missing"):
        sources.read(tmp_path / "absent")
    file = write_sequences(tmp_path / "s", tiny_model, "text", [5, 6])
    save_file({"weights": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(RacError, match="foreign is damaged"):
        sources.read(tmp_path / "foreign")
    file.write_bytes(file.read_bytes()[:-3])
    for read in (sources.read, sources.read_metadata):
        with pytest.raises(RacError, match="s is damaged: .*; delete it"):
            read(file)


def test_solutions_are_prompts_with_the_dataset_s_own_answers(tiny_model, tmp_path):
    rows = [{"id": "a", "problem": "What is 1 + 1?", "worked": "It is 2."}]
    source = definition("solutions", 12, solution="worked")
    tokenizer = checkpoint.load_tokenizer(tiny_model)
    prompt = sources.prompt_ids(rows[0], source, tokenizer, PLAIN)
    solution = tokenizer.encode("It is 2.", add_special_tokens=False)
    stop = checkpoint.stop_tokens(tiny_model)[0]
    whole = definition("solutions", len(prompt) + len(solution) + 1, solution="worked")
    (taken,) = write(whole, tiny_model, rows, tmp_path / "s")
    assert taken.token_ids.tolist() == [*prompt, *solution, stop]
    assert taken.prompt_length == len(prompt)
    with pytest.raises(RacError, match="row a of dataset 'd' has no text in column 'solution'"):
        write(definition("solutions", 12), tiny_model, rows, tmp_path / "t")


def test_traces_of_a_model_with_another_vocabulary_are_refused(tiny_model, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    file = other / "tokenizer.json"
    write_jsonl(tmp_path / "data.jsonl", [])
    write_jsonl(tmp_path / "t.jsonl.zst", [{"token_ids": [5, 6, 7], "prompt_length": 1}])
    source = definition("traces", 3, traces_of={"source": "s", "model": "other"})
    inputs = tmp_path / "data.jsonl", tmp_path / "t.jsonl.zst", tmp_path / "s"
    sources.write_sequences(source, "mine", tiny_model, *inputs, other)
    assert sources.read(tmp_path / "s")[0].token_ids.tolist() == [5, 6, 7]
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["another word"] = len(tokenizer["model"]["vocab"]) + 9
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(RacError, match=r"other/tokenizer.json is not the file that its model.json"):
        sources.write_sequences(source, "mine", tiny_model, *inputs, other)
    record = read_json(other / "model.json")
    of_files = record["sha256"] | hashes(other, file.name)["sha256"]
    write_record(other / "model.json", record | {"sha256": of_files})
    with pytest.raises(RacError, match="sources.mine.traces_of: .*other has another vocabulary"):
        sources.write_sequences(source, "mine", tiny_model, *inputs, other)


def test_chosen_traces_are_decoded_to_be_graded(tiny_model, tmp_path):
    tokenizer = checkpoint.load_tokenizer(tiny_model)
    rows = [{"id": "a", "problem": "What is 1 + 1?", "answer": "2"}]
    prompt = sources.prompt_ids(rows[0], definition("prompts", 1), tokenizer, PLAIN)
    said = ["So 3.</think>\\boxed{3}", "So 2.</think>\\boxed{2}", "So \\boxed{2}"]
    traces = [
        {
            "id": "a",
            "token_ids": prompt + tokenizer.encode(text, add_special_tokens=False),
            "prompt_length": len(prompt),
            "finish_reason": "stop",
        }
        for text in said
    ]
    write_jsonl(tmp_path / "t.jsonl.zst", traces)
    source = definition("traces", 9, traces_of={"source": "s"}, select={"correct": True})
    budget = source.model_copy(update={"tokens": len(traces[1]["token_ids"])})
    (taken,) = write(budget, tiny_model, rows, tmp_path / "s", tmp_path / "t.jsonl.zst")
    assert taken.token_ids.tolist() == traces[1]["token_ids"]


def test_the_shortest_traces_of_programs_need_no_answers(tiny_model, tmp_path):
    rows = [{"id": "a", "problem": "Write a program."}]
    traces = [
        {"id": "a", "token_ids": [5] * n, "prompt_length": 1, "finish_reason": "stop"}
        for n in (9, 4)
    ]
    write_jsonl(tmp_path / "t.jsonl.zst", traces)
    source = definition("traces", 4, traces_of={"source": "s"}, select={"order": "shortest"})
    (taken,) = write(source, tiny_model, rows, tmp_path / "s", tmp_path / "t.jsonl.zst")
    assert taken.token_ids.tolist() == [5] * 4


@pytest.mark.parametrize(
    ("changed", "record"), [("data.jsonl", "meta.json"), ("traces.jsonl.zst", "info.json")]
)
def test_rows_that_were_cut_are_refused(changed, record, tiny_model, tmp_path, cut):
    write_jsonl(tmp_path / "data.jsonl", [{"id": "a", "text": "so"}] * 2)
    write_jsonl(tmp_path / "traces.jsonl.zst", [{"token_ids": [5, 6, 7], "prompt_length": 1}] * 2)
    cut(tmp_path / changed)
    files = tmp_path / "data.jsonl", tmp_path / "traces.jsonl.zst", tmp_path / "s.safetensors"
    with pytest.raises(RacError, match=f"{changed} is not the file that its {record} was written"):
        sources.write_sequences(definition("traces", 3), "mine", tiny_model, *files)
    assert not files[2].exists()
