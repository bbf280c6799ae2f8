"""The filter of the kernel's calls: what each machine's program answers, call by call."""

import struct

import pytest

from codegemma_keras.sandbox import filters, isolation, levels

REFUSED, ALLOWED = 0x50001, 0x7FFF0000


def answer(program, machine, call, *arguments):
    """What the kernel would do: the program's steps, executed here."""
    arguments = [*arguments, *[0] * 6][:6]
    seen = struct.pack("<iIQ6Q", call, machine, 0, *arguments)
    steps = list(struct.iter_unpack("HBBI", program))
    value, place = 0, 0
    while True:
        code, holds, fails, number = steps[place]
        place += 1
        if code == filters.LOAD:
            [value] = struct.unpack_from("<I", seen, number)
        elif code == filters.AND:
            value &= number
        elif code == filters.EQUAL:
            place += holds if value == number else fails
        elif code == filters.AT_LEAST:
            place += holds if value >= number else fails
        else:
            assert code == filters.ANSWER
            return number


@pytest.mark.parametrize("machine", filters.NUMBERS)
def test_what_is_refused(machine):
    program = filters.program(machine)
    name, decided, calls = filters.NUMBERS[machine]
    assert calls.keys() == filters.NUMBERS["x86_64"][2].keys()
    for call in set(range(600)) - set(decided.values()):
        expected = REFUSED if call in calls.values() else ALLOWED
        assert answer(program, name, call) == expected

    def told(call, *arguments):
        return answer(program, name, decided[call], *arguments)

    shared, private, anonymous = 1, 2, 0x20
    for flags in (shared | anonymous, shared | anonymous | 0x4000):
        assert told("mmap", 0, 4096, 3, flags) == REFUSED
    for flags in (shared, private, private | anonymous, private | 0x4022):
        assert told("mmap", 0, 4096, 3, flags) == ALLOWED
    unix, internet, netlink, stream, datagram = 1, 2, 16, 1, 2
    for family in (unix, internet, 10, 17, 40):
        assert told("socket", family, stream) == REFUSED
    assert told("socket", netlink, datagram) == ALLOWED
    assert told("socketpair", unix, stream | 0o2004000) == ALLOWED
    assert told("socketpair", unix, 5) == ALLOWED  # packets in sequence: rustc's linker
    for kind in (datagram, 3, 4, 9):
        assert told("socketpair", unix, kind | 0o2000000) == REFUSED
    assert told("socketpair", 30, stream) == REFUSED
    for option, expected in ((7, REFUSED), (8, REFUSED), (32, REFUSED), (2, ALLOWED)):
        assert told("setsockopt", 3, 1, option) == expected
    # Programs of 32 bits, and the second set of x86_64's numbers.
    assert answer(program, 0x40000003, 1) == REFUSED
    assert answer(program, name, (1 << 30) + 1) == REFUSED


def test_another_machine_has_no_bubblewrap(monkeypatch):
    with pytest.raises(OSError, match=r"machine 'riscv64', only for x86_64, aarch64"):
        filters.program("riscv64")
    monkeypatch.setattr(filters, "NUMBERS", {})
    levels.isolation.cache_clear()
    try:
        assert isolation() in ("namespaces", "limits")
    finally:
        levels.isolation.cache_clear()
