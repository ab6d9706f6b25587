import errno
import struct

import pytest

from rac.evaluate import seccomp


def decide(code: bytes, arch: int, number: int, argument: int = 0) -> int:
    """What the kernel's interpreter of classic BPF returns for a call."""
    data = struct.pack("=IIQQ", number, arch, 0, argument)
    instructions = list(struct.iter_unpack("=HBBI", code))
    at, value = 0, 0
    while True:
        operation, true, false, operand = instructions[at]
        at += 1
        match operation:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x06:
                return operand
            case 0x15:
                at += true if value == operand else false
            case 0x35:
                at += true if value >= operand else false
            case 0x45:
                at += true if value & operand else false


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_filter_denies_what_is_listed_and_nothing_else(machine):
    code, arch = seccomp.program(machine), seccomp.MACHINES[machine]
    column = list(seccomp.MACHINES).index(machine)
    denied = {numbers[column] for numbers in seccomp.DENIED.values()}
    refused, absent = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    assert len(denied) == len(seccomp.DENIED)
    for number in range(600):
        expected = refused if number in denied else absent if number == 435 else 0x7FFF0000
        assert decide(code, arch, number) == expected, number
    clone = seccomp.CLONE[column]
    assert decide(code, arch, clone, 0x3D0F00) == 0x7FFF0000  # a thread
    for bit in (17, 25, 26, 27, 28, 29, 30):  # a namespace
        assert decide(code, arch, clone, 1 << bit | 17) == refused
    assert decide(code, 0x40000003, 0) == decide(code, arch, 0x40000000) == 0x80000000


def test_a_machine_without_a_table_has_no_filter():
    assert seccomp.program("s390x") is None
