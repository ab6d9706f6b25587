"""The log of a job: the line that says what went wrong, and a lock while the job runs.

By the lock one that runs can be told from one that was killed: the kernel drops it when the process
ends, however it ends. Imports no torch.
"""

import contextlib
import fcntl
import os
import re
import stat
import time

from rac.artifacts import LOOK

ERROR = re.compile(r"rac: error: |[\w.]*(Error|Exception|Killed)\b|slurmstepd: error")


def error_line(log: str) -> str | None:
    """The last line of a log that says what went wrong, ours or Python's; None if none does."""
    lines = [line for line in log.splitlines() if ERROR.match(line)]
    return lines[-1].removeprefix("rac: error: ") if lines else None


def hold(descriptor: int = 1) -> None:
    """Lock the file that a process writes to (standard output), until it ends; pipes and terminals have none.

    Where the file system has no locks, or an older process still writes to the same log, nothing is locked.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return
        deadline = time.monotonic() + LOOK
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # `status` looks
                if time.monotonic() > deadline:
                    return
            time.sleep(0.02)
