"""Stored answers, replayed through an lm-eval task as if a model gave them."""

import json
import statistics
from collections.abc import Callable
from typing import Any

from rac.errors import RacError
from rac.evaluate.harness import cause, judged
from rac.evaluate.task_files import ROLLING
from rac.evaluate.thoughts import answer_part


class Response(str):
    """What the task sees: the answer after the thought, as lm-eval's own models hand it over.

    `full` is the whole response, `finished` whether the model stopped by itself. lm-eval casts gold
    answers to the type of the response, so both have defaults.
    """

    full: str
    finished: bool

    def __new__(cls, text: str, full: str | None = None, finished: bool = True) -> "Response":
        response = super().__new__(cls, text)
        response.full = text if full is None else full
        response.finished = finished
        return response


def replay(
    task: Any, answer: Callable[[Any], Any], problems: set[int]
) -> tuple[dict[int, tuple[dict, dict]], dict[str, Any]]:
    """One answer to each request of a task, through its filters, metrics and aggregations.

    Args:
        task: of `load_task`, its requests built by `instances`. Answers to them are forgotten.
        answer: gives what a model would for an lm-eval instance.
        problems: the `doc_id`s that were answered.

    Returns:
        By doc_id the row and its metrics under the task's first filter; and the aggregated metrics,
        by "metric,filter".

    Raises:
        RacError: the task asks other problems, or fails at the answers.
    """
    if {instance.doc_id for instance in task.instances} != problems:
        raise RacError(
            f"the task '{task.config.task}' asks other problems than the requests hold: generate again"
        )
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [answer(instance)], {}
    by_filter = judged(task)
    aggregates: dict[str, Any] = {}
    for name, found in by_filter.items():
        values: dict[str, list] = {}
        for _, metrics in found.values():
            for metric, value in metrics.items():
                values.setdefault(metric, []).append(value)
        for metric, of_metric in values.items():
            aggregate = task.aggregation().get(metric, statistics.mean)
            try:
                aggregates[f"{metric},{name}"] = aggregate(of_metric)
            except Exception as error:
                raise RacError(
                    f"the task '{task.config.task}' cannot add up its metric '{metric}': {cause(error)}"
                ) from error
    return next(iter(by_filter.values())), aggregates


def sampled(requests: dict[int, dict], generations: dict[int, dict]) -> Callable[[Any], Response]:
    """Answers with one sample of each problem, cut at the task's stop strings after the thought.

    Args:
        requests: rows of requests.jsonl.zst by `doc_id`.
        generations: rows of generations.jsonl.zst, one sample of each, by `doc_id`.

    Raises:
        RacError: (when asked) a request is not the one that was answered.
    """

    def answer(instance: Any) -> Response:
        stored = requests.get(instance.doc_id, {})
        context, settings = instance.args
        _check(json.loads(context) == stored.get("messages"), instance)
        generation = generations[instance.doc_id]
        full = stored["opening"] + generation["text"]
        finished = generation["finish_reason"] == "stop"
        text = (answer_part(full, finished)[0] or "").lstrip()
        stops = settings.get("until") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            if stop:
                text = text.split(stop)[0]
        return Response(text, full, finished)

    return answer


def likelihoods(
    requests: dict[tuple[int, int], dict], answers: dict[tuple[int, int], dict]
) -> Callable[[Any], Any]:
    """Answers with log-likelihoods: (log p, whether greedy decoding gives it), or log p of a whole text.

    Args:
        requests: rows of requests.jsonl.zst by (`doc_id`, `request`).
        answers: rows of generations.jsonl.zst by the same.

    Raises:
        RacError: (when asked) a request is not the one that was answered.
    """

    def answer(instance: Any) -> Any:
        key = instance.doc_id, instance.idx
        _check(list(instance.args) == requests.get(key, {}).get("arguments"), instance)
        found = answers[key]
        if instance.request_type == ROLLING:
            return found["log_likelihood"]
        return found["log_likelihood"], found["is_greedy"]

    return answer


def _check(same: bool, instance: Any) -> None:
    if not same:
        raise RacError(
            f"the request of problem {instance.doc_id} is not the one that was answered: "
            "the data or the task changed since; make the requests again and generate again"
        )
