"""The filter of the kernel's calls: what each machine's program answers, call by call."""

import struct

import pytest

from codegemma_keras.sandbox import filters, isolation, levels

REFUSED, ALLOWED = 0x50001, 0x7FFF0000


def answer(program, machine, call, fourth=0):
    """What the kernel would do: the program's steps, executed here."""
    seen = struct.pack("<iIQ6Q", call, machine, 0, 0, 0, 0, fourth, 0, 0)
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
    name, mmap, calls = filters.NUMBERS[machine]
    assert calls.keys() == filters.NUMBERS["x86_64"][2].keys()
    for call in range(600):
        expected = REFUSED if call in calls.values() else ALLOWED
        assert answer(program, name, call) == expected
    shared, private, anonymous = 1, 2, 0x20
    assert answer(program, name, mmap, shared | anonymous) == REFUSED
    assert answer(program, name, mmap, shared | anonymous | 0x4000) == REFUSED
    for flags in (shared, private, private | anonymous, private | 0x4022):
        assert answer(program, name, mmap, flags) == ALLOWED
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
