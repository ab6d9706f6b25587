"""Progress of a long stage: a bar on a terminal, plain lines with tokens/s and time left elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between lines where no terminal shows a bar


@contextlib.contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of tokens done since its last call."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=label, unit=" tokens", unit_scale=True) as bar:
            yield lambda tokens: bar.update(tokens) and None
        return
    start = last = time.monotonic()
    done = 0

    def line(now: float) -> None:
        rate = done / max(now - start, 1e-9)
        left = max(total - done, 0) / rate if rate else 0
        print(
            f"{label}: {done:,} of at most {total:,} tokens, {rate:,.0f} tokens/s, {left:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def update(tokens: int) -> None:
        nonlocal done, last
        done += tokens
        now = time.monotonic()
        if now - last >= LINE_EVERY:
            last = now
            line(now)

    yield update
    line(time.monotonic())
