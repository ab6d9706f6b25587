"""Stored generations scored by their lm-eval task: verdicts a sample, metrics a benchmark."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from rac.artifacts import read_jsonl, sha256_file, write_jsonl
from rac.definitions import Eval
from rac.errors import RacError
from rac.evaluate.budgets import smaller
from rac.evaluate.harness import instances, load_task
from rac.evaluate.loops import is_looping
from rac.evaluate.math import last_boxed
from rac.evaluate.replay import likelihoods, replay, sampled
from rac.evaluate.spelling import normalise
from rac.evaluate.statistics import clustered_mean, quantile, votes
from rac.evaluate.task_files import CHOICES, ROLLING, SAMPLES, task_file
from rac.evaluate.thoughts import answer_part
from rac.provenance import checked_sha256, hashes, provenance, write_record
from rac.ratio import ratio


def score(
    evaluation: Eval,
    data: Path,
    requests: Path,
    generations: Path,
    scores: Path,
    metrics: Path,
    code: str | None = None,
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
        code: fingerprint of the code, for the record.

    Raises:
        RacError: a file is missing or was changed, the requests are not those that the task now builds,
            the generations are not `evaluation.samples` of each request, or the task does not say right or
            wrong.
    """
    files = {"dataset": data, "requests": requests, "generations": generations}
    inputs = {name: checked_sha256(file) for name, file in files.items()}
    task = load_task(evaluation.task, data, evaluation.sandbox)
    instances(task)  # once for all passes
    asked, answers = read_jsonl(requests), read_jsonl(generations)
    if task.OUTPUT_TYPE == SAMPLES:
        rows, aggregates = _sampled(task, asked, answers, evaluation, generations)
        summary = summarise(rows, evaluation.max_new_tokens)
    else:
        rows, aggregates = _likelihoods(task, asked, answers, generations)
        summary = summarise_likelihoods(rows)
    write_jsonl(scores, rows)
    write_record(
        metrics,
        summary
        | {"lm_eval": _averages(aggregates)}
        | hashes(scores.parent, scores.name)
        | provenance(
            "score",
            code,
            eval=evaluation.model_dump(mode="json"),
            task_file=sha256_file(task_file(evaluation.task)),
            **inputs,
        ),
    )


def _sampled(
    task: Any, requests: list[dict], generations: list[dict], evaluation: Eval, file: Path
) -> tuple[list[dict], list[dict]]:
    """Rows of scores.jsonl.zst of a task that samples, and lm-eval's numbers of each pass."""
    asked = {row["doc_id"]: row for row in requests}
    rows, aggregates = [], []
    known = list(task.aggregation())
    # Where a task has it: the exact match beside it wants a sentence that chat models do not write.
    metric = "math_verify" if "math_verify" in known else known[0]
    for sample, answers in enumerate(_by_sample(generations, asked, evaluation.samples, file)):
        found, aggregate = replay(task, sampled(asked, answers), set(asked))
        aggregates.append(aggregate)
        boxed = all(_is_boxed(metrics) for _, metrics in found.values())
        right = _right_when_cut(task, asked, answers, smaller(evaluation.max_new_tokens), metric)
        for doc_id, (problem, metrics) in found.items():
            correct, reason, more = _verdict(problem, metrics, task.config.task, metric)
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
                    "right_when_cut_at": right[doc_id],
                    **({"answer": None if said is None else _vote(said)} if boxed else {}),
                    **more,
                }
            )
    return sorted(rows, key=lambda row: (row["doc_id"], row["sample"])), aggregates


def _right_when_cut(
    task: Any, asked: dict[int, dict], answers: dict[int, dict], budgets: list[int], metric: str
) -> dict[int, list[int]]:
    """By doc_id, the budgets below a sample's tokens that leave a right answer after its thought."""
    right: dict[int, list[int]] = {doc_id: [] for doc_id in answers}
    for place, budget in enumerate(budgets):
        said = {
            doc_id: answer["text"][: answer["characters"][place]]
            for doc_id, answer in answers.items()
            if answer["tokens"] > budget
        }
        said = {
            doc_id: text
            for doc_id, text in said.items()
            if answer_part(asked[doc_id]["opening"] + text, finished=False)[0] is not None
        }
        if not said:
            continue
        cut = {
            doc_id: {"text": said.get(doc_id, ""), "finish_reason": "length"} for doc_id in answers
        }
        found, _ = replay(task, sampled(asked, cut), set(asked))
        for doc_id in said:
            if _verdict(*found[doc_id], task.config.task, metric)[0]:
                right[doc_id].append(budget)
    return right


def _likelihoods(
    task: Any, requests: list[dict], generations: list[dict], file: Path
) -> tuple[list[dict], list[dict]]:
    """Rows of scores.jsonl.zst of a task of log-likelihoods, and lm-eval's numbers.

    `acc` decides if the task has it, else its first metric. A whole text is not right or wrong.
    """
    asked, answers = (
        {(row["doc_id"], row["request"]): row for row in rows} for rows in (requests, generations)
    )
    if asked.keys() != answers.keys() or len(answers) < len(generations):
        raise RacError(f"{file} does not answer each request once: generate again")
    ids = {row["doc_id"]: row["id"] for row in requests}
    found, aggregate = replay(task, likelihoods(asked, answers), set(ids))
    known = list(task.aggregation())
    metric = "acc" if "acc" in known else known[0]
    rows = []
    for doc_id, (problem, metrics) in found.items():
        row = {"doc_id": doc_id, "id": ids[doc_id], "sample": 0, "correct": None, "reason": None}
        if task.OUTPUT_TYPE != ROLLING:
            correct, reason, _ = _verdict(problem, metrics, task.config.task, metric)
            row |= {"correct": correct, "reason": reason}
        if task.OUTPUT_TYPE != CHOICES:
            answer = answers[doc_id, 0]
            row |= {"loss": -answer["log_likelihood"], "tokens_scored": answer["tokens"]}
        rows.append(row)
    return rows, [aggregate]


def _is_boxed(metrics: dict) -> bool:
    """Whether a task looks for answers in a box: those of ours that run no program."""
    return "reason" in metrics and "sandbox" not in metrics


def _vote(said: str) -> str | None:
    """What an answer votes for: what it boxes, written in one way; None if it boxes nothing."""
    boxed = last_boxed(said)
    return None if boxed is None else normalise(boxed)


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


def _verdict(problem: dict, metrics: dict, task: str, metric: str) -> tuple[bool, str, dict]:
    """One metric decides; our own tasks give a reason too.

    What a score means nothing without goes with it: the sandbox of a program, LiveCodeBench's release,
    window and the date of the problem.
    """
    value = metrics.get(metric)
    if value not in (0, 1):
        raise RacError(
            f"the task '{task}' is decided by its metric '{metric}', which gave {value!r} where 0 or 1 "
            "was expected"
        )
    reason = metrics["reason"][0] if "reason" in metrics else metric
    more = {key: problem[key] for key in ("release", "window", "date") if key in problem}
    if "sandbox" in metrics:
        more["sandbox"] = metrics["sandbox"][0]
    return bool(value), reason, more


def _averages(aggregates: list[dict]) -> dict[str, float]:
    """lm-eval's own numbers, averaged over the passes."""
    numbers = [key for key, value in aggregates[0].items() if isinstance(value, float)]
    return {key: _mean([aggregate[key] for aggregate in aggregates]) for key in numbers}


def summarise(rows: list[dict], cap: int) -> dict:
    """The metrics of scored samples, without lm-eval's own (None where a number is undefined).

    Args:
        rows: of scores.jsonl.zst.
        cap: the most tokens that a sample could have.
    """
    problems = [row["doc_id"] for row in rows]
    samples = len(rows) // len(set(problems))
    tokens = [row["tokens"] for row in rows]
    summary: dict[str, Any] = {"problems": len(set(problems)), "samples": samples}
    shares = (("accuracy", "correct"), ("finished", "finished"), ("looping", "looping"))
    for name, key in (*shares, ("tokens_mean", "tokens")):
        mean, se = clustered_mean([row[key] for row in rows], problems)
        summary |= {name: mean, f"{name}_se": _defined(se)}
    summary |= {"tokens_median": quantile(tokens, 0.5), "tokens_p95": quantile(tokens, 0.95)}
    for name, wanted in (("correct", True), ("wrong", False)):
        of_outcome = [row["tokens"] for row in rows if row["correct"] == wanted]
        summary[f"tokens_{name}"] = _mean(of_outcome) if of_outcome else None
    solved = sum(row["correct"] for row in rows)
    summary["tokens_per_solved"] = sum(tokens) / solved if solved else None
    if samples > 1:
        summary |= _majority(rows)
    reasons = Counter(row["reason"] for row in rows).most_common()
    return summary | {
        "budgets": [
            _at_budget(rows, budget, cap) for budget in dict.fromkeys((*smaller(cap), cap))
        ],
        "reasons": dict(reasons),
    }


def _majority(rows: list[dict]) -> dict:
    """maj@k, None where there are no votes."""
    voted = votes(rows)
    if voted is None:
        return {"majority": None, "majority_se": None}
    mean, se = clustered_mean(list(voted.values()), list(voted))
    return {"majority": mean, "majority_se": _defined(se)}


def summarise_likelihoods(rows: list[dict]) -> dict:
    """The metrics of problems that were scored by log-likelihood (None where a number is undefined)."""
    problems = [row["doc_id"] for row in rows]
    summary: dict[str, Any] = {"problems": len(problems), "samples": 1}
    if all(row["correct"] is not None for row in rows):
        mean, se = clustered_mean([row["correct"] for row in rows], problems)
        summary |= {"accuracy": mean, "accuracy_se": _defined(se)}
    if all("loss" in row for row in rows):
        loss, error = ratio([(row["loss"], row["tokens_scored"]) for row in rows])
        summary |= {"loss": loss, "loss_se": error}
    return summary


def _at_budget(rows: list[dict], budget: int, cap: int) -> dict:
    """What a smaller cap would have given: a sample that needs more tokens is cut."""
    problems = [row["doc_id"] for row in rows]
    within = [budget >= cap or row["tokens"] <= budget for row in rows]
    correct = [
        row["correct"] if fits else budget in row["right_when_cut_at"]
        for row, fits in zip(rows, within, strict=True)
    ]
    accuracy, se = clustered_mean(correct, problems)
    finished = [row["finished"] and fits for row, fits in zip(rows, within, strict=True)]
    tokens, solved = [min(row["tokens"], budget) for row in rows], sum(correct)
    return {
        "budget": budget,
        "accuracy": accuracy,
        "accuracy_se": _defined(se),
        "finished": clustered_mean(finished, problems)[0],
        "tokens_mean": clustered_mean(tokens, problems)[0],
        "tokens_per_solved": sum(tokens) / solved if solved else None,
    }


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def _defined(number: float) -> float | None:
    return None if math.isnan(number) else number
