"""Stored generations scored by their lm-eval task: verdicts a sample, metrics a benchmark."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rac.artifacts import read_jsonl, sha256_file, write_json, write_jsonl
from rac.config import Eval
from rac.errors import RacError
from rac.evaluate.harness import CONTEXT, FEWSHOT_SEED, load_task
from rac.evaluate.math import last_boxed
from rac.evaluate.spelling import normalise
from rac.evaluate.statistics import clustered_mean, majority
from rac.evaluate.thoughts import answer_part
from rac.provenance import hashes, provenance

RUN, TAIL = 8, 192  # tokens


def score(
    evaluation: Eval, data: Path, requests: Path, generations: Path, scores: Path, metrics: Path
) -> None:
    """Write scores.jsonl.zst and metrics.json (docs/evaluation.md says what each column is).

    Every sample is a pass of its own through lm-eval, so that a task which looks at one response
    only scores them all.

    Args:
        evaluation: the benchmark.
        data: the data.jsonl that the requests were built from.
        requests: requests.jsonl.zst.
        generations: generations.jsonl.zst, of a dense or a compressed model.
        scores: the file of verdicts to write.
        metrics: the file of metrics to write.

    Raises:
        RacError: the requests are not those that the task now builds, the generations are not
            `evaluation.samples` of each request, or the task does not say right or wrong.
    """
    task = load_task(evaluation.task, data, evaluation.sandbox)
    asked = {row["doc_id"]: row for row in read_jsonl(requests)}
    passes = _by_sample(read_jsonl(generations), asked, evaluation.samples, generations)
    rows, aggregates = [], []
    for sample, answers in enumerate(passes):
        verdicts, aggregate = _replay(task, asked, answers)
        aggregates.append(aggregate)
        for doc_id, (correct, reason, more) in verdicts.items():
            answer = answers[doc_id]
            stopped = answer["finish_reason"] == "stop"
            said, thought = answer_part(asked[doc_id]["opening"] + answer["text"], stopped)
            rows.append(
                {
                    "doc_id": doc_id,
                    "id": asked[doc_id]["id"],
                    "sample": sample,
                    "correct": correct and not thought,
                    "reason": thought or reason,
                    "finished": stopped and not thought,
                    "tokens": answer["tokens"],
                    "looping": is_looping(answer["token_ids"]),
                    "answer": None if said is None else _vote(said),
                    **more,
                }
            )
    rows.sort(key=lambda row: (row["doc_id"], row["sample"]))
    write_jsonl(scores, rows)
    summary = summarise(rows, evaluation.max_new_tokens)
    write_json(
        metrics,
        summary
        | {"lm_eval": _averages(aggregates)}
        | hashes(scores.parent, scores.name)
        | provenance(
            "score",
            eval=evaluation.model_dump(mode="json"),
            dataset=sha256_file(data),
            requests=sha256_file(requests),
            generations=sha256_file(generations),
        ),
    )


def _vote(said: str) -> str | None:
    """What an answer votes for: what it boxes, written in one way; None if it boxes nothing."""
    boxed = last_boxed(said)
    return None if boxed is None else normalise(boxed)


def is_looping(token_ids: list[int]) -> bool:
    """Whether a response repeats itself: over half of its last 192 tokens' runs of eight are repeats."""
    tail = token_ids[-TAIL:]
    runs = [tuple(tail[i : i + RUN]) for i in range(len(tail) - RUN + 1)]
    return len(set(runs)) < len(runs) / 2


def _by_sample(
    rows: list[dict], asked: dict[int, dict], samples: int, file: Path
) -> list[dict[int, dict]]:
    """Generations as one dictionary a sample, by doc_id."""
    passes: list[dict[int, dict]] = [{} for _ in range(samples)]
    for row in rows:
        known = asked.get(row["doc_id"], {}).get("id") == row["id"] and row["sample"] < samples
        if not known or row["doc_id"] in passes[row["sample"]]:
            raise RacError(
                f"{file}: sample {row['sample']} of problem '{row['id']}' answers no request, or "
                "one twice: the requests changed; generate again"
            )
        passes[row["sample"]][row["doc_id"]] = row
    missing = sum(len(asked) - len(answers) for answers in passes)
    if missing:
        raise RacError(
            f"{file} lacks {missing} of {len(asked) * samples} generations ({samples} of each of "
            f"{len(asked)} problems): generate again"
        )
    return passes


def _replay(
    task: Any, asked: dict[int, dict], answers: dict[int, dict]
) -> tuple[dict[int, tuple[bool, str, dict]], dict]:
    """One sample of each problem through lm-eval: (correct, reason, more) by doc_id; its aggregates."""
    from lm_eval.evaluator import evaluate

    from rac.evaluate.replay import Replay

    name = task.config.task
    task.set_fewshot_seed(FEWSHOT_SEED)
    results = evaluate(
        Replay(asked, answers), {"tasks": {name: task}}, bootstrap_iters=0, **CONTEXT
    )
    assert results is not None  # as it is on a rank other than 0
    logged = results["samples"][name]
    if {entry["doc_id"] for entry in logged} != asked.keys():
        raise RacError(
            f"the task '{name}' asks other problems than the requests hold: generate again"
        )
    deciding = logged[0]["filter"], next(iter(task.aggregation()))
    verdicts = {
        entry["doc_id"]: _verdict(entry, name, deciding[1])
        for entry in logged
        if entry["filter"] == deciding[0]
    }
    return verdicts, results["results"][name]


def _verdict(entry: dict, task: str, metric: str) -> tuple[bool, str, dict]:
    """The task's first metric under its first filter decides; our own tasks give a reason too.

    What a score means nothing without goes with it: the sandbox of a program, LiveCodeBench's release
    and the date of the problem.
    """
    value = entry.get(metric)
    if value not in (0, 1):
        raise RacError(
            f"the task '{task}' is decided by its first metric, '{metric}', which gave {value!r} "
            "where 0 or 1 was expected"
        )
    reason = entry["reason"][0] if "reason" in entry["metrics"] else metric
    more = {key: entry["doc"][key] for key in ("release", "date") if key in entry["doc"]}
    if "sandbox" in entry["metrics"]:
        more["sandbox"] = entry["sandbox"][0]
    return bool(value), reason, more


def _averages(aggregates: list[dict]) -> dict[str, float]:
    """lm-eval's own numbers, averaged over the passes."""
    numbers = [
        key for key, value in aggregates[0].items() if isinstance(value, float) and "," in key
    ]
    return {key: float(np.mean([aggregate[key] for aggregate in aggregates])) for key in numbers}


def summarise(rows: list[dict], cap: int) -> dict:
    """The metrics of scored samples, without lm-eval's own (None where a number is undefined).

    Args:
        rows: of scores.jsonl.zst.
        cap: the most tokens that a sample could have.
    """
    problems = [row["doc_id"] for row in rows]
    samples = len(rows) // len(set(problems))
    tokens = np.array([row["tokens"] for row in rows])
    summary: dict[str, Any] = {"problems": len(set(problems)), "samples": samples}
    shares = (("accuracy", "correct"), ("finished", "finished"), ("looping", "looping"))
    for name, key in (*shares, ("tokens_mean", "tokens")):
        mean, se = clustered_mean([row[key] for row in rows], problems)
        summary |= {name: mean, f"{name}_se": _defined(se)}
    median, p95 = np.quantile(tokens, [0.5, 0.95])
    summary |= {"tokens_median": float(median), "tokens_p95": float(p95)}
    for name, wanted in (("correct", True), ("wrong", False)):
        of_outcome = [row["tokens"] for row in rows if row["correct"] == wanted]
        summary[f"tokens_{name}"] = float(np.mean(of_outcome)) if of_outcome else None
    solved = sum(row["correct"] for row in rows)
    summary["tokens_per_solved"] = float(tokens.sum()) / solved if solved else None
    if samples > 1:
        answers = [row["answer"] for row in rows]
        voted = majority([row["correct"] for row in rows], answers, problems)
        mean, se = clustered_mean(list(voted.values()), list(voted))
        summary |= {"majority": mean, "majority_se": _defined(se)}
    reasons = Counter(row["reason"] for row in rows).most_common()
    return summary | {
        "budgets": [_at_budget(rows, max(cap // part, 1), cap) for part in (8, 4, 2, 1)],
        "reasons": dict(reasons),
    }


def _at_budget(rows: list[dict], budget: int, cap: int) -> dict:
    """What a smaller cap would have given: a sample that needs more tokens is cut, and wrong."""
    problems = [row["doc_id"] for row in rows]
    within = [budget >= cap or row["tokens"] <= budget for row in rows]
    accuracy, se = clustered_mean(
        [row["correct"] and fits for row, fits in zip(rows, within, strict=True)], problems
    )
    finished = [row["finished"] and fits for row, fits in zip(rows, within, strict=True)]
    return {
        "budget": budget,
        "accuracy": accuracy,
        "accuracy_se": _defined(se),
        "finished": clustered_mean(finished, problems)[0],
        "tokens_mean": clustered_mean([min(row["tokens"], budget) for row in rows], problems)[0],
    }


def _defined(number: float) -> float | None:
    return None if math.isnan(number) else number
