"""The vLLM engine: continuous batching in this process, one seed a sample, samples handed on as they finish.

Prompts and completions are token ids; vLLM loads no tokenizer. Prefixes that prompts share (all samples
of a problem) are computed once. A sample has random numbers of its own, whatever shares its batch; its
logits hang on the batch in the last bits.
"""

import gc
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rac.engines import Completion, Generate, NotNumbers, Task, check_context, version
from rac.errors import RacError, one_line
from rac.models import checkpoint as checkpoints

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, where its errors can be met
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # OMP_NUM_THREADS says how many, as everywhere else
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent anywhere
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process that asked for GPUs has none
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_RAISE_ON_LOGIT_NANS": "1",  # without, it samples token 0 and says nothing
}
SECONDS = 5.0  # between groups: each is stored at once, and the engine waits for the disk
CPU_SHARE = 0.5  # of a CPU's free memory that keys and values may take
CPU_PAGE = 128  # tokens that they are kept together by, on a CPU

# torch, a worker process, and vLLM's checks of the memory for keys and values, where memory is short.
SHORT = (
    "out of memory",
    "can't allocate memory",
    "No available memory for the cache blocks",
    "larger than the available KV cache memory",
    "is less than requested memory for kv",
)

# What vLLM breaks off with, then; its name of a sample is ours and letters of its own.
NANS = re.compile(r"NaNs detected in logits: \{'(\d+)-")

Samples = Mapping[int, tuple[list[int], int]]  # by index: token ids of the prompt, seed


def open_engine(task: Task) -> Generate:
    """Load a checkpoint; see `rac.engines`. A group is what finished since the last one.

    Where memory is short, when loading or later, the batch is halved once, and standard error says so.

    Raises:
        RacError: vLLM is not installed, or cannot load the checkpoint or run it.
    """
    if version("vllm") is None:
        raise RacError(
            "vLLM is not installed (docs/engines.md): install it, or say 'engine: transformers' in the "
            "model's definition"
        )
    checkpoints.check(task.checkpoint)
    os.environ.update(ENVIRONMENT)  # before vLLM is imported
    _compile_nothing_on_a_cpu()
    request = requests(task)
    halved = False

    def halve(error: Exception) -> None:
        nonlocal halved
        line = one_line(error)
        if halved or not any(sign in str(error) for sign in SHORT):
            raise RacError(
                f"vLLM cannot run {task.checkpoint}: {line} ('engine: transformers' in the model's "
                "definition takes the other engine)"
            ) from error
        halved = True
        print(f"vLLM: memory is short, so the batch is halved ({line})", file=sys.stderr)

    def load() -> Any:
        while True:
            try:
                return _load(task, halved)
            except RacError:
                raise
            except Exception as error:  # vLLM's are of all kinds
                halve(error)
            _free()  # not before: the error's traceback holds what fills the memory

    engine = load()

    def run(
        prompts: list[list[int]], seeds: list[int], progress: Callable[[int], Any]
    ) -> Iterator[list[tuple[int, Completion]]]:
        nonlocal engine
        left = dict(enumerate(zip(prompts, seeds, strict=True)))
        while left:
            try:
                for group in finished(engine, left, request, task.batch, lambda: progress(0)):
                    for i, completion in group:
                        del left[i]
                        progress(len(completion.token_ids))
                    yield [(i, answer._replace(halvings=int(halved))) for i, answer in group]
            except Exception as error:
                named = NANS.search(str(error))
                if not named:
                    halve(error)
                engine = None
            if engine is None:
                _free()  # now: an engine that goes later takes what the next one has with it
                if named:
                    raise NotNumbers(int(named[1]))
                engine = load()

    return run


def finished(
    engine: Any,
    samples: Samples,
    request: Callable[[list[int], int], tuple[Any, Any]],
    batch: int,
    alive: Callable[[], Any],
) -> Iterator[list[tuple[int, Completion]]]:
    """Yield the completions of `samples` in the order in which they finish, those of a few seconds together.

    Args:
        engine: an idle vLLM engine.
        samples: what to draw, begun in this order.
        request: what the engine takes for token ids and a seed: a prompt and its sampling parameters.
        batch: how many samples the engine may hold at once, in work or waiting for memory.
        alive: called after each of the engine's steps.
    """
    waiting = iter(list(samples.items()))
    done: list[tuple[int, Completion]] = []
    handed = time.monotonic()
    try:
        while True:
            room = batch - engine.get_num_unfinished_requests()
            for i, (token_ids, seed) in itertools.islice(waiting, room):
                engine.add_request(str(i), *request(token_ids, seed))
            if not engine.has_unfinished_requests():
                break
            for output in engine.step():
                if output.finished:
                    answer = output.outputs[0]
                    completion = Completion(list(answer.token_ids), answer.finish_reason)
                    done.append((int(output.request_id), completion))
            alive()
            if done and time.monotonic() - handed >= SECONDS:
                yield done
                done, handed = [], time.monotonic()
    except GeneratorExit:  # the reader has enough; the engine is to be idle for the next one
        engine.abort_request([str(i) for i in samples])
        raise
    if done:
        yield done


def requests(task: Task) -> Callable[[list[int], int], tuple[Any, Any]]:
    """A function (token ids, seed) → what vLLM takes: a prompt and its sampling parameters.

    Raises:
        RacError: the checkpoint names no token that ends an answer.
    """
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    stop = checkpoints.stop_tokens(task.checkpoint)

    def request(token_ids: list[int], seed: int) -> tuple[Any, Any]:
        params = SamplingParams(
            temperature=task.sampling.temperature,
            top_p=task.sampling.top_p,
            top_k=task.sampling.top_k or 0,
            seed=seed,
            max_tokens=task.max_new_tokens,
            stop_token_ids=stop,
            ignore_eos=True,  # these stop tokens and no others
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return tokens_input(token_ids), params

    return request


def _compile_nothing_on_a_cpu() -> None:
    """There vLLM runs eagerly but for small helpers, which are not worth a compiler.

    Compiling them fails where there is none, or torch lies in a folder with a space in its name.
    """
    import torch

    if not torch.cuda.is_available():
        import torch._dynamo

        torch._dynamo.config.disable = True
        os.environ["TORCH_COMPILE_DISABLE"] = "1"  # for workers of several devices


def _load(task: Task, halved: bool) -> Any:
    from vllm import EngineArgs, LLMEngine
    from vllm.usage.usage_lib import UsageContext

    given = EngineArgs(**arguments(task, halved))
    return LLMEngine.from_engine_args(given, usage_context=UsageContext.LLM_CLASS)


def arguments(task: Task, halved: bool) -> dict[str, Any]:
    """What vLLM is opened with: as large a batch as it deems right for the device, or half of it.

    Raises:
        RacError: the model has no positions for prompt and completion.
    """
    from transformers import AutoConfig
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    config = AutoConfig.from_pretrained(task.checkpoint, local_files_only=True).get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    check_context(context, task.longest, task.max_new_tokens)
    length = task.longest + task.max_new_tokens
    usage = UsageContext.LLM_CLASS
    step_tokens, most = (of[usage] for of in EngineArgs.get_batch_defaults(task.tensor_parallel))
    together = min(most, task.batch)
    if halved:
        step_tokens, together = step_tokens // 2, max(together // 2, 1)
    settings: dict[str, Any] = {}
    if current_platform.is_cpu():
        settings = {
            "enforce_eager": True,  # compiling takes longer than it saves
            "kv_cache_memory_bytes": _cpu_cache(config, task.dtype, together, length),
            # vLLM 0.32 on a CPU breaks off where it cuts the prompt of a sample with a seed.
            "enable_chunked_prefill": False,
        }
        step_tokens = max(step_tokens, length)
    return settings | {
        "model": str(task.checkpoint),
        "dtype": task.dtype,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # no sampling parameters but ours
        "max_model_len": length,
        "max_num_seqs": together,
        "max_num_batched_tokens": max(step_tokens, together),
        "tensor_parallel_size": task.tensor_parallel,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }


def _cpu_cache(config: Any, dtype: str, samples: int, length: int) -> int:
    """Bytes for the keys and values of so many samples of a length, if half of the free memory has room.

    vLLM itself would take nearly all of the machine's memory.
    """
    import psutil
    import torch

    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * size * getattr(torch, dtype).itemsize
    pages = samples * -(-length // CPU_PAGE) + 1  # vLLM keeps one to itself
    return min(pages * CPU_PAGE * token, int(psutil.virtual_memory().available * CPU_SHARE))


def _free() -> None:
    """Give back the memory of an engine that is no longer referred to."""
    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()
