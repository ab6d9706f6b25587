"""Samples of prompts, drawn by an engine and kept in part files as they come; in shards, by several jobs."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rac import energy
from rac.artifacts import LOCK, atomic_folder, parts
from rac.engines import Completion, NotNumbers, Task, open_engine, sample_seed
from rac.errors import RacError
from rac.provenance import hashes, provenance, write_record


class Prompt(NamedTuple):
    """One sample to draw: prompt id, sample index, prompt token ids."""

    id: str
    sample: int
    token_ids: list[int]


def of_shard(prompts: list[Prompt], batch: int, shard: tuple[int, int]) -> list[Prompt]:
    """The prompts of shard i of n: the batches i, i + n, i + 2n, … so that batches are what they were."""
    number, count = shard
    return [prompt for i, prompt in enumerate(prompts) if i // batch % count == number]


def draw_samples(
    prompts: list[Prompt],
    seed: int,
    engine: str,
    task: Task,
    work: Path,
    header: dict,
    update: Callable[[int], None],
    shards: Sequence[Path] = (),
) -> Iterator[dict]:
    """Yield a sample a prompt, in the order of prompts, computing only what is not there yet.

    The engine is opened when the first sample has to be computed.

    Args:
        prompts: no two of the same id and sample.
        seed: the definition's; the samples' own seeds hang on it.
        engine: its name; task: what it is opened for.
        work: folder of the part files; header: what they hang on (see `rac.artifacts.parts`).
        update: called with numbers of tokens as they are sampled.
        shards: folders that `keep_samples` made, of other jobs' samples.

    Yields:
        rows {id, sample, seed, token_ids (sampled), finish_reason, halvings (see `Completion`), seconds
        and joules (of its group, shared evenly; joules are None where no counter can be read)}.
    """

    def compute(stored: list[dict]) -> Iterator[list[dict]]:
        done = {(row["id"], row["sample"]) for row in stored}
        missing = [prompt for prompt in prompts if (prompt.id, prompt.sample) not in done]
        if not missing:
            return
        generate = open_engine(engine, task)
        seeds = [sample_seed(prompt.id, prompt.sample, seed) for prompt in missing]
        start, before = time.perf_counter(), energy.read()
        for group in _named(
            generate([prompt.token_ids for prompt in missing], seeds, update), missing
        ):
            seconds = (time.perf_counter() - start) / len(group)
            joules = energy.spent(before, energy.read())
            yield [
                {
                    "id": missing[i].id,
                    "sample": missing[i].sample,
                    "seed": seeds[i],
                    "token_ids": completion.token_ids,
                    "finish_reason": completion.finish_reason,
                    "halvings": completion.halvings,
                    "seconds": seconds,
                    "joules": joules and joules / len(group),
                }
                for i, completion in group
            ]
            start, before = time.perf_counter(), energy.read()

    waiting: dict[tuple[str, int], dict] = {}  # those whose turn has not come
    order = iter([(prompt.id, prompt.sample) for prompt in prompts])
    turn = next(order, None)
    for part in parts(work, header, compute, shards):
        waiting |= {(row["id"], row["sample"]): row for row in part}
        while turn in waiting:
            yield waiting.pop(turn)
            turn = next(order, None)


def _named(
    groups: Iterator[list[tuple[int, Completion]]], prompts: list[Prompt]
) -> Iterator[list[tuple[int, Completion]]]:
    """The engine's groups; an error that is of one prompt says of which."""
    try:
        yield from groups
    except NotNumbers as error:
        prompt = prompts[error.index]
        raise RacError(f"sample {prompt.sample} of problem '{prompt.id}': {error}") from None


def keep_samples(work: Path, output: Path, stage: str, inputs: dict[str, Any]) -> None:
    """Copy the part files of a shard to `output`, whole or not at all, with shard.json, their record.

    Args:
        work: the folder of the part files.
        output: the shard's folder.
        stage: of which it is a shard; inputs: what its samples hang on.

    Raises:
        RacError: the file system refuses, with the path.
    """
    with atomic_folder(output) as folder:
        shutil.copytree(work, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK))
        write_record(folder / "shard.json", hashes(folder) | provenance(stage, **inputs))
