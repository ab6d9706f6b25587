"""Stage `traces`: on-policy chains of thought, sampled from the dense model until a token budget is met."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rac.artifacts import read_jsonl, sha256_json, write_jsonl
from rac.definitions import Model, Source
from rac.engines import Task, version
from rac.engines.samples import Prompt, draw_samples, keep_samples, of_shard
from rac.errors import RacError
from rac.models import checkpoint
from rac.progress import progress
from rac.provenance import checked_sha256, hashes, provenance, write_record
from rac.sources import prompt_ids

# Keys of a source that no sample hangs on: how many are drawn, by how many jobs, and keys of other kinds.
UNREAD = {"tokens", "shards", "window", "solution"}


class Asked(NamedTuple):
    """What traces are asked for, and how they are drawn.

    Attributes:
        source: the source's definition; name: its name.
        model: the model's definition; folder: its Hugging Face folder.
        dataset: the dataset's data.jsonl.
        engine: the engine's name; tensor_parallel: GPUs that it spreads the model over.
        code: fingerprint of the code, so that parts of another version are thrown away.
    """

    source: Source
    name: str
    model: Model
    folder: Path
    dataset: Path
    engine: str
    tensor_parallel: int
    code: str


def write_traces(asked: Asked, output: Path, shards: Sequence[Path] = ()) -> None:
    """Write traces.jsonl.zst: whole samples, in the dataset's order, until `source.tokens` are reached.

    Which samples are taken does not depend on interruptions or shards. Samples are kept in `work/` beside
    the output, also when all are there: a stage that was ended, however late, or whose budget was raised,
    draws only what is missing.

    Args:
        asked: what of.
        output: traces.jsonl.zst; info.json with counts and provenance is written beside it.
        shards: what `write_shard` made; samples that they lack are drawn now.

    Raises:
        RacError: all prompts together give fewer tokens than the budget, or an input is damaged.
    """
    source, name, work = asked.source, asked.name, output.parent / "work"
    prompts, inputs, task = _to_draw(asked, source.tokens)
    rows, tokens, halvings = [], 0, 0
    with progress(f"traces {name}", source.tokens) as update:
        samples = draw_samples(
            prompts, source.seed, asked.engine, task, work, inputs, update, shards
        )
        for prompt, sample in zip(prompts, samples, strict=False):
            token_ids = prompt.token_ids + sample["token_ids"]
            rows.append(
                {key: sample[key] for key in ("id", "sample", "seed")}
                | {"token_ids": token_ids, "prompt_length": len(prompt.token_ids)}
                | {"finish_reason": sample["finish_reason"]}
            )
            tokens += len(token_ids)
            halvings = max(halvings, sample["halvings"])
            if tokens >= source.tokens:
                break
        else:
            raise RacError(
                f"source '{name}': {len(prompts)} traces hold {tokens} tokens and its budget is "
                f"{source.tokens}: give its dataset more rows, or lower 'tokens'"
            )
    write_jsonl(output, rows)
    write_record(
        output.parent / "info.json",
        {
            "traces": len(rows),
            "tokens": tokens,
            "prompt_tokens": sum(row["prompt_length"] for row in rows),
            "finished": sum(row["finish_reason"] == "stop" for row in rows) / len(rows),
            "halvings": halvings,
        }
        | hashes(output.parent, output.name)
        | provenance("traces", **_for_record(asked, inputs)),
    )


def write_shard(asked: Asked, output: Path, shard: tuple[int, int]) -> None:
    """Write the folder `output`: the samples of every n-th batch of prompts, for an n-th of the budget.

    Shards may run at the same time; each goes on after its last stored samples when it is interrupted.

    Args:
        asked: what the whole is of.
        output: the folder, of part files.
        shard: (i, n).

    Raises:
        RacError: an input is damaged.
    """
    source, work = asked.source, output.with_name(f"{output.name}.work")
    budget, tokens = -(-source.tokens // shard[1]), 0
    prompts, inputs, task = _to_draw(asked, budget)
    prompts = of_shard(prompts, source.batch, shard)
    with progress(f"traces {asked.name}, shard {shard[0]} of {shard[1]}", budget) as update:
        samples = draw_samples(prompts, source.seed, asked.engine, task, work, inputs, update)
        for prompt, sample in zip(prompts, samples, strict=True):
            tokens += len(prompt.token_ids) + len(sample["token_ids"])
            if tokens >= budget:
                break
    keep_samples(work, output, "traces", _for_record(asked, inputs))


def _for_record(asked: Asked, inputs: dict) -> dict:
    """What samples hang on, and what records say beside it: the whole definition, and the threads."""
    source = asked.source.model_dump(mode="json", exclude={"shards"})
    return inputs | {"source": source, "threads": torch.get_num_threads()}


def _to_draw(asked: Asked, budget: int) -> tuple[list[Prompt], dict, Task]:
    """All prompts, what their samples hang on, and what the engine is opened for."""
    source, model, folder, engine = asked.source, asked.model, asked.folder, asked.engine
    tokenizer = checkpoint.load_tokenizer(folder)
    dataset, problems = checked_sha256(asked.dataset), read_jsonl(asked.dataset)
    prompts = [
        Prompt(row["id"], sample, prompt_ids(row, source, tokenizer, model.chat))
        for row in problems
        for sample in range(source.samples)
    ]
    inputs = {
        "source": source.model_dump(mode="json", exclude=UNREAD),
        "sampling": model.sampling.model_dump(),
        "dtype": model.dtype,
        "engine": f"{engine} {version(engine)}",
        "weights": checkpoint.identity(folder),
        "dataset": dataset,
        "prompts": sha256_json([prompt.token_ids for prompt in prompts]),
        "stop": checkpoint.stop_tokens(folder),
        "code": asked.code,
    }
    longest = max((len(prompt.token_ids) for prompt in prompts), default=0)
    # vLLM works on as many samples at once as the budget takes for sure: what is in work when it is met
    # was for nothing.
    needed = budget // (longest + source.max_new_tokens)
    task = Task(
        checkpoint=folder,
        dtype=model.dtype,
        sampling=model.sampling,
        max_new_tokens=source.max_new_tokens,
        longest=longest,
        batch=max(source.batch, needed) if engine == "vllm" else source.batch,
        tensor_parallel=asked.tensor_parallel,
    )
    return prompts, inputs, task
