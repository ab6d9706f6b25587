"""Programs that try to harm the machine, or to outlive their end."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from rac.errors import RacError
from rac.evaluate import sandbox
from rac.evaluate.sandbox import Limits, check, run

try:
    check("bubblewrap")
    WHY = ""
except RacError as error:
    WHY = str(error)
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)

LIMITS = Limits(seconds=0.5, memory=256 * 2**20, output=2**20)
SUBREAPER = 36


@pytest.fixture(autouse=True)
def nothing_left():
    """What a sandbox leaves running becomes a child of this process, and is seen."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1)
    before = set(sandbox._children(os.getpid()))
    folders = set(Path(sandbox.tempfile.gettempdir()).glob("rac-sandbox-*"))
    yield
    assert set(sandbox._children(os.getpid())) <= before
    assert set(Path(sandbox.tempfile.gettempdir()).glob("rac-sandbox-*")) <= folders
    ctypes.CDLL(None).prctl(SUBREAPER, 0)


def execute(program: str, limits: Limits = LIMITS, level: str = "bubblewrap", stdin: bytes = b""):
    return run({"main.py": program}, "main.py", stdin, limits, level)


SYSCALL = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\ndef call(*a):\n"
SYSCALL += "    if libc.syscall(*a) < 0: raise OSError(ctypes.get_errno(), 'denied')\n"

# How each ends, and a word of what it writes to standard error.
LIMITED = {
    "fork bomb": ("import os\nwhile True: os.fork()", "exited", "BlockingIOError"),
    "patient fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "time limit",
        "",
    ),
    "thread bomb": (
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        "exited",
        "can't start new thread",
    ),
    "one large block": ("x = bytearray(2**29)", "memory limit", "MemoryError"),
    "growing list": ("x = []\nwhile True: x += [0] * 10**6", "memory limit", "MemoryError"),
    "shared mapping": ("import mmap\nmmap.mmap(-1, 2**30)", "memory limit", "allocate memory"),
    "children's memory": (
        "import os, time\nfor _ in range(9):\n    if not os.fork():\n        x = bytearray(2**27)\n"
        "        time.sleep(9)\n"
        "time.sleep(9)",
        "memory limit",
        "",
    ),
    "huge power": ("10 ** 10 ** 10", "time limit", ""),
    "endless loop": ("while True: pass", "time limit", ""),
    "endless loop that ignores signals": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        "time limit",
        "",
    ),
    "regular expression": (
        "import re\nre.match('(a+)+$', 'a' * 99 + 'b')",
        "time limit",
        "",
    ),
    "flood by print": ("while True: print('x' * 999)", "output limit", ""),
    "flood by write": ("import os\nwhile True: os.write(1, b'x' * 999)", "output limit", ""),
    "flood of errors": ("import os\nwhile True: os.write(2, b'x' * 999)", "output limit", ""),
    "file bomb": ("f = []\nwhile True: f.append(open('/dev/null'))", "exited", "Too many open"),
    "recursion": ("def f(): f()\nf()", "exited", "RecursionError"),
    "segmentation fault": ("import ctypes\nctypes.string_at(0)", "exited", ""),
    "sleeper": ("import time\ntime.sleep(99)", "time limit", ""),
}


WAITING = ("patient fork bomb", "sleeper")  # the clock alone ends these


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_ends_it(name):
    program, how, stderr = LIMITED[name]
    patience = 2 if name in WAITING else 10
    ended = execute(program, LIMITS._replace(patience=patience))
    assert ended.how == how
    assert stderr in ended.stderr.decode()
    assert how != "exited" or ended.status != 0
    assert ended.seconds < 4


DENIED = {
    "files of the system": ("open('/etc/passwd')", "FileNotFoundError"),
    "files of the project": (f"open({__file__!r})", "FileNotFoundError"),
    "files of the user": (f"import os\nos.listdir({str(Path.home() / '.ssh')!r})", "FileNotFound"),
    "devices": ("open('/dev/kmsg')", "FileNotFoundError"),
    "disks": ("import os\nos.mknod('/dev/sda', 0o60600, 2048)", "Error"),
    "kernel memory": ("open('/proc/kcore', 'rb').read(1)", "Error"),
    "kernel settings": ("open('/proc/sys/kernel/core_pattern', 'w')", "Error"),
    "system requests": ("open('/proc/sysrq-trigger', 'w')", "Error"),
    "writing to /tmp": ("open('/tmp/x', 'w')", "Read-only"),
    "writing to its home": ("open('x', 'w')", "Read-only"),
    "writing to shared memory": ("open('/dev/shm/x', 'w')", "Read-only"),
    "writing to its own program": ("open(__file__, 'w')", "Error"),
    "writing to the standard library": ("import os\nopen(os.__file__, 'w')", "Error"),
    "making /box its own": ("import os\nos.rename('/box', '/tmp/box')", "Error"),
    "a file in memory": ("import os\nos.memfd_create('x')", "PermissionError"),
    "a shared segment": (
        SYSCALL + "call(29 if os.uname().machine == 'x86_64' else 194, 0, 4096, 0o1600)",
        "OSError",
    ),
    "becoming root": ("import os\nos.setuid(0)", "OSError"),
    "raising a limit": (
        "import resource as r\nr.setrlimit(r.RLIMIT_NPROC, (999, 999))",
        "not allowed to raise",
    ),
    "ending the init of the machine": (
        "import os\nos.kill(os.getppid(), 9)\nassert os.getppid()",
        "AssertionError",
    ),
    "ending everything": ("import os\nos.kill(-1, 9)", "ProcessLookupError"),
    "new namespaces": (
        SYSCALL + "if libc.unshare(0x10000000) < 0: raise OSError(ctypes.get_errno(), 'denied')",
        "OSError",
    ),
    "another root": ("import os\nos.chroot('/tmp')", "PermissionError"),
    "mounting": (
        SYSCALL + "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) < 0: raise OSError('denied')",
        "OSError",
    ),
    "unmounting": (
        SYSCALL + "if libc.umount2(b'/proc', 2) < 0: raise OSError('denied')",
        "OSError",
    ),
    "tracing": (SYSCALL + "if libc.ptrace(0, 0, 0, 0) < 0: raise OSError('denied')", "OSError"),
    "a sandbox in the sandbox": (
        "import subprocess\n"
        "subprocess.run(['bwrap', '--unshare-user', '--bind', '/', '/', '/bin/true'], check=True)",
        "CalledProcessError",
    ),
    "names of the network": ("import socket\nsocket.getaddrinfo('pypi.org', 443)", "gaierror"),
    "the network": ("import socket\nsocket.create_connection(('1.1.1.1', 53), 5)", "unreachable"),
    "the network without answers": (
        "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))",
        "unreachable",
    ),
    "raw packets": (
        "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "PermissionError",
    ),
}


@pytest.mark.parametrize("name", DENIED)
def test_it_is_denied(name):
    program, stderr = DENIED[name]
    ended = execute(program)
    assert (ended.how, ended.status != 0) == ("exited", True)
    assert stderr in ended.stderr.decode()


LEFT_BEHIND = {
    "child": "import subprocess\nsubprocess.Popen(['/bin/sleep', '99'])",
    "session": "import subprocess\nsubprocess.Popen(['/bin/sleep', '99'], start_new_session=True)",
    "daemon": (
        "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n"
        "        for fd in range(64):\n            try: os.close(fd)\n            except OSError: pass\n"
        "        time.sleep(99)\n    os._exit(0)\nos.wait()"
    ),
    "deaf daemon": (
        "import os, signal, time\nif not os.fork():\n    for n in range(1, 65):\n"
        "        try: signal.signal(n, signal.SIG_IGN)\n        except (OSError, ValueError): pass\n"
        "    os.setsid()\n    while True: time.sleep(1)"
    ),
    "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "stopped child": "import os, signal\np = os.fork()\nif not p: signal.pause()\nos.kill(p, signal.SIGSTOP)",
    "exit handler": (
        "import atexit, os\n"
        "atexit.register(lambda: os.fork() or os.execv('/bin/sleep', ['sleep', '99']))"
    ),
}


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_it_dies_with_its_program(name):
    ended = execute(LEFT_BEHIND[name] + "\nprint('done')")
    assert (ended.how, ended.status, ended.stdout) == ("exited", 0, b"done\n")


def test_nothing_of_the_caller_is_seen(monkeypatch):
    monkeypatch.setenv("TOKEN", "opensesame")
    code = (
        "import os, pathlib\nfor path in pathlib.Path('/proc').glob('[0-9]*/[ce]*'):\n"
        "    if path.name in ('environ', 'cmdline'): print(path.read_bytes())\n"
        "print(dict(os.environ), os.listdir(), len(os.listdir('/proc/self/fd')), os.uname().nodename)"
    )
    ended = execute(code)
    seen = ended.stdout.decode().replace(sys.prefix, "")  # but for where Python's packages lie
    assert ended.how == "exited" and ended.status == 0
    assert "opensesame" not in seen and "pytest" not in seen and str(Path.cwd()) not in seen
    assert seen.splitlines()[-1].endswith("[] 4 sandbox")  # an empty home; 0 to 2 and the folder


def test_no_listener_of_the_machine_is_reached():
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        name = f"rac-test-{os.getpid()}"
        local.bind("\0" + name)
        local.listen()
        for listener in (server, local):
            listener.settimeout(0.5)

        def accept(listener):
            with contextlib.suppress(OSError):
                accepted.append(listener.accept())

        threads = [threading.Thread(target=accept, args=(one,)) for one in (server, local)]
        for thread in threads:
            thread.start()
        ended = execute(
            "import socket\n"
            f"for kind, where in ((2, ('127.0.0.1', {server.getsockname()[1]})), (1, '\\0{name}')):\n"
            "    try: socket.socket(kind).connect(where)\n"
            "    except ConnectionRefusedError: print('refused')\n"
        )
        for thread in threads:
            thread.join()
    assert ended.stdout == b"refused\nrefused\n" and not accepted


def test_it_is_nobody_with_no_rights():
    status = execute("print(open('/proc/self/status').read())").stdout.decode()
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"65534"} and fields["NoNewPrivs"] == "1"
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["Seccomp"] == "2" or os.uname().machine not in ("x86_64", "aarch64")
    namespaces = ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")
    ended = execute(f"import os\nfor n in {namespaces}: print(os.readlink('/proc/self/ns/' + n))")
    for name, link in zip(namespaces, ended.stdout.decode().split(), strict=True):
        assert link != os.readlink(f"/proc/self/ns/{name}")


def test_the_machine_gives_it_up_first():
    assert execute("print(open('/proc/self/oom_score_adj').read())").stdout.strip() == b"1000"


def test_a_program_has_python_and_its_libraries():
    code = (
        "import numpy, sys\nprint(numpy.arange(3).sum(), sys.version_info[:2] == VERSION, input())"
    )
    code = code.replace("VERSION", repr(sys.version_info[:2]))
    ended = execute(code, LIMITS._replace(seconds=20, memory=2**30), stdin="é\n".encode())
    assert (ended.how, ended.stdout.decode()) == ("exited", "3 True é\n")


def test_weaker_limits_are_still_limits():
    assert execute("print(input())", level="rlimits", stdin=b"hello").stdout == b"hello\n"
    assert execute("while True: pass", level="rlimits").how == "time limit"
    assert execute("x = bytearray(2**29)", level="rlimits").how == "memory limit"
    ended = execute("import subprocess\nsubprocess.Popen(['/bin/sleep', '99'])", level="rlimits")
    assert ended.how == "exited"
    assert os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) == -signal.SIGKILL  # what it left


def test_what_is_missing_is_said_in_one_line(monkeypatch, tmp_path):
    check.cache_clear()
    with pytest.raises(RacError, match="sandbox: 'docker' is none of bubblewrap, rlimits"):
        check("docker")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RacError, match="by choom, which is missing; .* apt-get install util-linux"):
        check("rlimits")
    for tool in sandbox.TOOLS:
        (tmp_path / tool).symlink_to("/bin/true")
    with pytest.raises(RacError, match="apt-get install bubblewrap"):
        check("bubblewrap")
    check("rlimits")
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho bwrap: no namespaces here >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(RacError, match="installed but runs no program here .*no namespaces here"):
        check("bubblewrap")
    check.cache_clear()
