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

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH of each, in order
CLONE, CLONE3 = (56, 220), 435
DENIED = {  # numbers on each of MACHINES, from the kernel's unistd.h
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "chroot": (161, 51),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}


def program(machine: str | None = None) -> bytes | None:
    """The filter as an array of struct sock_filter; None on a machine whose numbers are unknown.

    Args:
        machine: as `uname -m` says; of this machine if left out.
    """
    machine = machine or platform.machine()
    if machine not in MACHINES:
        return None
    column = list(MACHINES).index(machine)
    denied = [numbers[column] for numbers in DENIED.values()]
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in [
            (LOAD, 0, 0, ARCHITECTURE),
            (EQUAL, 1, 0, MACHINES[machine]),
            (RETURN, 0, 0, KILL),
            (LOAD, 0, 0, NUMBER),
            (AT_LEAST, 0, 1, X32),
            (RETURN, 0, 0, KILL),
            # Its flags lie in memory, out of a filter's sight; without it glibc calls clone.
            (EQUAL, 0, 1, CLONE3),
            (RETURN, 0, 0, ERRNO | errno.ENOSYS),
            *((EQUAL, len(denied) - i + 2, 0, number) for i, number in enumerate(denied)),
            (EQUAL, 0, 3, CLONE[column]),
            (LOAD, 0, 0, FIRST_ARGUMENT),
            (ANY_BIT, 0, 1, NAMESPACES),
            (RETURN, 0, 0, ERRNO | errno.EPERM),
            (RETURN, 0, 0, ALLOW),
        ]
    )
