"""Which of a machine's GPUs a job may use: slots of one job each, held by file locks.

The kernel drops a lock when its process ends, however it ends, so a killed job leaves no slot taken.
Imports no torch: a GPU must be chosen before it is.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rac.errors import RacError

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT = 1.0  # seconds from one look at the slots to the next


def take(count: int) -> None:
    """Let this process see `count` GPUs that no other job has, until it ends; wait for them if need be.

    Where there is no GPU at all, nothing is taken. A job that asks for none sees none.

    Raises:
        RacError: fewer are visible than the job asks for, or the locks cannot be written.
    """
    if not count:
        os.environ[VISIBLE] = ""
        return
    visible = devices(os.environ)
    if not visible:
        return
    if count > len(set(visible)):
        raise RacError(
            f"the job asks for {count} GPUs and {len(set(visible))} are visible: "
            f"lower the model's tensor_parallel, or see to {VISIBLE}"
        )
    chosen = hold(folder(os.environ), visible, count)
    os.environ[VISIBLE] = ",".join(chosen)
    print(f"GPU {', '.join(chosen)} of {', '.join(visible)}", file=sys.stderr)


def devices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may see, by the names that CUDA_VISIBLE_DEVICES gives them."""
    if VISIBLE in environment:
        return [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()


def folder(environment: Mapping[str, str]) -> Path:
    """Where this user's jobs on this machine lock slots.

    Each SLURM job has its own, since SLURM counts the GPUs that it gives to a job from 0.
    """
    job = environment.get("SLURM_JOB_ID", "")
    return Path(tempfile.gettempdir()) / f"rac-slots-{os.getuid()}{job and f'-{job}'}"


def hold(
    folder: Path, names: Sequence[str], count: int, wait: Callable[[float], None] = time.sleep
) -> list[str]:
    """Lock `count` of the slots `names` until this process ends: all of them at once, or none.

    Jobs look one after the other, so two that want several slots never hold a part each.

    Args:
        folder: of the lock files.
        names: of the slots.
        count: how many, at most as many as there are.
        wait: called with the seconds to wait where too few are free.

    Returns:
        The names of the slots taken, the first free ones.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            raise RacError(f"{folder} is another user's: set TMPDIR to a folder of your own")
        waited = False
        with (folder / "look").open("w") as turn:
            while True:
                fcntl.flock(turn, fcntl.LOCK_EX)
                taken = _free(folder, names, count)
                if len(taken) == count:
                    return list(taken)
                for descriptor in taken.values():
                    os.close(descriptor)
                fcntl.flock(turn, fcntl.LOCK_UN)
                if not waited:
                    print(f"waiting for {count} of GPU {', '.join(names)}", file=sys.stderr)
                waited = True
                wait(WAIT)
    except OSError as error:
        raise RacError(f"cannot lock a GPU in {folder}: {error.strerror or error}") from error


def _free(folder: Path, names: Sequence[str], count: int) -> dict[str, int]:
    """Up to `count` slots that were free, now locked, with their open files."""
    taken: dict[str, int] = {}
    for name in names:
        if len(taken) == count:
            break
        file = folder / name.replace("/", "_")
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())  # for who wants to know
        taken[name] = descriptor  # open until the process ends
    return taken
