"""Generation in fixed chunks: the unit of batching and of resume."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rac.artifacts import parts
from rac.config import Sampling
from rac.engines import Generate, open_engine, sample_seed


class Prompt(NamedTuple):
    """One sample to draw: prompt id, sample index, prompt token ids."""

    id: str
    sample: int
    token_ids: list[int]


def sample_chunks(
    prompts: list[Prompt],
    batch: int,
    seed: int,
    sampling: Sampling,
    max_new_tokens: int,
    checkpoint: Path,
    engine: str,
    dtype: str,
    work: Path,
    header: dict,
    update: Callable[[int], None],
) -> Iterator[list[dict]]:
    """Yield chunk after chunk of samples, by prompt order, computing only what `work` does not hold yet.

    The engine is opened when the first chunk has to be computed.

    Yields:
        rows {id, sample, seed, token_ids (sampled), finish_reason, seconds (of its chunk, shared evenly)}.
    """
    generate: Generate | None = None

    def compute(i: int) -> list[dict]:
        nonlocal generate
        if generate is None:
            generate = open_engine(engine, checkpoint, dtype)
        chunk = prompts[i * batch : (i + 1) * batch]
        seeds = [sample_seed(prompt.id, prompt.sample, seed) for prompt in chunk]
        start = time.perf_counter()
        completions = generate(
            [prompt.token_ids for prompt in chunk], seeds, sampling, max_new_tokens, update
        )
        seconds = (time.perf_counter() - start) / len(chunk)
        return [
            {
                "id": prompt.id,
                "sample": prompt.sample,
                "seed": sample_seed_,
                "token_ids": completion.token_ids,
                "finish_reason": completion.finish_reason,
                "seconds": seconds,
            }
            for prompt, sample_seed_, completion in zip(chunk, seeds, completions, strict=True)
        ]

    yield from parts(work, header, -(-len(prompts) // batch), compute)
