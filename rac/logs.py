"""The log of a job, locked while the job runs: one that runs can be told from one that was killed.

The kernel drops the lock when the process ends, however it ends. Imports no torch.
"""

import contextlib
import fcntl
import os
import stat
import time

from rac.artifacts import LOOK


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
