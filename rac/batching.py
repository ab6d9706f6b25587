"""Sequences that are run together, and fewer of them where a GPU's memory is short."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from rac import memory
from rac.errors import RacError, one_line

Result = TypeVar("Result")


def batches(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences to run together: of like lengths, the longest first.

    A batch has at most `batch_tokens` tokens, padding included; a longer sequence is one by itself.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def run_in_batches(
    run: Callable[[list[int]], Result], lengths: list[int], batch_tokens: int
) -> Iterator[tuple[Result, int]]:
    """Run the `batches` one after the other; halve one and go on where memory is short.

    Standard error says so: the last digits of logits hang on what shares a batch.

    Args:
        run: what runs the sequences of some indices; it leaves nothing behind when it breaks off.
        lengths, batch_tokens: as `batches`.

    Yields:
        What `run` gives, and how often the tokens of a batch were halved by then; they stay so.

    Raises:
        RacError: memory is short for a sequence by itself.
    """
    waiting, halvings = deque(batches(lengths, batch_tokens)), 0
    while waiting:
        batch = waiting[0]
        try:
            found = run(batch)
        except torch.OutOfMemoryError as error:
            line = one_line(error)
            if len(batch) == 1:
                raise RacError(
                    f"memory is short for a sequence of {lengths[batch[0]]} tokens: {line}"
                ) from None
        else:
            waiting.popleft()
            yield found, halvings
            continue
        halvings, tokens = halvings + 1, len(batch) * lengths[batch[0]] // 2
        left = [i for of_batch in waiting for i in of_batch]
        halved = batches([lengths[i] for i in left], tokens)
        waiting = deque([left[i] for i in of_batch] for of_batch in halved)
        memory.go_on(f"{tokens} tokens at once from now on", line)
