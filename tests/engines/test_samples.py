"""Samples come in the order of prompts, are computed once, and are seeded by prompt and sample alone."""

from pathlib import Path

import pytest

from rac.artifacts import read_json
from rac.definitions import Sampling
from rac.engines import Completion, NotNumbers, Task, sample_seed, samples
from rac.engines.samples import Prompt, draw_samples, keep_samples
from rac.errors import RacError
from rac.provenance import hashes, is_whole

PROMPTS = [Prompt(f"p{i}", sample, [i, sample]) for i in range(5) for sample in range(2)]
TASK = Task(Path("model"), "float32", Sampling(), 8, 2, 4)


def echo(prompts, seeds):
    return [Completion([*ids, seed % 97], "stop") for ids, seed in zip(prompts, seeds, strict=True)]


@pytest.fixture
def opened(monkeypatch):
    """Prompts that an engine which echoes prompt and seed was asked for; None for each opening.

    It hands on groups of two, in another order than that of prompts.
    """
    asked: list[list[list[int]] | None] = []

    def open_engine(name, task):
        assert (name, task) == ("fake", TASK)
        asked.append(None)

        def generate(prompts, seeds, progress):
            answers = echo(prompts, seeds)
            order = sorted(range(len(prompts)), key=lambda i: i ^ 2)  # 2, 3, 0, 1, 6, 7, 4, …
            for start in range(0, len(order), 2):
                group = order[start : start + 2]
                asked.append([prompts[i] for i in group])
                progress(len(group))
                yield [(i, answers[i]) for i in group]

        return generate

    monkeypatch.setattr(samples, "open_engine", open_engine)
    return asked


def draw(work, seed=0, prompts=PROMPTS, progress=lambda tokens: None):
    return draw_samples(prompts, seed, "fake", TASK, work, {"a": 1}, progress)


def test_samples_come_in_the_order_of_prompts_whatever_finishes_first(tmp_path, opened):
    rows = list(draw(tmp_path / "w"))
    assert [(row["id"], row["sample"]) for row in rows] == [prompt[:2] for prompt in PROMPTS]
    for prompt, row in zip(PROMPTS, rows, strict=True):
        assert row["seed"] == sample_seed(prompt.id, prompt.sample, 0)
        assert row["token_ids"] == [*prompt.token_ids, row["seed"] % 97]
        assert row["seconds"] > 0 and row["finish_reason"] == "stop"
    assert opened[:2] == [None, [PROMPTS[2].token_ids, PROMPTS[3].token_ids]]
    assert len(opened) == 6


def test_what_is_stored_is_not_computed_again_and_no_engine_is_opened_for_it(tmp_path, opened):
    first = list(draw(tmp_path / "w"))
    opened.clear()
    assert list(draw(tmp_path / "w")) == first
    assert opened == []
    next(tmp_path.glob("w/part-00001-*")).unlink()
    again = list(draw(tmp_path / "w"))
    assert opened == [None, [PROMPTS[0].token_ids, PROMPTS[1].token_ids]]
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in first]


def test_the_engine_stops_where_its_reader_does(tmp_path, opened):
    reader = draw(tmp_path / "w")
    assert next(reader)["id"] == "p0"
    reader.close()
    assert len(opened) == 3  # opened, and two groups of five


def test_no_prompts_are_no_samples(tmp_path, opened):
    assert list(draw(tmp_path / "w", prompts=[])) == []
    assert opened == []


def test_seeds_hang_on_prompt_sample_and_seed_and_fit_torch():
    seeds = {sample_seed(i, n, s) for i in ("a", "b", "1") for n in range(3) for s in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed("a", 0, 0) == sample_seed("a", 0, 0)


def test_the_problem_and_sample_whose_logits_are_not_numbers_are_named(tmp_path, monkeypatch):
    broken = PROMPTS[5]

    def open_engine(name, task):
        def generate(prompts, seeds, progress):
            for i, answer in enumerate(echo(prompts, seeds)):
                if prompts[i] == broken.token_ids:
                    raise NotNumbers(i)
                yield [(i, answer)]

        return generate

    monkeypatch.setattr(samples, "open_engine", open_engine)
    for _ in range(2):  # the second time, the samples before it are stored
        with pytest.raises(
            RacError, match=r"^sample 1 of problem 'p2': the model's logits are not"
        ):
            list(draw(tmp_path / "w"))
        assert len(list(tmp_path.glob("w/part-*"))) == 5


def test_a_shard_has_a_record_of_its_parts(tmp_path, opened):
    list(draw(tmp_path / "0.work"))
    keep_samples(tmp_path / "0.work", tmp_path / "0", "traces", {"seed": 7, "code": "f00d"})
    record = read_json(tmp_path / "0/shard.json")
    assert is_whole(record) and record["provenance"]["inputs"] == {"seed": 7}
    assert record["provenance"]["code"].endswith("+f00d")
    parts = [part.name for part in (tmp_path / "0.work").glob("part-*")]
    assert record["sha256"] == hashes(tmp_path / "0", "header.json", *parts)["sha256"]
    assert len(list((tmp_path / "0").iterdir())) == 7
