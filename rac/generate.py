"""Stage `generate`: a checkpoint's answers to the requests of an evaluation, kept for scoring and replay."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rac.artifacts import read_jsonl, write_jsonl
from rac.definitions import Eval, Model
from rac.engines import Task, version
from rac.engines.samples import Prompt, draw_samples, keep_samples, of_shard
from rac.evaluate.budgets import smaller
from rac.models import checkpoint as checkpoints
from rac.progress import progress
from rac.provenance import checked_sha256, hashes, provenance, write_record


class Asked(NamedTuple):
    """What a checkpoint is asked, and how its answers are drawn.

    Attributes:
        evaluation: samples a problem, budget, batch and seed.
        model: the dense model's definition (sampling, dtype), the same for all of its cells.
        checkpoint: the dense or compressed Hugging Face folder.
        requests: requests.jsonl.zst.
        engine: the engine's name; tensor_parallel: GPUs that it spreads the model over.
        code: fingerprint of the code, so that parts of another version are thrown away.
    """

    evaluation: Eval
    model: Model
    checkpoint: Path
    requests: Path
    engine: str
    tensor_parallel: int
    code: str


def write_generations(asked: Asked, output: Path, shards: Sequence[Path] = ()) -> None:
    """Write generations.jsonl.zst, one row a sample, and generation.json with its cost.

    A row has `doc_id`, `id`, `sample`, `seed`, `token_ids` and `text` (without the stop token), `characters`
    (of the text that each smaller budget leaves; null where it is all), `finish_reason` and `tokens`.

    Samples are kept in `work/` beside the output, also when all are there: an interrupted stage goes on after
    the last stored ones, and one that is asked for more samples a problem draws only those that are new.

    Args:
        asked: what of.
        output: generations.jsonl.zst; generation.json is written beside it.
        shards: what `write_shard` made; samples that they lack are drawn now.

    Raises:
        RacError: an input is missing or damaged.
    """
    tokenizer = checkpoints.load_tokenizer(asked.checkpoint)
    stop = checkpoints.stop_tokens(asked.checkpoint)
    requests, prompts, inputs, task = _to_draw(asked)
    work, seed = output.parent / "work", asked.evaluation.seed
    with progress("generate", len(prompts) * task.max_new_tokens) as update:
        samples = list(
            draw_samples(prompts, seed, asked.engine, task, work, inputs, update, shards)
        )

    def text(ids: list[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    rows = []
    for (i, request), sample in zip(requests, samples, strict=True):
        ids = sample["token_ids"]
        answer = ids[:-1] if ids and ids[-1] in stop else ids
        rows.append(
            {
                "doc_id": request["doc_id"],
                "id": request["id"],
                "sample": i,
                "seed": sample["seed"],
                "token_ids": answer,
                "text": text(answer),
                # Half a character at the end of a cut is none.
                "characters": [
                    len(text(answer[:budget]).rstrip("\ufffd")) if budget < len(ids) else None
                    for budget in smaller(task.max_new_tokens)
                ],
                "finish_reason": sample["finish_reason"],
                "tokens": len(ids),
            }
        )
    rows.sort(key=lambda row: (row["doc_id"], row["sample"]))
    seconds = sum(sample["seconds"] for sample in samples)
    joules = [sample["joules"] for sample in samples]
    tokens = sum(row["tokens"] for row in rows)
    write_jsonl(output, rows)
    write_record(
        output.parent / "generation.json",
        {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}
        | {"joules": None if None in joules else sum(joules)}
        | {"halvings": max(sample["halvings"] for sample in samples)}
        | hashes(output.parent, output.name)
        | provenance("generate", **inputs, threads=torch.get_num_threads()),
    )


def write_shard(asked: Asked, output: Path, shard: tuple[int, int]) -> None:
    """Write the folder `output`: the samples of every n-th batch.

    Shards may run at the same time; samples are kept in `{output}.work`, as `write_generations` keeps them.

    Args:
        asked: what the whole is of.
        output: the folder, of part files.
        shard: (i, n).

    Raises:
        RacError: an input is missing or damaged.
    """
    _, prompts, inputs, task = _to_draw(asked)
    work, seed = output.with_name(f"{output.name}.work"), asked.evaluation.seed
    prompts = of_shard(prompts, asked.evaluation.batch, shard)
    label = f"generate, shard {shard[0]} of {shard[1]}"
    with progress(label, len(prompts) * task.max_new_tokens) as update:
        for _ in draw_samples(prompts, seed, asked.engine, task, work, inputs, update):
            pass
    keep_samples(work, output, "generate", inputs | {"threads": torch.get_num_threads()})


def _to_draw(asked: Asked) -> tuple[list[tuple[int, dict]], list[Prompt], dict, Task]:
    """All (sample index, request), their prompts, what samples hang on, what the engine is opened for."""
    evaluation, model, checkpoint = asked.evaluation, asked.model, asked.checkpoint
    of_requests = checked_sha256(asked.requests)
    requests = list(itertools.product(range(evaluation.samples), read_jsonl(asked.requests)))
    prompts = [Prompt(row["id"], i, row["token_ids"]) for i, row in requests]
    inputs = {
        "eval": evaluation.model_dump(mode="json", exclude={"samples", "sandbox", "shards"}),
        "sampling": model.sampling.model_dump(),
        "dtype": model.dtype,
        "engine": f"{asked.engine} {version(asked.engine)}",
        "weights": checkpoints.identity(checkpoint),
        "requests": of_requests,
        "stop": checkpoints.stop_tokens(checkpoint),
        "code": asked.code,
    }
    task = Task(
        checkpoint=checkpoint,
        dtype=model.dtype,
        sampling=model.sampling,
        max_new_tokens=evaluation.max_new_tokens,
        longest=max((len(prompt.token_ids) for prompt in prompts), default=0),
        batch=len(prompts) if asked.engine == "vllm" else evaluation.batch,
        tensor_parallel=asked.tensor_parallel,
    )
    return requests, prompts, inputs, task
