"""A Python program that nobody has read, run where it can harm nothing.

Level "bubblewrap": user, PID, network, IPC, UTS, cgroup and mount namespaces of its own, of the
system only what Python needs and that read-only, nothing to write to, no environment of the
caller's, no capabilities, a filter of system calls, resource limits, and a watch from outside on
time and memory. When its first process ends, the kernel ends all that it started.

Level "rlimits": the same limits and watch on a plain process: for programs that are trusted.
"""

import contextlib
import functools
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rac.errors import RacError
from rac.evaluate import bubblewrap

LEVELS = ("bubblewrap", "rlimits")
TICK = 0.05  # seconds between two looks at a program's memory and clock
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": bubblewrap.HOME,
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a verdict must not hang on the order of a set
    # The threads of numerical libraries would use up the limits on machines with many cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": ":".join({sysconfig.get_path(kind): "" for kind in ("purelib", "platlib")}),
}
TOOLS = ("choom", "prlimit", "setpriv")  # of util-linux


class Limits(NamedTuple):
    """What one program may use."""

    seconds: float = 10.0  # of processor time
    memory: int = 2 * 2**30  # bytes: address space of a process, memory of all together
    output: int = 16 * 2**20  # bytes, on each of standard output and error
    processes: int = 32  # and threads
    patience: float = 10.0  # seconds by the clock beyond 2 · seconds: a busy machine is no verdict


class Ended(NamedTuple):
    """How a program ended: "exited", or the limit ("time limit", …) that it met."""

    how: str
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float  # of processor time


@dataclass
class Running:
    """A started program; `finish` ends it."""

    process: subprocess.Popen[bytes]
    pidfd: int
    report: int | None  # where bubblewrap says how its child ended
    out: BinaryIO
    err: BinaryIO
    limits: Limits
    deadline: float
    told: bytes = b""  # what `report` said
    stopped: str = ""  # the limit that it was killed for
    ended: Ended | None = None


def run(files: dict[str, str], main: str, stdin: bytes, limits: Limits, level: str) -> Ended:
    """Run `main`, one of `files` (name: text), with `stdin`, and wait for its end.

    Raises:
        RacError: the sandbox itself failed; `check` tells before.
    """
    with tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        with start(files, main, limits, level, source) as running:
            return finish([running], running)[0]


@contextlib.contextmanager
def start(
    files: dict[str, str],
    main: str,
    limits: Limits,
    level: str,
    stdin: BinaryIO | int,
    stdout: int | None = None,
) -> Iterator[Running]:
    """Start `main`, one of `files` (name: text); it and all it started are dead after the block.

    Args:
        files: what the program finds beside itself, read-only.
        main: the name of the Python file to run.
        limits: enforced by the kernel, and by `finish`.
        level: one of LEVELS.
        stdin: a file or descriptor to read from.
        stdout: a descriptor to write to; kept for `Ended.stdout` if left out.
    """
    with (
        tempfile.TemporaryDirectory(prefix="rac-sandbox-") as folder,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        box = Path(folder) / "box"
        box.mkdir()
        for name, text in files.items():
            (box / name).write_bytes(text.encode("utf-8", "replace"))
            (box / name).chmod(0o644)
        box.chmod(0o755)
        running = _spawn(box, main, limits, level, stdin, out if stdout is None else stdout, err)
        running.out = out
        try:
            yield running
        finally:
            _end(running)


def _spawn(
    box: Path,
    main: str,
    limits: Limits,
    level: str,
    stdin: BinaryIO | int,
    stdout: BinaryIO | int,
    err: BinaryIO,
) -> Running:
    inside = box if level == "rlimits" else Path(bubblewrap.BOX)
    # Without site (-S), which reads all .pth files: most of the time that Python needs to start.
    python = [os.path.realpath(sys.executable), "-s", "-S", "-P", "-B", str(inside / main)]
    command = [*_limited(limits, level), *python]
    passed: list[int] = []
    report = None
    if level == "bubblewrap":
        report, told = os.pipe()
        os.set_blocking(report, False)
        filtered = bubblewrap.system_calls()
        passed = [told] if filtered is None else [told, filtered]
        command = [*bubblewrap.command(str(box), ENVIRONMENT, told, filtered), *command]
    try:
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=err,
            # /proc/1/environ is bubblewrap's own: what it is started with can be read inside.
            env={} if level == "bubblewrap" else ENVIRONMENT,
            cwd="/" if level == "bubblewrap" else box,
            pass_fds=passed,
            start_new_session=True,
        )
    finally:
        for descriptor in passed:
            os.close(descriptor)
    pidfd = os.pidfd_open(process.pid)
    deadline = time.monotonic() + 2 * limits.seconds + limits.patience
    return Running(process, pidfd, report, err, err, limits, deadline)


def _limited(limits: Limits, level: str) -> list[str]:
    """The command in front of a program that sets its limits, and offers it to the OOM killer."""
    seconds = max(1, -(-limits.seconds // 1))
    wanted = {
        "as": (resource.RLIMIT_AS, limits.memory),
        "cpu": (resource.RLIMIT_CPU, int(seconds)),
        "fsize": (resource.RLIMIT_FSIZE, limits.output),
        "nofile": (resource.RLIMIT_NOFILE, 64),
        "stack": (resource.RLIMIT_STACK, 64 * 2**20),
        "core": (resource.RLIMIT_CORE, 1),  # not 0, at which the kernel still calls a core handler
    }
    if level == "bubblewrap":  # elsewhere it would count the user's other processes
        wanted["nproc"] = (resource.RLIMIT_NPROC, limits.processes)
    options = []
    for name, (kind, value) in wanted.items():
        hard = resource.getrlimit(kind)[1]
        options.append(f"--{name}={value if hard == resource.RLIM_INFINITY else min(value, hard)}")
    return ["choom", "-n", "1000", "--", "prlimit", *options]


def finish(programs: list[Running], first: Running) -> list[Ended]:
    """Wait until `first` ends, hold all to their limits meanwhile, and end the others too.

    Raises:
        RacError: bubblewrap failed to make the sandbox of one.
    """
    poll = select.poll()
    for program in programs:
        poll.register(program.pidfd, select.POLLIN)
    alive = {program.pidfd: program for program in programs}
    while alive:
        for pidfd, _ in poll.poll(TICK * 1000):
            poll.unregister(pidfd)
            _reap(alive.pop(pidfd))
        now = time.monotonic()
        for program in alive.values():
            if program.stopped:
                if now > program.deadline:
                    program.process.kill()  # the sandbox too: it did not end with its program
            elif first.ended is not None:
                _stop(program, "stopped")
            elif now > program.deadline:
                _stop(program, "time limit")
            elif _memory(program.process.pid) > program.limits.memory:
                _stop(program, "memory limit")
    return [program.ended for program in programs if program.ended is not None]


def _stop(program: Running, reason: str) -> None:
    """Kill a program and all it started; it is dead when the process that we started is."""
    program.stopped = reason
    program.deadline = time.monotonic() + 2
    if program.report is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.process.pid, signal.SIGKILL)
        return
    # The first process of its PID namespace: the kernel reports its death when all others are dead.
    inside = re.search(rb'"child-pid": *(\d+)', _told(program))
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(inside[1]) if inside else program.process.pid, signal.SIGKILL)


def _told(program: Running) -> bytes:
    """All that bubblewrap has reported so far."""
    assert program.report is not None
    with contextlib.suppress(BlockingIOError):
        program.told += os.read(program.report, 65536)
    return program.told


def _end(program: Running) -> None:
    """Make sure that a program is dead and its descriptors are closed."""
    if program.ended is None:
        _stop(program, "stopped")
        if not select.select([program.pidfd], [], [], 2)[0]:
            program.process.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(program.process.pid, 0)
        program.process.returncode = -signal.SIGKILL
    elif program.report is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.process.pid, signal.SIGKILL)  # what it left in its session
    os.close(program.pidfd)
    if program.report is not None:
        os.close(program.report)


def _reap(program: Running) -> None:
    _, status, usage = os.wait4(program.process.pid, 0)
    code = program.process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    out, err = (_read(file, program.limits.output) for file in (program.out, program.err))
    untold = program.report is not None and b"exit-code" not in _told(program)
    if untold and not program.stopped:
        raise RacError(f"bubblewrap made no sandbox: {_last_line(err) or f'status {code}'}")
    how = program.stopped or "exited"
    if how in ("exited", "stopped") and seconds > program.limits.seconds:
        how = "time limit"
    elif how == "exited":
        if max(len(out), len(err)) >= program.limits.output:
            how = "output limit"
        elif code != 0 and re.search("MemoryError|Cannot allocate memory", _last_line(err)):
            how = "memory limit"
    program.ended = Ended(how, code, out, err, seconds)


def _read(file: BinaryIO, size: int) -> bytes:
    file.seek(0)
    return file.read(size)


def _last_line(text: bytes) -> str:
    lines = text[-4096:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    return found


def _memory(pid: int) -> int:
    """Bytes that a process and all below it hold in memory, without mapped files."""
    total, waiting = 0, [pid]
    while waiting:
        pid = waiting.pop()
        waiting += _children(pid)
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith(("RssAnon:", "RssShmem:")):
                    total += int(line.split()[1]) * 1024
    return total


@functools.cache
def check(level: str) -> None:
    """Refuse a level that this machine does not offer.

    Raises:
        RacError: says what to install or to allow.
    """
    if level not in LEVELS:
        raise RacError(f"sandbox: '{level}' is none of {', '.join(LEVELS)}")
    if sys.platform != "linux":
        raise RacError("programs that models write are run on Linux only")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise RacError(
            f"programs that models write are limited by {missing[0]}, which is missing; install it "
            "with: apt-get install util-linux"
        )
    if level == "rlimits":
        return
    if shutil.which("bwrap") is None:
        raise RacError(
            "programs that models write run in bubblewrap, which is missing; install it with: "
            "apt-get install bubblewrap"
        )
    try:
        ended = run({"probe.py": "print('ready')"}, "probe.py", b"", Limits(), level)
        cause = "" if ended.stdout == b"ready\n" else f"{ended.how}, {_last_line(ended.stderr)}"
    except RacError as error:
        cause = str(error)
    if cause:
        raise RacError(
            f"bubblewrap is installed but runs no program here ({cause}): it needs version 0.7 or "
            "newer, and user namespaces (in a container: --privileged)"
        )
