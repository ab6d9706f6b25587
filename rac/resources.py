"""What a job takes, by the rule and its wildcards; and the memory and time that it asks a cluster for.

docs/planning.md has the formulas, and what is added to them. Imports no torch.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from rac import costs
from rac.config import Config
from rac.costs import CPU, H100, Cost, Device, Shape
from rac.definitions import Source
from rac.evaluate.task_files import SAMPLES, output_type

MEMORY = 1.5  # asked for, over planned; a plan may be 20 % too low
TIME = 4  # good to a factor of two or three, for the fastest of GPUs
START = 20  # minutes: a container, imports, weights and Hessians from a shared disk
DISK = 1e8  # bytes that a shared disk writes in a second
SNAKEMAKE = 1e9  # bytes of its own processes in a job
BESIDE_GPU = 4e9  # bytes of host memory that CUDA's libraries take for each GPU
UNKNOWN = Cost(host=64e9, seconds=2 * 3600)  # where a model's sizes are not known
CHOICES = 4  # log-likelihoods that a problem asks for, where its task asks for them
PROBLEMS = 1000  # where a dataset's rows are not known


class Assumed(NamedTuple):
    """What config.yaml does not say."""

    device: Device = H100
    prompt: int = 256  # tokens of a prompt
    length: float = 0.25  # mean tokens of a sample, as a share of max_new_tokens
    engine: str = "transformers"  # that samples
    tensor_parallel: int = 1  # devices that vLLM spreads the model over


def cost(
    config: Config,
    shape: Shape,
    problems: Mapping[str, int],
    assumed: Assumed,
    rule: str,
    wildcards: Mapping[str, str],
) -> Cost:
    """What one job of a rule that runs a model takes.

    Args:
        config: whose definitions the wildcards name.
        shape: the model's sizes.
        problems: rows of each dataset that an eval asks, where they are known.
        rule: traces, hessians, compress, generate, diagnostics, losses or runtime; `{stage}_shard` is one of
            the jobs that share a stage's work, whose own job then draws a batch at most.
        wildcards: of the job, without the model.
    """
    device, prompt, length, engine, several = assumed

    def most(source: Source) -> int:  # tokens that a sample may have
        drawn = config.sources[source.traces_of.source] if source.traces_of else source
        return drawn.max_new_tokens

    def longest(source: Source) -> int:
        of_trace = prompt + most(source)
        return {"text": source.window, "prompts": prompt}.get(source.kind, of_trace)

    def decode(batch: int, new: int, samples: float) -> Cost:
        if engine == "vllm":
            together = device._replace(
                memory=several * device.memory,
                flops=several * device.flops,
                bandwidth=several * device.bandwidth,
            )
            of = costs.stream(shape, prompt, new, length * new, samples, together)
            return of._replace(device=of.device / several)  # of each
        return costs.decode(shape, batch, prompt, new, samples, device)

    stage, _, shard = rule.partition("_")

    def shared(whole: float, batch: int, shards: int) -> float:
        if shards == 1:
            return whole
        return whole / shards if shard else min(whole, batch)

    if stage == "traces":
        source = config.sources[wildcards["source"]]
        samples = source.tokens / (prompt + length * source.max_new_tokens)
        share = shared(samples, source.batch, source.shards)
        return decode(source.batch, source.max_new_tokens, share)
    if stage == "hessians":
        source = config.sources[wildcards["source"]]
        share = round(shared(source.tokens, 0, source.shards))
        source = source.model_copy(update={"tokens": share})
        return costs.hessians(shape, source, longest(source), device)
    if rule == "compress":
        variant, walked, trace = config.variant_cells()[wildcards["variant"]][1], {}, 0
        if variant.needs_sequences and wildcards["calibration"] != "none":
            used = config.calibrations[wildcards["calibration"]].sources(config.sources)
            walked = {config.sources[name]: longest(config.sources[name]) for name in used}
        if variant.allocation_source:
            searched = config.sources[variant.allocation_source]
            trace = round(prompt + length * most(searched))
        return costs.compress(shape, variant, device, walked, trace)
    if stage == "generate":
        asked = config.evals[wildcards["eval"]]
        if output_type(asked.task) != SAMPLES:
            requests = problems.get(asked.dataset, PROBLEMS) * CHOICES
            return costs.likelihoods(shape, prompt, requests, device)
        samples = problems.get(asked.dataset, PROBLEMS) * asked.samples
        share = shared(samples, asked.batch, asked.shards)
        return decode(asked.batch, asked.max_new_tokens, share)
    if rule == "diagnostics":
        return costs.diagnostics(shape, device)
    if rule == "losses":
        heldout = [config.sources[wildcards[name]] for name in ("thoughts", "text")]
        return costs.losses(shape, heldout, max(map(longest, heldout)), device)
    if rule == "runtime":
        return costs.runtime(shape, config.workloads[wildcards["workload"]], device)
    raise ValueError(f"rule '{rule}' runs no model")


def device(gpus: int, threads: int) -> Device:
    """What a job is planned for: a GPU, or so many threads of a CPU."""
    if gpus:
        return H100
    return CPU._replace(
        flops=CPU.flops * threads,
        float32_flops=CPU.float32_flops * threads,
        bandwidth=CPU.bandwidth * threads,
    )


def megabytes(of: Cost, gpus: int, attempt: int) -> int:
    """Host memory that a job asks for; without a GPU, the model is there too."""
    planned = of.host + (0 if gpus else of.device)
    return math.ceil(attempt * (MEMORY * planned + SNAKEMAKE + BESIDE_GPU * gpus) / 1e6)


def minutes(of: Cost, attempt: int) -> int:
    """Time that a job asks for."""
    return attempt * (START + math.ceil((TIME * of.seconds + of.disk / DISK) / 60))
