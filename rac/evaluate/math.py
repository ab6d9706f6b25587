"""Is the boxed answer of a response equal to the gold answer?

What text alone decides is decided here (rac.evaluate.equality). All else goes to Math-Verify in
other processes, where an expression such as 10^(10^10) costs its time limit and nothing else.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from rac.evaluate.comparer import compare
from rac.evaluate.equality import decided
from rac.evaluate.spelling import normalise
from rac.evaluate.thoughts import answer_part


class Grade(NamedTuple):
    """`correct`, and a fixed word or two that say why."""

    correct: bool
    reason: str


def grade_math(response: str, gold: str, finished: bool = True) -> Grade:
    r"""Grade a response by the last complete `\boxed{…}` after its last `</think>`.

    Args:
        response: the whole response, with the `<think>` that the prompt may have opened.
        gold: the right answer, LaTeX or plain, with or without `$…$`.
        finished: the model stopped by itself, and was not cut at the token limit.

    Returns:
        A grade whose reason is "exact" (equal strings or integers), "equal" (in value),
        "different", "no boxed answer", "unfinished thought" (a `<think>` was never closed),
        "unfinished" (cut before there was an answer), "time limit" or "crashed" (the comparison).
    """
    return grade_many([(response, gold, finished)])[0]


def grade_many(
    responses: Iterable[tuple[str, str, bool]], workers: int | None = None
) -> list[Grade]:
    """Grade many responses at once, over several processes.

    Args:
        responses: (response, gold, finished) of each, as for `grade_math`.
        workers: how many processes at most; as many as there are processors if None.

    Returns:
        What `grade_math` says of each, in their order, whatever the number of processes.
    """
    first = [_without_mathematics(*each) for each in responses]
    pairs = list(dict.fromkeys(each for each in first if not isinstance(each, Grade)))
    reasons = dict(zip(pairs, compare(pairs, workers) if pairs else (), strict=True))
    return [
        each if isinstance(each, Grade) else Grade(reasons[each] == "equal", reasons[each])
        for each in first
    ]


def _without_mathematics(response: str, gold: str, finished: bool) -> Grade | tuple[str, str]:
    """A grade, or the normalised gold and answer that are to be compared."""
    answer, reason = answer_part(response, finished)
    if answer is None:
        return Grade(False, reason)
    boxed = last_boxed(answer)
    if boxed is None:
        return Grade(False, "no boxed answer" if finished else "unfinished")
    right, mine = normalise(gold), normalise(boxed)
    if mine == right:
        return Grade(True, "exact")
    verdict = decided(right, mine)
    if verdict is None:
        return right, mine
    return Grade(verdict, "equal" if verdict else "different")


_TOKENS = re.compile(r"(?P<box>\\boxed\s*\{)|\\.|(?P<brace>[{}])", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""The inside of the last `\boxed{…}` whose brace is closed; None if there is none.

    One pass, however many braces there are. Of boxes within boxes it is the innermost.
    """
    open_braces: list[int] = []  # where the inside of a box starts; -1 for any other brace
    start = end = -1
    for token in _TOKENS.finditer(text):
        if token["box"]:
            open_braces.append(token.end())
        elif token["brace"] == "{":
            open_braces.append(-1)
        elif token["brace"] == "}" and open_braces:
            opened = open_braces.pop()
            if opened > start:
                start, end = opened, token.start()
    return None if start < 0 else text[start:end]
