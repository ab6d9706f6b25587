"""The command that puts a program into namespaces of its own (bubblewrap 0.7 or newer)."""

import functools
import os
import shutil
import sys
from pathlib import Path

from rac.evaluate import seccomp

SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
NOBODY = 65534
BOX, HOME = "/box", "/home/nobody"


def command(box: str, environment: dict[str, str], report: int, filtered: int | None) -> list[str]:
    """What stands in front of a program's own command.

    Args:
        box: the folder that the program finds as BOX.
        environment: all that it finds there.
        report: the descriptor to which bubblewrap tells its child's number and how it ended.
        filtered: the descriptor of a filter of system calls.
    """
    bwrap = shutil.which("bwrap") or "bwrap"
    options = ["--unshare-all", "--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    options += ["--die-with-parent", "--as-pid-1", "--new-session", "--hostname", "sandbox"]
    options += ["--json-status-fd", str(report)]
    if filtered is not None:
        options += ["--seccomp", str(filtered)]
    root = os.geteuid() == 0
    options += _system(BOX if root else box)
    options += ["--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc", "--remount-ro", "/"]
    options += ["--chdir", HOME]
    for name, value in environment.items():
        options += ["--setenv", name, value]
    if not root:
        return [bwrap, *options]
    # The kernel does not count root's processes, whatever a user namespace calls root. So another
    # user makes the sandbox, in a view of the system where it can reach a Python of root's.
    view = [*_system(box), "--ro-bind", bwrap, "/run/bwrap"]
    view += ["--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"]
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    drop += ["--inh-caps=-all", "--bounding-set=-all"]
    return [bwrap, "--die-with-parent", *view, *drop, "/run/bwrap", *options]


def _system(box: str) -> list[str]:
    """Options that show Python, what it needs of the system, and the box; read-only."""
    shown = (*SYSTEM, *_python())
    options = []
    for folder in ("/tmp", "/run", HOME, *_parents(shown)):
        options += ["--perms", "0755", "--dir", folder]
    for path in shown:
        options += ["--ro-bind-try", path, path]
    return [*options, "--ro-bind", box, BOX]


@functools.cache
def _python() -> tuple[str, ...]:
    """The folders outside SYSTEM that this Python lies in, its virtual environment included."""
    folders = {sys.prefix, sys.base_prefix}
    executable = sys.executable
    while os.path.islink(executable):
        target = os.path.join(os.path.dirname(executable), os.readlink(executable))
        executable = os.path.normpath(target)
        folders.add(os.path.dirname(os.path.dirname(executable)))
    folders |= {os.path.realpath(folder) for folder in folders}
    outside = {f for f in folders if f != "/" and not (f + "/").startswith(("/usr/", "/bin/"))}
    return tuple(
        sorted(f for f in outside if not any(f.startswith(other + "/") for other in outside))
    )


def _parents(paths: tuple[str, ...]) -> list[str]:
    return sorted({str(parent) for path in paths for parent in Path(path).parents} - {"/"})


def system_calls() -> int | None:
    """A descriptor that bubblewrap reads the filter of system calls from."""
    code = seccomp.program()
    if code is None:
        return None
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, code)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
