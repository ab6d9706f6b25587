"""What the task files here share."""

import collections
import itertools
import statistics

from rac.evaluate.math import grade_math


def keep_all(responses: list[list[str]], docs: list[dict]) -> list[list[str]]:
    """A filter that keeps every repeat: lm-eval's default scores the first alone."""
    return responses


def process_results(doc: dict, results: list[list[str]]) -> dict:
    """Grade all repeats of a problem: the share of correct ones, and the reason of each.

    A replayed rac.evaluate.replay.Response is whole in `full` and says whether it was cut; a plain
    string, as lm-eval's own models give it, counts as finished.
    """
    grades = [
        grade_math(
            getattr(response, "full", response),
            str(doc["answer"]),
            getattr(response, "finished", True),
        )
        for response in results[0]
    ]
    return {
        "correct": statistics.mean(float(grade.correct) for grade in grades),
        "reason": [grade.reason for grade in grades],
    }


def count(reasons: list[list[str]]) -> dict[str, int]:
    """How many samples each reason holds for."""
    return dict(collections.Counter(itertools.chain.from_iterable(reasons)).most_common())
