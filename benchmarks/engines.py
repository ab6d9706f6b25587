"""Our vLLM engine beside a bare `LLM.generate`, and vLLM beside transformers, on the same prompts in one run.

    python benchmarks/engines.py [--model FOLDER] [--dtype float32] [--problems 200] [--repeats 5]

Bare and ours use one loaded vLLM, in turn, with the same sampling parameters and seeds; ours also looks
whether logits are NaN (so does bare where vLLM settles that when it is opened, as on a GPU), and stores its
samples in part files. Transformers loads the model anew in each round. The prompts are word problems through
the model's chat template.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rac.definitions import Sampling
from rac.engines import Task, sample_seed, version
from rac.engines import vllm as engine
from rac.engines.samples import Prompt, draw_samples
from rac.models import checkpoint
from rac.models.reasoner import WEIGHTS, problems


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=WEIGHTS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=448)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


class Took(NamedTuple):
    """A run: seconds by the clock, seconds of the processor (all threads), sampled tokens."""

    wall: float
    cpu: float
    tokens: int


def timed(run: Callable[[], int]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = run()
    return Took(time.perf_counter() - wall, time.process_time() - cpu, tokens)


def draw(name: str, prompts: list[Prompt], task: Task) -> int:
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_samples(prompts, 0, name, task, Path(folder) / "work", {}, lambda tokens: None)
        return sum(len(row["token_ids"]) for row in drawn)


def mean(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):,.{digits}f} ± {error:,.{digits}f}"


def main() -> None:
    asked = options()
    tokenizer = checkpoint.load_tokenizer(asked.model)
    rows = problems.generate("test", asked.problems)
    chats = [[{"role": "user", "content": row["problem"]}] for row in rows]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)
    prompts = [Prompt(row["id"], 0, ids) for row, ids in zip(rows, texts, strict=True)]
    longest = max(map(len, texts))
    task = Task(asked.model, asked.dtype, Sampling(), asked.new_tokens, longest, batch=len(prompts))

    start = time.perf_counter()
    os.environ.update(engine.ENVIRONMENT)
    from vllm import LLM, envs

    llm = LLM(**engine.arguments(task, halved=False))
    opened = time.perf_counter() - start
    engine._load = lambda task, halved: llm.llm_engine
    request = engine.requests(task)

    def bare() -> int:
        envs.VLLM_COMPUTE_NANS_IN_LOGITS = False
        given = [request(p.token_ids, sample_seed(p.id, p.sample, 0))[1] for p in prompts]
        texts = [{"prompt_token_ids": prompt.token_ids} for prompt in prompts]
        outputs = llm.generate(texts, given, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def ours() -> int:
        envs.VLLM_COMPUTE_NANS_IN_LOGITS = True
        return draw("vllm", prompts, task)

    ways: dict[str, Callable[[], int]] = {
        "LLM.generate": bare,
        "ours": ours,
        "transformers": lambda: draw("transformers", prompts, task),
    }
    rounds = [{way: timed(run) for way, run in ways.items()} for _ in range(asked.repeats + 1)]
    rounds = rounds[1:]  # the first warms up
    assert all(took["ours"].tokens == took["LLM.generate"].tokens for took in rounds)

    print(
        f"{asked.model.name}, {asked.dtype}, {len(prompts)} prompts, "
        f"{rounds[0]['ours'].tokens:,} tokens by vLLM, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} thread(s), vLLM {version('vllm')}, "
        f"transformers {version('transformers')}, {asked.repeats} rounds\n"
    )
    print("| tokens | a second | a processor second |\n|---|---:|---:|")
    for way in ways:
        wall, cpu = ([took[way].tokens / took[way][i] for took in rounds] for i in (0, 1))
        print(f"| {way} | {mean(wall, 0)} | {mean(cpu, 0)} |")
    for i, kind in enumerate(("time", "processor time")):
        ratios = [took["ours"][i] / took["LLM.generate"][i] for took in rounds]
        print(f"\nOurs takes {mean(ratios, 3)} times the {kind} of LLM.generate.")
    print(f"Importing and opening vLLM took {opened:.1f} s.")


if __name__ == "__main__":
    main()
