"""Which traces to calibrate on: by whether they are right, how hard their problem is, how long they are."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from rac.definitions import Select
from rac.evaluate.math import grade_many


def select(
    traces: list[dict], asked: Select, answers: Mapping[str, str], said: Callable[[dict], str]
) -> list[dict]:
    """The traces that are asked for, in their order, or by length.

    The difficulty of a problem is the share of its traces that are wrong; an unfinished one is wrong.
    Calibrating on traces chosen so is proposed in arXiv 2511.18864.

    Args:
        traces: rows of traces.jsonl.zst: `id`, `token_ids`, `prompt_length`, `finish_reason`.
        asked: what to choose by.
        answers: problem id → the right answer.
        said: a trace → the model's text, with the `<think>` that its prompt may have opened.
    """
    correct: list[bool] = []
    by_problem: dict[str, list[bool]] = defaultdict(list)
    if asked.correct is not None or asked.difficulty is not None:
        correct = [
            grade.correct
            for grade in grade_many(
                (said(row), answers[row["id"]], row["finish_reason"] == "stop") for row in traces
            )
        ]
        for row, is_correct in zip(traces, correct, strict=True):
            by_problem[row["id"]].append(is_correct)

    def wanted(i: int) -> bool:
        row = traces[i]
        length = len(row["token_ids"]) - row["prompt_length"]
        low, high = asked.tokens or (0, length)
        fits = low <= length <= high
        if asked.finished is not None:
            fits &= asked.finished == (row["finish_reason"] == "stop")
        if asked.correct is not None:
            fits &= asked.correct == correct[i]
        if asked.difficulty is not None:
            of_problem = by_problem[row["id"]]
            easiest, hardest = asked.difficulty
            fits &= easiest <= of_problem.count(False) / len(of_problem) <= hardest
        return fits

    chosen = [traces[i] for i in range(len(traces)) if wanted(i)]
    if asked.order:
        chosen.sort(
            key=lambda row: len(row["token_ids"]) - row["prompt_length"],
            reverse=asked.order == "longest",
        )
    return chosen
