"""Traces: whole samples in the order of problems up to a budget, and the same ones after a kill."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import textwrap

import pytest

from rac import traces
from rac.artifacts import read_json, read_jsonl, write_jsonl
from rac.definitions import Model, Source
from rac.engines import Completion, samples
from rac.errors import RacError

MODEL = Model.model_validate(
    {"embedded": "reasoner", "dtype": "float32", "sampling": {"temperature": 1.0, "top_p": 0.9}}
)
PROBLEMS = [{"id": f"p{i}", "problem": f"Ada has {i} apples." * (1 + i % 3)} for i in range(14)]


def definition(**values) -> Source:
    return Source.model_validate(
        {"kind": "traces", "dataset": "d", "tokens": 200, "max_new_tokens": 12, "batch": 3} | values
    )


@pytest.fixture
def dataset(tmp_path):
    write_jsonl(tmp_path / "data.jsonl", PROBLEMS)
    return tmp_path / "data.jsonl"


def asked(source, folder, dataset, code="c"):
    return traces.Asked(source, "traces", MODEL, folder, dataset, "transformers", 1, code)


def write(source, folder, dataset, output, code="c"):
    traces.write_traces(asked(source, folder, dataset, code), output)
    return read_jsonl(output)


def test_samples_are_whole_in_the_order_of_problems_and_end_at_the_budget(
    tiny_model, dataset, tmp_path
):
    rows = write(definition(), tiny_model, dataset, tmp_path / "out" / "traces.jsonl.zst")
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(len(rows))]
    lengths = [len(row["token_ids"]) for row in rows]
    assert sum(lengths[:-1]) < 200 <= sum(lengths)
    for row in rows:
        sampled = row["token_ids"][row["prompt_length"] :]
        assert 1 <= len(sampled) <= 12
        assert row["finish_reason"] == ("stop" if sampled[-1] == 2 else "length")
    info = read_json(tmp_path / "out" / "info.json")
    assert (info["traces"], info["tokens"]) == (len(rows), sum(lengths))
    made = info["provenance"]["inputs"]["engine"]
    assert made == f"transformers {importlib.metadata.version('transformers')}"
    assert info["prompt_tokens"] == sum(row["prompt_length"] for row in rows)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "info.json",
        "traces.jsonl.zst",
        "work",
    ]


def test_a_batch_that_was_halved_is_on_record(tiny_model, dataset, tmp_path, monkeypatch):
    def open_engine(name, task):
        return lambda prompts, *more: [
            [(i, Completion([7], "length", min(i, 1))) for i in range(len(prompts))]
        ]

    monkeypatch.setattr(samples, "open_engine", open_engine)
    write(definition(tokens=100), tiny_model, dataset, tmp_path / "out" / "traces.jsonl.zst")
    assert read_json(tmp_path / "out" / "info.json")["halvings"] == 1


def test_which_samples_are_taken_does_not_hang_on_the_batch(tiny_model, dataset, tmp_path):
    by_batch = [
        write(definition(batch=batch), tiny_model, dataset, tmp_path / f"{batch}" / "t.jsonl.zst")
        for batch in (1, 5, 100)
    ]
    assert by_batch[0] == by_batch[1] == by_batch[2]


def test_seeds_hang_on_the_definition(tiny_model, dataset, tmp_path):
    first = write(definition(), tiny_model, dataset, tmp_path / "a" / "t.jsonl.zst")
    other = write(definition(seed=1), tiny_model, dataset, tmp_path / "b" / "t.jsonl.zst")
    assert all(a["seed"] != b["seed"] for a, b in zip(first, other, strict=False))
    assert first[0]["token_ids"] != other[0]["token_ids"]


def test_too_few_prompts_for_the_budget_are_one_line(tiny_model, dataset, tmp_path):
    source = definition(tokens=100_000)
    with pytest.raises(RacError, match=r"source 'traces': 14 traces hold \d+ tokens .* 100000"):
        write(source, tiny_model, dataset, tmp_path / "out" / "traces.jsonl.zst")
    assert not (tmp_path / "out" / "traces.jsonl.zst").exists()


def test_a_stage_that_broke_off_goes_on_with_the_same_bytes(
    tiny_model, dataset, tmp_path, break_off_once
):
    unbroken, broken = tmp_path / "a" / "t.jsonl.zst", tmp_path / "b" / "t.jsonl.zst"
    write(definition(), tiny_model, dataset, unbroken)
    computed = break_off_once()
    with pytest.raises(KeyboardInterrupt):
        write(definition(), tiny_model, dataset, broken)
    assert not broken.exists()
    write(definition(), tiny_model, dataset, broken)
    assert broken.read_bytes() == unbroken.read_bytes()
    assert computed[:2] == [range(3), range(3, 6)]
    assert computed[2] == range(3, 6)  # the chunk in flight, and not the one before it


def test_a_job_that_was_ended_after_its_last_sample_draws_nothing_again(
    tiny_model, dataset, tmp_path, monkeypatch
):
    whole, shard = tmp_path / "out" / "t.jsonl.zst", tmp_path / "shards" / "0"
    source = definition(shards=2)
    write(source, tiny_model, dataset, whole)
    traces.write_shard(asked(source, tiny_model, dataset), shard, (0, 2))
    made = whole.read_bytes(), {file.name: file.read_bytes() for file in shard.glob("part-*")}
    whole.unlink()  # as Snakemake does with what a job left that it did not see end
    shutil.rmtree(shard)
    monkeypatch.setattr(samples, "open_engine", None)
    write(source, tiny_model, dataset, whole)
    traces.write_shard(asked(source, tiny_model, dataset), shard, (0, 2))
    assert made == (
        whole.read_bytes(),
        {file.name: file.read_bytes() for file in shard.glob("part-*")},
    )


@pytest.fixture
def drawn(monkeypatch):
    """The seeds that the engine was asked for."""
    seeds, opened = [], samples.open_engine

    def counting(*arguments):
        run = opened(*arguments)

        def generate(prompts, of_prompts, update):
            for group in run(prompts, of_prompts, update):
                seeds.extend(of_prompts[i] for i, _ in group)
                yield group

        return generate

    monkeypatch.setattr(samples, "open_engine", counting)
    return seeds


def test_more_tokens_draw_only_the_rest(tiny_model, dataset, tmp_path, drawn, capsys):
    at_once, grown = tmp_path / "a" / "t.jsonl.zst", tmp_path / "b" / "t.jsonl.zst"
    few = write(definition(tokens=100), tiny_model, dataset, grown)
    assert 0 < len(few) <= len(drawn) < len(PROBLEMS)
    for tokens in (250, 100):  # fewer are there already
        grown.unlink()  # as Snakemake does before the job
        more = write(definition(tokens=tokens, window=9, solution="x"), tiny_model, dataset, grown)
        assert more[: len(few)] == few
        assert len(drawn) == len(set(drawn)) < len(PROBLEMS)
    asked_for = len(drawn)
    drawn.clear()
    write(definition(tokens=250), tiny_model, dataset, at_once)
    assert len(drawn) == asked_for
    write(definition(tokens=250), tiny_model, dataset, grown)
    assert grown.read_bytes() == at_once.read_bytes()
    assert "thrown away" not in capsys.readouterr().err
    made = read_json(grown.with_name("info.json"))["provenance"]["inputs"]
    assert made["source"]["tokens"] == 250


def test_more_tokens_of_a_shard_draw_only_the_rest(tiny_model, dataset, tmp_path, drawn):
    for tokens in (60, 200):
        for i in range(2):
            source = definition(tokens=tokens, batch=1, shards=2)
            shutil.rmtree(tmp_path / f"{i}", ignore_errors=True)  # as Snakemake does
            traces.write_shard(asked(source, tiny_model, dataset), tmp_path / f"{i}", (i, 2))
    assert len(drawn) == len(set(drawn)) > 2
    output = tmp_path / "whole" / "t.jsonl.zst"
    traces.write_traces(
        asked(source, tiny_model, dataset), output, [tmp_path / f"{i}" for i in range(2)]
    )
    assert len(drawn) == len(set(drawn))
    at_once = write(source, tiny_model, dataset, tmp_path / "at once" / "t.jsonl.zst")
    assert read_jsonl(output) == at_once


def test_shards_of_other_numbers_of_threads_are_put_together(
    tiny_model, dataset, tmp_path, monkeypatch
):
    source, shards = definition(batch=1, shards=2), [tmp_path / f"{i}" for i in range(2)]
    for i, shard in enumerate(shards):
        monkeypatch.setattr(traces.torch, "get_num_threads", lambda count=i + 2: count)
        traces.write_shard(asked(source, tiny_model, dataset), shard, (i, 2))
        record = read_json(shard / "shard.json")
        assert record["provenance"]["inputs"]["threads"] == i + 2
    output = tmp_path / "whole" / "t.jsonl.zst"
    monkeypatch.setattr(traces.torch, "get_num_threads", lambda: 8)
    traces.write_traces(asked(source, tiny_model, dataset), output, shards)
    at_once = write(source, tiny_model, dataset, tmp_path / "at once" / "t.jsonl.zst")
    assert read_jsonl(output) == at_once


def test_parts_of_other_code_are_thrown_away(tiny_model, dataset, tmp_path, capsys):
    output = tmp_path / "out" / "t.jsonl.zst"
    too_much = definition(tokens=100_000)
    for code in ("old", "old", "new"):
        with pytest.raises(RacError):
            write(too_much, tiny_model, dataset, output, code)
        thrown = "thrown away" in capsys.readouterr().err
        assert thrown == (code == "new")


@pytest.mark.parametrize(("count", "batch"), [(2, 3), (5, 1), (14, 2)])
def test_shards_put_together_are_what_one_job_makes(tiny_model, dataset, tmp_path, count, batch):
    source = definition(batch=batch, shards=count)
    at_once = write(source, tiny_model, dataset, tmp_path / "at once" / "t.jsonl.zst")
    shards = [tmp_path / f"{i}" for i in range(count)]
    for i, shard in enumerate(shards):
        traces.write_shard(asked(source, tiny_model, dataset), shard, (i, count))
    kept = [len(read_jsonl(file)) for shard in shards for file in shard.glob("part-*")]
    assert 0 < sum(kept) < len(at_once) + 2 * count * batch  # about the budget
    output = tmp_path / "whole" / "t.jsonl.zst"
    traces.write_traces(asked(source, tiny_model, dataset), output, shards)
    assert read_jsonl(output) == at_once


@pytest.mark.slow
def test_a_killed_stage_goes_on_with_the_same_bytes(tiny_model, dataset, tmp_path, kill_at):
    unbroken, broken = tmp_path / "a" / "t.jsonl.zst", tmp_path / "b" / "t.jsonl.zst"
    source = definition(batch=2)
    write(source, tiny_model, dataset, unbroken)
    script = """
    import sys, time
    from pathlib import Path
    import torch
    from rac import traces
    from rac.definitions import Model, Source
    from rac.engines import samples
    torch.set_num_threads(1)
    opened = samples.open_engine
    def slow(*arguments):
        run = opened(*arguments)
        def generate(*arguments):
            for group in run(*arguments):
                time.sleep(1)
                yield group
        return generate
    samples.open_engine = slow
    source, model, folder, dataset, output = sys.argv[1:]
    asked = traces.Asked(
        Source.model_validate_json(source), "traces", Model.model_validate_json(model),
        Path(folder), Path(dataset), "transformers", 1, "c",
    )
    traces.write_traces(asked, Path(output))
    """
    arguments = [source.model_dump_json(), MODEL.model_dump_json(), tiny_model, dataset, broken]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    )
    part = kill_at(broken.parent / "work", "part-00001-*.zst", process)
    assert not broken.exists()
    kept = part.stat().st_mtime_ns
    assert json.loads((part.parent / "header.json").read_text())["code"] == "c"
    write(source, tiny_model, dataset, broken)
    assert part.stat().st_mtime_ns == kept
    assert broken.read_bytes() == unbroken.read_bytes()


def test_a_dataset_that_was_cut_is_refused(tiny_model, dataset, tmp_path, cut):
    cut(dataset)
    with pytest.raises(
        RacError, match=r"data.jsonl is not the file that its meta.json was written"
    ):
        write(definition(), tiny_model, dataset, tmp_path / "out" / "traces.jsonl.zst")
    assert not (tmp_path / "out").exists()
