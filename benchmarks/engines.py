"""Our vLLM engine beside a bare `LLM.generate`, and vLLM beside transformers, on the same prompts in one run.

    python benchmarks/engines.py [--model FOLDER] [--dtype float32] [--problems 200] [--repeats 5]

Bare and ours use one loaded vLLM, in turn, with the same sampling parameters and seeds; ours also stores
its samples in part files. The prompts are word problems through the model's chat template.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from rac.config import Sampling
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


def draw(name: str, prompts: list[Prompt], task: Task) -> tuple[float, float, int]:
    """Seconds in all, seconds of sampling alone, and sampled tokens."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_samples(prompts, 0, name, task, Path(folder) / "work", {}, lambda tokens: None)
        rows = list(drawn)
    took = time.perf_counter() - start
    tokens = sum(len(row["token_ids"]) for row in rows)
    return took, sum(row["seconds"] for row in rows), tokens


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
    from vllm import LLM

    llm = LLM(**engine.arguments(task, halved=False))
    opened = time.perf_counter() - start
    engine._load = lambda task, halved: llm.llm_engine
    request = engine.requests(task)

    def bare() -> tuple[float, int]:
        start = time.perf_counter()
        given = [request(p.token_ids, sample_seed(p.id, p.sample, 0))[1] for p in prompts]
        texts = [{"prompt_token_ids": prompt.token_ids} for prompt in prompts]
        outputs = llm.generate(texts, given, use_tqdm=False)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        return time.perf_counter() - start, tokens

    ratios: list[float] = []
    rates: dict[str, list[float]] = {"LLM.generate": [], "ours": [], "transformers": []}
    for repeat in range(asked.repeats + 1):
        alone, tokens = bare()
        ours, _, same = draw("vllm", prompts, task)
        assert same == tokens
        _, other, others = draw("transformers", prompts, task)
        if repeat:  # the first round warms up
            ratios.append(ours / alone)
            rates["LLM.generate"].append(tokens / alone)
            rates["ours"].append(tokens / ours)
            rates["transformers"].append(others / other)

    print(
        f"{asked.model.name}, {asked.dtype}, {len(prompts)} prompts, {tokens:,} tokens, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} thread(s), vLLM {version('vllm')}, "
        f"transformers {version('transformers')}, {asked.repeats} repeats\n"
    )
    print("| tokens/s | mean ± standard error |\n|---|---:|")
    for name, values in rates.items():
        print(f"| {name} | {mean(values, 0)} |")
    print(f"\nOurs takes {mean(ratios, 3)} times as long as LLM.generate.")
    print(f"Importing and opening vLLM took {opened:.1f} s.")


if __name__ == "__main__":
    main()
