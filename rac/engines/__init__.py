"""Engines: prompts in, sampled token ids and finish reasons out.

An engine is a module of this package with a function `open_engine(checkpoint, dtype)` that loads a model
once and returns a function of type `Generate`. Work comes in fixed chunks, each generated as one batch,
so that the chunk is the unit of resume and its outcome does not depend on interruptions.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rac.artifacts import sha256_json
from rac.config import Sampling


class Completion(NamedTuple):
    """What was sampled after a prompt: token ids (a final stop token included) and why it ended."""

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]


# (prompts as token ids, one seed each, sampling, max_new_tokens, progress) → one completion each;
# `progress` is called with the number of tokens sampled since it was last called.
Generate = Callable[
    [list[list[int]], list[int], Sampling, int, Callable[[int], Any]], list[Completion]
]


def open_engine(name: str, checkpoint: Path, dtype: str) -> Generate:
    """Load `checkpoint` in the engine called `name`.

    Raises:
        RacError: the checkpoint cannot be loaded.
    """
    return importlib.import_module(f"rac.engines.{name}").open_engine(checkpoint, dtype)


def sample_seed(prompt_id: str, sample: int, seed: int) -> int:
    """The seed of one sample: it hangs on the prompt, the sample's index and the definition's seed only."""
    return int(sha256_json([prompt_id, sample, seed])[:15], 16)
