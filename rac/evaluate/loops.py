"""Whether a response ends in a loop."""

# In tokens: a run, the tail whose runs are counted, a period that is long, and the longest.
RUN, TAIL, LONG, LONGEST = 8, 192, 256, 2048


def is_looping(token_ids: list[int]) -> bool:
    """Whether a response ends in a loop.

    Either over half of its last 192 tokens' runs of eight are repeats, which allows for small changes. Or
    its end stands there three times in a row, or twice if it is long: of some period from 64 tokens, where
    the 192 no longer hold three, to 2,048.
    """
    tail = token_ids[-TAIL:]
    runs = [tuple(tail[i : i + RUN]) for i in range(len(tail) - RUN + 1)]
    if len(set(runs)) < len(runs) / 2:
        return True
    ids, last = token_ids[-2 * LONGEST :], token_ids[-RUN:]
    for period in range(TAIL // 3, len(ids) // 2 + 1):
        if ids[-period - RUN : -period] == last:  # seldom, so that the rest costs little
            whole = (2 if period >= LONG else 3) * period
            if len(ids) >= whole and ids[period - whole :] == ids[-whole:-period]:
                return True
    return False
