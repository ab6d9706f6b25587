"""Progress of a long stage: a bar on a terminal, plain lines with tokens/s and time left elsewhere.

A stage that makes none any more, as when a GPU or a worker hangs, is ended: the workflow starts it again, and
it goes on after its last stored part, if it stores any.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between lines where no terminal shows a bar
PATIENCE = 900.0  # seconds without a sign of life that are always granted
TIMES = 20  # as many times the longest silence so far are granted


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "tokens") -> Iterator[Callable[[int], None]]:
    """Yield a function to call with how much was done since its last call; 0 is a sign of life.

    From its second call on, the process is ended when it is not called for 15 minutes and for twenty times as
    long as it ever was not: how long a step takes is known by then, whatever the model and the machine.

    Args:
        label: of the stage.
        total: how much is to be done, at most.
        unit: what is counted.
    """
    with _watched(label) as alive, _shown(label, total, unit) as show:

        def update(done: int) -> None:
            alive()
            show(done)

        yield update


@contextlib.contextmanager
def _watched(label: str) -> Iterator[Callable[[], None]]:
    """Yield a sign of life; end the process when it stays out."""
    over = threading.Event()
    last: float | None = None
    longest = 0.0

    def alive() -> None:
        nonlocal last, longest
        now = time.monotonic()
        longest = max(longest, now - (now if last is None else last))
        last = now

    def watch() -> None:
        while not over.wait(min(PATIENCE / 10, 10.0)):
            silence = time.monotonic() - last if last is not None and longest else 0.0
            if silence > max(PATIENCE, TIMES * longest):
                faulthandler.dump_traceback(all_threads=True)
                print(
                    f"rac: error: {label}: no progress for {silence:,.0f} s, where the longest step took "
                    f"{longest:,.0f} s: ended; called again it goes on after its last stored part, if any",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)  # the main thread does not come back to be told

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield alive
    finally:
        over.set()


@contextlib.contextmanager
def _shown(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with how much is done since its last call, which shows it."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=label, unit=f" {unit}", unit_scale=True) as bar:
            yield lambda tokens: bar.update(tokens) and None
        return
    start = last = time.monotonic()
    done = 0

    def line(now: float) -> None:
        rate = done / max(now - start, 1e-9)
        left = max(total - done, 0) / rate if rate else 0
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        print(
            f"{label}: {done:,} of at most {total:,} {unit}, {speed} {unit}/s, {left:,.0f} s left",
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
