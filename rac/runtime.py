"""Stage `runtime`: speed and memory of a compressed model and its dense original, in turn in one process."""

import statistics
import time
from pathlib import Path

import torch

from rac.definitions import Sampling, Workload
from rac.engines.transformers import generate, load
from rac.errors import RacError, one_line
from rac.models import checkpoint as checkpoints
from rac.progress import progress
from rac.provenance import provenance, write_record


def measure_runtime(
    workload: Workload, dense: Path, checkpoint: Path, dtype: str, output: Path
) -> None:
    """Write runtime/{workload}.json: generated tokens/s by batch size, speed-up, peak memory.

    Repeats alternate between the two models, so that a change of the machine's load meets both. Prompts
    are random tokens and nothing stops early: the work is the same for both models.

    Raises:
        RacError: a checkpoint cannot be loaded, or the device has no memory for a batch: a smaller one would
            be another measurement.
    """
    folders = {"dense": dense, "compressed": checkpoint}
    # What a process allocates once would be counted to the first model.
    _seconds(load(dense, dtype), max(workload.batches), workload)
    peaks = {
        name: _peak_memory(folder, dtype, max(workload.batches), workload)
        for name, folder in folders.items()
    }
    models = {name: load(folder, dtype) for name, folder in folders.items()}
    batches = {}
    for batch in workload.batches:
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for repeat in range(workload.repeats + 1):
            for name, model in models.items():
                took = _seconds(model, batch, workload)
                if repeat:  # the first round warms up
                    seconds[name].append(took)
        tokens = batch * workload.new_tokens
        rates = {name: [tokens / took for took in times] for name, times in seconds.items()}
        ratios = [c / d for c, d in zip(rates["compressed"], rates["dense"], strict=True)]
        batches[str(batch)] = {
            "tokens_per_second": statistics.mean(rates["compressed"]),
            "tokens_per_second_se": _standard_error(rates["compressed"]),
            "dense_tokens_per_second": statistics.mean(rates["dense"]),
            "dense_tokens_per_second_se": _standard_error(rates["dense"]),
            "speedup": statistics.mean(ratios),
            "speedup_se": _standard_error(ratios),
        }
    write_record(
        output,
        {
            "batches": batches,
            "peak_memory_bytes": peaks["compressed"],
            "dense_peak_memory_bytes": peaks["dense"],
            "threads": torch.get_num_threads(),
            "device": str(models["dense"].device),
            "dtype": dtype,
            "workload": workload.model_dump(mode="json"),
        }
        | provenance(
            "runtime",
            workload=workload.model_dump(),
            weights={n: checkpoints.identity(folder) for n, folder in folders.items()},
        ),
    )


def _standard_error(values: list[float]) -> float | None:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _seconds(model, batch: int, workload: Workload) -> float:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, workload.prompt_tokens)
    prompts = torch.randint(model.config.vocab_size, shape, generator=generator).tolist()
    seeds, new = list(range(batch)), workload.new_tokens
    with progress(f"runtime, {batch} samples at once", batch * new) as update:
        start = time.perf_counter()
        try:
            generate(model, [], prompts, seeds, Sampling(), new, update)
        except torch.OutOfMemoryError as error:
            raise RacError(
                f"memory of {model.device} is short for {batch} samples at once of "
                f"{workload.prompt_tokens} + {new} tokens: name a smaller number in 'batches' of the run's "
                f"workload, or lower its 'new_tokens' ({one_line(error)})"
            ) from None
        return time.perf_counter() - start


def _peak_memory(folder: Path, dtype: str, batch: int, workload: Workload) -> int | None:
    """Bytes that loading a model and generating one batch add at their peak; None where unknown.

    On a GPU, what torch allocated; on a CPU, the growth of the process's resident set (Linux only).
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _seconds(load(folder, dtype), batch, workload)
        return torch.cuda.max_memory_allocated() - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak (VmHWM) to the present size
    except OSError:
        return None
    before = _status("VmRSS")
    _seconds(load(folder, dtype), batch, workload)
    return max(_status("VmHWM") - before, 0)  # the kernel counts pages late, a few for each thread


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(key)
