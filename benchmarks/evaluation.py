"""Our generate and score stages beside the bare transformers engine, on the same prompts in one run.

    python benchmarks/evaluation.py [--model FOLDER] [--dtype float32] [--problems 200] [--repeats 5]

Bare loads the tokenizer, samples in the same chunks with the same seeds, and decodes. Generate does all that
the stage does: it reads the requests, stores part files, writes rows with text, and the record. Score
grades them. The model is loaded once for all.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rac.artifacts import read_jsonl, write_jsonl
from rac.definitions import Eval, Model
from rac.engines import sample_seed, version
from rac.engines import transformers as engine
from rac.evaluate.requests import build_requests
from rac.evaluate.score import score
from rac.generate import Asked, write_generations
from rac.models import checkpoint
from rac.models.prepare import prepare_model
from rac.models.reasoner import problems


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="a folder of the model stage; the reasoner")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=448)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def mean(values: list[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):,.{digits}f} ± {error:,.{digits}f}"


def main() -> None:
    asked = options()
    spec = Model.model_validate({"embedded": "reasoner", "dtype": asked.dtype})
    settings = {"max_new_tokens": asked.new_tokens, "batch": asked.batch}
    evaluation = Eval.model_validate({"task": "word_problems", "dataset": "d", **settings})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = asked.model or folder / "model"
        if asked.model is None:
            prepare_model(spec, "reasoner", model)
        data, requests = folder / "data.jsonl", folder / "requests.jsonl.zst"
        write_jsonl(data, problems.generate("test", asked.problems))
        build_requests(evaluation.task, data, model, requests)
        network, stop = engine.load(model, asked.dtype), checkpoint.stop_tokens(model)
        engine.load = lambda checkpoint, dtype: network  # not measured: both need it once
        prompts = read_jsonl(requests)

        def bare(to: Path) -> None:
            tokenizer = checkpoint.load_tokenizer(model)
            for start in range(0, len(prompts), asked.batch):
                chunk = prompts[start : start + asked.batch]
                seeds = [sample_seed(row["id"], 0, evaluation.seed) for row in chunk]
                completions = engine.generate(
                    *(network, stop, [row["token_ids"] for row in chunk], seeds),
                    *(spec.sampling, asked.new_tokens),
                )
                tokenizer.batch_decode([completion.token_ids for completion in completions])

        def generate(to: Path) -> None:
            output = to / "generations.jsonl.zst"
            write_generations(
                Asked(evaluation, spec, model, requests, "transformers", 1, "code"), output
            )

        def grade(to: Path) -> None:
            output = to / "scores.jsonl.zst", to / "metrics.json"
            score(evaluation, data, requests, to / "generations.jsonl.zst", *output)

        ways: dict[str, Callable[[Path], None]] = {
            "bare engine": bare,
            "generate": generate,
            "score": grade,
        }
        rounds: list[dict[str, tuple[float, float]]] = []
        for number in range(asked.repeats + 1):
            to = folder / str(number)
            took = {}
            for way, run in ways.items():
                start, spent = time.perf_counter(), time.process_time()
                run(to)
                took[way] = time.perf_counter() - start, time.process_time() - spent
            rounds.append(took)
        tokens = sum(row["tokens"] for row in read_jsonl(to / "generations.jsonl.zst"))
    rounds = rounds[1:]  # the first warms up
    print(
        f"{asked.model or 'the reasoner'}, {asked.dtype}, {len(prompts)} prompts, {tokens:,} tokens, "
        f"chunks of {asked.batch}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s), "
        f"transformers {version('transformers')}, {asked.repeats} rounds, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print("| | seconds | processor seconds |\n|---|---:|---:|")
    for way in ways:
        wall, processor = ([took[way][i] for took in rounds] for i in (0, 1))
        print(f"| {way} | {mean(wall, 2)} | {mean(processor, 3)} |")
    print()
    for what, parts in (("Generate", ("generate",)), ("With scoring", ("generate", "score"))):
        ratios = [sum(took[way][1] for way in parts) / took["bare engine"][1] for took in rounds]
        print(f"{what}: {mean(ratios, 3)} times the processor time of the bare engine.")


if __name__ == "__main__":
    main()
