"""What a reasoning model said after it had finished thinking."""

OPEN, CLOSE = "<think>", "</think>"


def answer_part(response: str, finished: bool) -> tuple[str | None, str]:
    """The part of `response` that may hold its answer, and why there is none.

    Args:
        response: the whole response, with the `<think>` that the prompt may have opened.
        finished: the model stopped by itself, and was not cut at the token limit.

    Returns:
        What follows the last `</think>`, or the whole of a finished response without tags, with an
        empty reason. None, with "unfinished thought" (a `<think>` was never closed) or "unfinished"
        (no tags, and cut): whatever such a response says is not an answer yet.
    """
    _, closed, tail = response.rpartition(CLOSE)
    if OPEN in tail:
        return None, "unfinished thought"
    if not closed and not finished:
        return None, "unfinished"
    return tail, ""
