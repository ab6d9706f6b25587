"""How fast checkpoints are beside their dense model, in the engine that will serve them.

    python benchmarks/latency.py ENGINE DENSE CHECKPOINT… [--dtype bfloat16] [--batches 1,32] [--rounds 8]

Each model is open in a process of its own, which waits for its turn: in a round all of them generate the
same work, one after the other, so that a change of the machine's load meets them all; each round begins with
another. Prompts are random
tokens, and no sample stops early. A line of the table is a model: its bytes on disk, and for each batch the
tokens that it generates a second, ± standard error over rounds, with the 95 % t-interval of the speed-up
over the dense model in the same round.
"""

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from statistics import mean, stdev

from scipy.stats import t

from rac.artifacts import read_json
from rac.definitions import Sampling
from rac.engines import Task, version
from rac.models import weights

Generate = Callable[[list[list[int]], int], object]  # of prompts, so many tokens each


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["transformers", "vllm"])
    parser.add_argument("models", type=Path, nargs="+", help="the dense model's folder comes first")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--batches", type=lambda text: [*map(int, text.split(","))], default=[1, 32]
    )
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    return parser.parse_args()


def open_transformers(folder: Path, asked: argparse.Namespace) -> Generate:
    from rac.engines import transformers as engine

    model = engine.load(folder, asked.dtype)
    return lambda prompts, new: engine.generate(
        model, [], prompts, list(range(len(prompts))), Sampling(), new
    )


def open_vllm(folder: Path, asked: argparse.Namespace) -> Generate:
    from rac.engines import vllm as engine

    os.environ.update(engine.ENVIRONMENT | {"VLLM_LOGGING_LEVEL": "ERROR"})
    from vllm import LLM, SamplingParams

    most = max(asked.batches)
    task = Task(folder, asked.dtype, Sampling(), asked.new_tokens, asked.prompt_tokens, batch=most)
    given = engine.arguments(task, halved=False) | {"enable_prefix_caching": False}
    llm = LLM(**given)
    return lambda prompts, new: llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts],
        SamplingParams(max_tokens=new, ignore_eos=True, detokenize=False),
        use_tqdm=False,
    )


def serve(folder: Path, asked: argparse.Namespace, turns: Connection) -> None:
    """Open a model, then answer every batch size with the seconds that so many samples take."""
    generate = (open_vllm if asked.engine == "vllm" else open_transformers)(folder, asked)
    most = read_json(folder / "config.json")["vocab_size"]
    turns.send(None)
    while batch := turns.recv():
        drawn = Random(0)
        prompts = [
            [drawn.randrange(most) for _ in range(asked.prompt_tokens)] for _ in range(batch)
        ]
        start = time.perf_counter()
        generate(prompts, asked.new_tokens)
        turns.send(time.perf_counter() - start)


def cell(rates: Sequence[float], dense: Sequence[float], is_dense: bool) -> str:
    rounds = len(rates)
    found = f"{mean(rates):,.1f} ± {stdev(rates) / math.sqrt(rounds):,.1f}"
    if is_dense:
        return f"{found} |"
    ratios = [ours / theirs for ours, theirs in zip(rates, dense, strict=True)]
    reach = t.ppf(0.975, rounds - 1) * stdev(ratios) / math.sqrt(rounds)
    return f"{found} | {mean(ratios):.2f} [{mean(ratios) - reach:.2f}, {mean(ratios) + reach:.2f}]"


def main() -> None:
    asked = options()
    spawn = multiprocessing.get_context("spawn")  # vLLM does not survive a fork
    turns: list[Connection] = []
    for folder in asked.models:
        ours, theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(folder, asked, theirs), daemon=True).start()
        theirs.close()  # so that the end of a process is the end of its pipe
        ours.recv()
        turns.append(ours)

    seconds: dict[tuple[int, int], list[float]] = {}
    for turn in range(asked.rounds + 1):
        for batch in asked.batches:
            for place in range(len(turns)):
                number = (turn + place) % len(turns)
                turns[number].send(batch)
                took = turns[number].recv()
                if turn:  # the first round warms up
                    seconds.setdefault((number, batch), []).append(took)
    for model in turns:
        model.send(0)

    print(
        f"{asked.engine} {version('vllm' if asked.engine == 'vllm' else 'transformers')}, "
        f"{asked.dtype}, {os.cpu_count()} cores, prompts of {asked.prompt_tokens} tokens, "
        f"{asked.new_tokens} new ones, {asked.rounds} rounds\n"
    )
    heads = [f"{batch} at once, tokens/s | speed-up" for batch in asked.batches]
    print(f"| model | MB | {' | '.join(heads)} |")
    print(f"|---|---:|{'---:|---:|' * len(heads)}")
    for number, folder in enumerate(asked.models):
        row = [folder.parent.name if folder.name == "checkpoint" else folder.name]
        row.append(f"{weights.bytes_on_disk(folder) / 1e6:,.1f}")
        for batch in asked.batches:
            tokens = batch * asked.new_tokens
            rates, dense = ([tokens / took for took in seconds[of, batch]] for of in (number, 0))
            row.append(cell(rates, dense, number == 0))
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
