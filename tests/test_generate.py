"""Answers: a row a problem and sample, the text as the model wrote it, and the same after a kill."""

import importlib.metadata

import pytest

from rac import generate
from rac.artifacts import read_json, read_jsonl, write_jsonl
from rac.definitions import Eval, Model
from rac.engines import Completion, sample_seed, samples
from rac.errors import RacError
from rac.generate import Asked, write_generations, write_shard
from rac.models.checkpoint import load_tokenizer

MODEL = Model.model_validate({"embedded": "reasoner", "dtype": "float32"})
EVAL = Eval(task="t", dataset="d", samples=2, max_new_tokens=6, batch=2, seed=5)


@pytest.fixture
def requests(tmp_path):
    rows = [{"doc_id": i, "id": f"p{i}", "prompt": "", "token_ids": [9 + i, 4]} for i in range(3)]
    write_jsonl(tmp_path / "requests.jsonl.zst", rows)
    return tmp_path / "requests.jsonl.zst"


def asked(evaluation, model, requests):
    return Asked(evaluation, MODEL, model, requests, "transformers", 1, "c")


def write(model, requests, folder, evaluation=EVAL):
    output = folder / "generations.jsonl.zst"
    write_generations(asked(evaluation, model, requests), output)
    return read_jsonl(output)


def test_rows_are_by_problem_then_sample_with_their_own_seeds(tiny_model, requests, tmp_path):
    rows = write(tiny_model, requests, tmp_path / "out")
    pairs = [(row["doc_id"], row["sample"]) for row in rows]
    assert pairs == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(row["seed"] == sample_seed(row["id"], row["sample"], 5) for row in rows)
    record = read_json(tmp_path / "out" / "generation.json")
    made = record["provenance"]["inputs"]["engine"]
    assert made == f"transformers {importlib.metadata.version('transformers')}"
    assert record["tokens"] == sum(row["tokens"] for row in rows)
    assert record["halvings"] == 0
    assert record["tokens_per_second"] == pytest.approx(record["tokens"] / record["seconds"])
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "generation.json",
        "generations.jsonl.zst",
        "work",
    ]


def test_text_is_what_was_sampled_without_the_stop_token_and_with_other_special_tokens(
    tiny_model, requests, tmp_path, monkeypatch
):
    tokenizer = load_tokenizer(tiny_model)
    said = "So 2 + 2 = 4 , isn 't it ?\n</think>\nüber"
    ids = tokenizer.encode(said, add_special_tokens=False)
    pad, stop = tokenizer.pad_token_id, 2
    answers = [Completion([*ids, pad, stop], "stop"), Completion(ids, "length")]
    answers *= 3
    monkeypatch.setattr(
        samples, "open_engine", lambda *task: lambda *prompts: [list(enumerate(answers))]
    )
    rows = write(tiny_model, requests, tmp_path / "out")
    finished, cut = rows[0], rows[2]  # samples 0 of all problems come first
    assert finished["text"] == said + tokenizer.convert_ids_to_tokens(pad)
    assert (finished["token_ids"], finished["tokens"]) == ([*ids, pad], len(ids) + 2)
    assert (cut["text"], cut["token_ids"], cut["tokens"]) == (said, ids, len(ids))
    assert (finished["finish_reason"], cut["finish_reason"]) == ("stop", "length")


def test_a_batch_that_was_halved_is_on_record(tiny_model, requests, tmp_path, monkeypatch):
    def open_engine(name, task):
        return lambda prompts, *more: [
            [(i, Completion([7], "length", min(i, 1))) for i in range(len(prompts))]
        ]

    monkeypatch.setattr(samples, "open_engine", open_engine)
    write(tiny_model, requests, tmp_path / "out")
    assert read_json(tmp_path / "out" / "generation.json")["halvings"] == 1


def test_what_reaches_the_engine_is_what_the_definitions_say(
    tiny_model, requests, tmp_path, monkeypatch
):
    opened = []

    def open_engine(name, task):
        opened.append(task)
        return lambda prompts, *more: [
            [(i, Completion([7], "length")) for i in range(len(prompts))]
        ]

    monkeypatch.setattr(samples, "open_engine", open_engine)
    sampling = {"temperature": 0.77, "top_p": 0.88, "top_k": 9}
    model = Model.model_validate({"embedded": "reasoner", "dtype": "float32", "sampling": sampling})
    output = tmp_path / "generations.jsonl.zst"
    write_generations(asked(EVAL, tiny_model, requests)._replace(model=model), output)
    (task,) = opened
    assert task.sampling.model_dump() == sampling
    assert (task.max_new_tokens, task.batch, task.longest, task.dtype) == (6, 2, 2, "float32")


def test_what_smaller_budgets_leave_is_a_part_of_the_text(
    tiny_model, requests, tmp_path, monkeypatch
):
    tokenizer = load_tokenizer(tiny_model)
    ids = tokenizer.encode("one two three ü", add_special_tokens=False)
    assert len(ids) > 6 and "\ufffd" in tokenizer.decode(ids[:-1])  # ü is two tokens
    answers = [Completion(ids, "length"), Completion([*ids[:2], 2], "stop")] * 3
    monkeypatch.setattr(
        samples, "open_engine", lambda *task: lambda *prompts: [list(enumerate(answers))]
    )
    cap = 2 * (len(ids) - 1)
    rows = write(
        tiny_model, requests, tmp_path / "out", EVAL.model_copy(update={"max_new_tokens": cap})
    )
    budgets = [max(cap // part, 1) for part in (8, 4, 2)]
    long, short = rows[0], rows[1]
    left = [long["text"][:count] for count in long["characters"]]
    assert left == [*(tokenizer.decode(ids[:budget]) for budget in budgets[:2]), "one two three "]
    assert short["characters"] == [
        len(tokenizer.decode(ids[:b])) if b < 3 else None for b in budgets
    ]


def test_more_samples_draw_only_the_new_ones(tiny_model, requests, tmp_path, monkeypatch):
    three = EVAL.model_copy(update={"samples": 3})
    at_once = write(tiny_model, requests, tmp_path / "at once", three)
    few = write(tiny_model, requests, tmp_path / "out")
    drawn, opened = [], samples.open_engine

    def counting(*arguments):
        run = opened(*arguments)

        def generate(prompts, seeds, update):
            drawn.extend(seeds)
            return run(prompts, seeds, update)

        return generate

    monkeypatch.setattr(samples, "open_engine", counting)
    more = write(tiny_model, requests, tmp_path / "out", three)
    assert more == at_once and [row for row in more if row["sample"] < 2] == few
    assert drawn == [row["seed"] for row in more if row["sample"] == 2]
    # Fewer are there already, and the weaker sandbox of a grader asks nothing of the model.
    fewer = three.model_copy(update={"samples": 1, "sandbox": "rlimits"})
    again = write(tiny_model, requests, tmp_path / "out", fewer)
    assert again == [row for row in more if row["sample"] == 0] and len(drawn) == 3


def test_a_stage_that_broke_off_goes_on_with_the_same_bytes(
    tiny_model, requests, tmp_path, break_off_once
):
    write(tiny_model, requests, tmp_path / "unbroken")
    computed = break_off_once()
    with pytest.raises(KeyboardInterrupt):
        write(tiny_model, requests, tmp_path / "broken")
    write(tiny_model, requests, tmp_path / "broken")
    unbroken, broken = (
        (tmp_path / name / "generations.jsonl.zst").read_bytes() for name in ("unbroken", "broken")
    )
    assert broken == unbroken
    assert computed == [range(0, 2), range(2, 4), range(2, 4), range(4, 6)]


def test_shards_put_together_are_what_one_job_makes(tiny_model, requests, tmp_path, monkeypatch):
    evaluation = EVAL.model_copy(update={"samples": 5, "batch": 2, "shards": 3})
    at_once = write(tiny_model, requests, tmp_path / "at once", evaluation)
    shards = [tmp_path / f"{i}" for i in range(3)]
    for i, shard in enumerate(shards):  # of other numbers of threads
        monkeypatch.setattr(generate.torch, "get_num_threads", lambda count=i + 2: count)
        write_shard(asked(evaluation, tiny_model, requests), shard, (i, 3))
        assert read_json(shard / "shard.json")["provenance"]["inputs"]["threads"] == i + 2
    monkeypatch.setattr(samples, "open_engine", lambda *task: pytest.fail("nothing is missing"))
    output = tmp_path / "whole" / "generations.jsonl.zst"
    write_generations(asked(evaluation, tiny_model, requests), output, shards)
    assert read_jsonl(output) == at_once
    seconds = read_json(output.parent / "generation.json")["seconds"]
    parts = [row for shard in shards for file in shard.glob("part-*") for row in read_jsonl(file)]
    assert seconds == pytest.approx(sum(row["seconds"] for row in parts))


def test_requests_that_were_cut_are_refused(tiny_model, requests, tmp_path, cut):
    cut(requests)
    with pytest.raises(RacError, match="is not the file that its requests.json was written for"):
        write(tiny_model, requests, tmp_path / "out")
    assert not (tmp_path / "out").exists()
