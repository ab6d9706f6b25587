"""Chunks are cut by prompt order, computed once, and seeded by prompt and sample alone."""

import pytest

from rac.config import Sampling
from rac.engines import Completion, chunks, sample_seed
from rac.engines.chunks import Prompt, sample_chunks

PROMPTS = [Prompt(f"p{i}", sample, [i, sample]) for i in range(5) for sample in range(2)]


@pytest.fixture
def opened(monkeypatch):
    """Batches that an engine which echoes its prompt and seed was asked for; None for each opening."""
    asked: list[list[list[int]] | None] = []

    def open_engine(name, checkpoint, dtype):
        asked.append(None)

        def generate(prompts, seeds, sampling, max_new_tokens, progress):
            asked.append(prompts)
            progress(len(prompts))
            return [
                Completion([*ids, seed % 97], "stop")
                for ids, seed in zip(prompts, seeds, strict=True)
            ]

        return generate

    monkeypatch.setattr(chunks, "open_engine", open_engine)
    return asked


def run(work, batch=4, seed=0, prompts=PROMPTS, progress=lambda n: None):
    return sample_chunks(
        *(
            prompts,
            batch,
            seed,
            Sampling(),
            8,
            work,
            "fake",
            "float32",
            work,
            {"b": batch},
            progress,
        )
    )


def test_chunks_follow_the_order_of_prompts_and_the_last_is_what_is_left(tmp_path, opened):
    result = list(run(tmp_path / "w"))
    assert [len(chunk) for chunk in result] == [4, 4, 2]
    rows = [row for chunk in result for row in chunk]
    assert [(row["id"], row["sample"]) for row in rows] == [p[:2] for p in PROMPTS]
    assert opened == [None, *([p.token_ids for p in PROMPTS[i : i + 4]] for i in (0, 4, 8))]
    assert all(row["seed"] == sample_seed(row["id"], row["sample"], 0) for row in rows)
    assert all(row["seconds"] > 0 and row["finish_reason"] == "stop" for row in rows)


def test_seeds_do_not_hang_on_the_batch(tmp_path, opened):
    def seeds(batch):
        return [row["seed"] for chunk in run(tmp_path / str(batch), batch) for row in chunk]

    assert seeds(1) == seeds(3) == seeds(100)


def test_whole_chunks_are_not_computed_again_and_the_engine_is_not_opened_for_them(
    tmp_path, opened
):
    first = list(run(tmp_path / "w"))
    opened.clear()
    assert list(run(tmp_path / "w")) == first
    assert opened == []
    (tmp_path / "w" / "part-00001.jsonl.zst").unlink()
    list(run(tmp_path / "w"))
    assert opened == [None, [p.token_ids for p in PROMPTS[4:8]]]


def test_no_prompts_are_no_chunks(tmp_path, opened):
    assert list(run(tmp_path / "w", prompts=[])) == []
    assert opened == []


def test_seeds_hang_on_prompt_sample_and_seed_and_fit_torch():
    seeds = {sample_seed(i, n, s) for i in ("a", "b", "1") for n in range(3) for s in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed("a", 0, 0) == sample_seed("a", 0, 0)
