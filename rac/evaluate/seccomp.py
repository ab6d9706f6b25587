"""A filter of system calls for programs that nobody has read, as bubblewrap takes it.

It denies what a program that computes never asks for: memory outside the limits (shared segments,
memfd), other processes' insides, new namespaces and mounts, keys, BPF and io_uring.
"""

import errno
import platform
import struct

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NAMESPACES = 0x7E020080  # CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of classic BPF
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets into struct seccomp_data
X32 = 0x40000000  # a second table of numbers on x86_64, which would go round this one

# machine: (AUDIT_ARCH, numbers of the calls), from the kernel's unistd.h
_NAMES = (
    "clone clone3 shmget msgget semget mq_open memfd_create memfd_secret ptrace process_vm_readv "
    "process_vm_writev pidfd_getfd kcmp add_key request_key keyctl bpf perf_event_open userfaultfd "
    "io_uring_setup mount umount2 pivot_root open_tree move_mount fsopen unshare setns "
    "open_by_handle_at chroot init_module finit_module kexec_load"
).split()
_MACHINES = {
    "x86_64": (
        0xC000003E,
        "56 435 29 68 64 240 319 447 101 310 311 438 312 248 249 250 321 298 323 425 165 166 155 428 "
        "429 430 272 308 304 161 175 313 246",
    ),
    "aarch64": (
        0xC00000B7,
        "220 435 194 186 190 180 279 447 117 270 271 438 272 217 218 219 280 241 282 425 40 39 41 428 "
        "429 430 97 268 265 51 105 273 104",
    ),
}


def program(machine: str | None = None) -> bytes | None:
    """The filter as an array of struct sock_filter; None on a machine whose numbers are unknown.

    Args:
        machine: as `uname -m` says; of this machine if left out.
    """
    architecture, numbers = _MACHINES.get(machine or platform.machine(), (0, ""))
    if not numbers:
        return None
    calls = dict(zip(_NAMES, map(int, numbers.split()), strict=True))
    clone, clone3 = calls.pop("clone"), calls.pop("clone3")
    denied = list(calls.values())
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in [
            (LOAD, 0, 0, ARCHITECTURE),
            (EQUAL, 1, 0, architecture),
            (RETURN, 0, 0, KILL),
            (LOAD, 0, 0, NUMBER),
            (AT_LEAST, 0, 1, X32),
            (RETURN, 0, 0, KILL),
            # Its flags lie in memory, out of a filter's sight; without it glibc calls clone.
            (EQUAL, 0, 1, clone3),
            (RETURN, 0, 0, ERRNO | errno.ENOSYS),
            *((EQUAL, len(denied) - i + 2, 0, number) for i, number in enumerate(denied)),
            (EQUAL, 0, 3, clone),
            (LOAD, 0, 0, FIRST_ARGUMENT),
            (ANY_BIT, 0, 1, NAMESPACES),
            (RETURN, 0, 0, ERRNO | errno.EPERM),
            (RETURN, 0, 0, ALLOW),
        ]
    )
