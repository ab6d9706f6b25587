"""Math-Verify in processes that may die: what it is asked costs its time limit and nothing else."""

import atexit
import contextlib
import functools
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rac.artifacts import processors
from rac.errors import RacError
from rac.evaluate.equality import equal

SECONDS = 5.0  # of processor time, so that a verdict does not hang on what else the machine does
STALLED = 300.0  # by the clock: a process that only waits would never spend its processor time
READY = "ready"  # what a comparer says when its imports and limits are in place
MEMORY = 2 * 2**30  # bytes of address space
SHARE = 16  # pairs that are worth starting one more process (a second) for


def compare(pairs: Sequence[tuple[str, str]], workers: int | None = None) -> list[str]:
    """Compare pairs (gold, answer) of normalised answers in parallel processes.

    Args:
        pairs: what to compare.
        workers: how many processes at most; as many as there are processors if None.

    Returns:
        One word a pair, in their order: "equal", "different", "time limit" or "crashed".

    Raises:
        RacError: Math-Verify cannot be started.
    """
    workers = workers or processors()
    pool = _pool(os.getpid())
    with ThreadPoolExecutor(max(1, min(workers, -(-len(pairs) // SHARE)))) as threads:
        return list(threads.map(pool.compare, pairs))


class _Pool:
    """Comparers that wait for a pair; more are made when all are at work."""

    def __init__(self) -> None:
        self._idle: queue.LifoQueue[Comparer] = queue.LifoQueue()
        atexit.register(self._close)

    def compare(self, pair: tuple[str, str]) -> str:
        try:
            comparer = self._idle.get_nowait()
        except queue.Empty:
            comparer = Comparer()
        try:
            return comparer.compare(*pair)
        finally:
            self._idle.put(comparer)

    def _close(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().close()


@functools.cache
def _pool(pid: int) -> _Pool:
    """The comparers of this process: a forked child must not share its parent's pipes."""
    return _Pool()


class Comparer:
    """One process; started when first needed, and again after a death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._fresh = True

    def compare(self, gold: str, answer: str) -> str:
        """One word: "equal", "different", "time limit" or "crashed"."""
        while True:
            fresh, reply = self._ask(gold, answer)
            # Memory that earlier pairs left in caches must not decide: ask a new process.
            if fresh or reply != "crashed":
                return reply

    def _ask(self, gold: str, answer: str) -> tuple[bool, str]:
        process = self._process or self._start()
        fresh, self._fresh = self._fresh, False
        assert process.stdin and process.stdout
        stalled = threading.Event()

        def end() -> None:
            stalled.set()
            process.kill()

        watch = threading.Timer(STALLED, end)
        watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps([gold, answer]) + "\n")
                process.stdin.flush()
            if reply := process.stdout.readline():
                return fresh, reply.strip()
        except BaseException:  # interrupted: its answer must not be taken for the next one's
            process.kill()
            self.close()
            raise
        finally:
            watch.cancel()
        self.close()
        late = stalled.is_set() or process.returncode == -signal.SIGPROF
        return fresh, "time limit" if late else "crashed"

    def _start(self) -> subprocess.Popen[str]:
        self._fresh = True
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from rac.evaluate.comparer import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        assert self._process.stdout
        if self._process.stdout.readline().strip() != READY:
            self.close()
            raise RacError(
                "Math-Verify cannot be started; this says why: "
                "python -c 'from rac.evaluate.comparer import serve; serve()'"
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin and self._process.stdout
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


def serve() -> None:
    """Answer pairs (gold, answer) from standard input, a JSON list a line, one word each.

    The kernel ends the process (SIGPROF) when one pair takes longer than its time, even inside one
    multiplication of big integers, where Python's own signal handlers would wait for the end.
    """
    import logging

    from math_verify import LatexExtractionConfig, LatexNormalizationConfig, parse, verify

    # LaTeX alone: nothing of a model reaches sympy's parse_expr, which runs Python. Its units are
    # taken off only where they are marked as text: otherwise it takes the t off 5t.
    config = {
        units: [
            LatexExtractionConfig(
                normalization_config=LatexNormalizationConfig(
                    units=units, malformed_operators=True, nits=True, boxed="none"
                )
            )
        ]
        for units in (False, True)
    }

    @functools.lru_cache(maxsize=1024)  # golds come again and again, and parsing costs the most
    def read(text: str) -> list:
        units = r"\text" in text or r"\mbox" in text
        # It sees LaTeX only between dollars.
        return parse(f"${text}$", config[units], parsing_timeout=None)

    def ask(gold: str, answer: str) -> bool:
        # The order matters. All decimals are fractions by now: what differs in the 50th digit differs.
        return verify(read(gold), read(answer), numeric_precision=50, timeout_seconds=None)

    logging.disable()  # a warning that the limits below are ours, and one for each failed parse
    ask(r"\frac{1}{2}", r"\frac{2}{4}")  # builds the parser's tables
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(READY, flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            verdict = equal(gold, answer, ask)
        except MemoryError:
            os._exit(1)
        except Exception:
            verdict = False  # it cannot be read as mathematics, and is not the same text
        signal.setitimer(signal.ITIMER_PROF, 0)
        print("equal" if verdict else "different", flush=True)
