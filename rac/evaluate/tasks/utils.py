"""What the task files here share."""

import collections
import itertools
import statistics

from rac.errors import RacError
from rac.evaluate.math import Grade, grade_many


def whole(response: str) -> tuple[str, bool]:
    """A response with the thought that its prompt opened, and whether it finished.

    A replayed rac.evaluate.replay.Response is whole in `full` and says whether it was cut; a plain
    string, as lm-eval's own models give it, counts as finished.
    """
    return getattr(response, "full", response), getattr(response, "finished", True)


def grade(responses: list[list[str]], docs: list[dict]) -> list[list[Grade]]:
    """A filter that grades every repeat of all problems at once, over several processes.

    Raises:
        RacError: a row has no answer to grade by.
    """
    flat = [
        (text, _gold(doc), finished)
        for repeats, doc in zip(responses, docs, strict=True)
        for text, finished in map(whole, repeats)
    ]
    grades = iter(grade_many(flat))
    return [list(itertools.islice(grades, len(repeats))) for repeats in responses]


def grade_gsm8k(responses: list[list[str]], docs: list[dict]) -> list[list[Grade]]:
    """The same where a worked solution ends with its answer after `####`."""
    return grade(responses, [doc | {"answer": _gold(doc).split("#### ")[-1]} for doc in docs])


def _gold(doc: dict) -> str:
    if doc.get("answer") is None:
        raise RacError(
            f"problem '{doc.get('id')}' has no answer to grade by: give it a column 'answer'"
        )
    return str(doc["answer"])


def process_results(doc: dict, results: list[list[Grade]]) -> dict:
    """The share of a problem's repeats that are correct, and the reason of each."""
    return {
        "correct": statistics.mean(float(correct) for correct, _ in results[0]),
        "reason": [reason for _, reason in results[0]],
    }


def count(values: list[list[str]]) -> dict[str, int]:
    """How many samples each value holds for."""
    return dict(collections.Counter(itertools.chain.from_iterable(values)).most_common())
