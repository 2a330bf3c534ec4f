"""Programs as bytes: what the interpreter reads at an address, op by op, pointer by pointer."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.kernel.calls import SYSCALLS
from core.plan.encode import END, LOADED, MAY_FAIL, NOT_RUN, OP, WIDE, encode, encoded_size, split
from core.plan.ops import Argument, Loaded, Out, Pointers, Result, Syscall, Yield, path_argument

BASE, TID, SIGNAL = 0x10000, 812, 23


def record(content: bytes, index: int) -> tuple[int, ...]:
    return OP.unpack_from(content, index * OP.size)


def at(content: bytes, address: int, size: int) -> bytes:
    return content[address - BASE :][:size]


def test_an_op_is_number_arguments_flags_and_no_result_yet() -> None:
    content = encode([Syscall("lseek", (3, -1, 2), "x")], BASE, TID, SIGNAL).content
    assert record(content, 0) == (SYSCALLS["lseek"], 3, (1 << 64) - 1, 2, 0, 0, 0, 0, NOT_RUN)


def test_a_program_ends_with_a_yield_to_the_tracer_and_the_end() -> None:
    encoded = encode([Syscall("getpid", (), "x")], BASE, TID, SIGNAL)
    assert record(encoded.content, 1)[:3] == (SYSCALLS["tkill"], TID, SIGNAL)
    assert record(encoded.content, 2)[0] == END
    assert encoded.tail == BASE + OP.size
    assert [encoded.op_index(BASE + index * OP.size) for index in range(3)] == [0, 1, 2]


def test_a_yield_in_the_middle_is_one_too() -> None:
    content = encode([Yield("x"), Syscall("getpid", (), "x")], BASE, TID, SIGNAL).content
    assert record(content, 0) == (SYSCALLS["tkill"], TID, SIGNAL, 0, 0, 0, 0, MAY_FAIL, NOT_RUN)


def test_bytes_lie_behind_the_ops_and_are_pointed_at() -> None:
    content = encode([Syscall("chdir", (path_argument("/tmp/ä"),), "x")], BASE, TID, SIGNAL).content
    pointer = record(content, 0)[1]
    assert pointer >= BASE + 3 * OP.size and pointer % 8 == 0
    assert at(content, pointer, 8) == "/tmp/ä".encode() + b"\0"


def test_results_of_earlier_ops_are_marked_with_their_index() -> None:
    opened = Syscall("openat", (0, b"x\0", 0, 0), "x")
    content = encode([Yield("x"), opened, Syscall("close", (Result(opened),), "x")], BASE, TID, SIGNAL).content
    assert record(content, 2)[1] == 1
    assert record(content, 2)[7] == 1


def test_words_out_of_a_buffer_are_marked_with_their_address() -> None:
    pipe = Syscall("pipe2", (Out(8, fill=0xFF), 0), "x")
    content = encode([pipe, Syscall("close", (3, Loaded(pipe, 0, 4)), "x")], BASE, TID, SIGNAL).content
    place = record(content, 0)[1]
    assert at(content, place, 8) == b"\xff" * 8
    assert (record(content, 1)[2], record(content, 1)[7]) == (place + 4, LOADED << 1)


def test_wide_words_have_a_mark_of_their_own_and_are_never_parted_from_their_buffer() -> None:
    setup = Syscall("io_setup", (1, Out(8)), "x")
    between = [Syscall("getpid", (), "x") for _ in range(40)]
    program = (setup, *between, Syscall("io_destroy", (Loaded(setup, 1, wide=True),), "x"))
    content = encode(program, BASE, TID, SIGNAL).content
    assert (record(content, 41)[1], record(content, 41)[7]) == (record(content, 0)[2], WIDE)
    assert list(split(program, 5 * OP.size)) == [program]


def test_a_result_that_comes_later_or_from_elsewhere_is_refused() -> None:
    op = Syscall("getpid", (), "x")
    with pytest.raises(ValueError, match="later"):
        encode([Syscall("close", (Result(op),), "x"), op], BASE, TID, SIGNAL)
    with pytest.raises(KeyError):
        encode([Syscall("close", (Result(op),), "x")], BASE, TID, SIGNAL)


def test_out_buffers_are_told_and_empty() -> None:
    encoded = encode([Syscall("uname", (Out(390),), "x"), Syscall("pipe2", (Out(8), 0), "x")], BASE, TID, SIGNAL)
    (first, size), (second, other_size) = encoded.outs[0, 0], encoded.outs[1, 0]
    assert (size, other_size) == (390, 8)
    assert second >= first + size
    assert at(encoded.content, first, 390) == bytes(390)


def test_pointers_point_at_further_buffers() -> None:
    inner = Pointers((7, b"abc"))
    content = encode([Syscall("sendmsg", (3, Pointers((inner, 9)), 0), "x")], BASE, TID, SIGNAL).content
    outer_words = struct.unpack("<2Q", at(content, record(content, 0)[2], 16))
    inner_words = struct.unpack("<2Q", at(content, outer_words[0], 16))
    assert (outer_words[1], inner_words[0]) == (9, 7)
    assert at(content, inner_words[1], 3) == b"abc"


def test_failures_that_may_be_are_marked() -> None:
    content = encode([Syscall("getpid", (), "x", may_fail=True)], BASE, TID, SIGNAL).content
    assert record(content, 0)[7] == MAY_FAIL


ARGUMENT: st.SearchStrategy[Argument] = st.one_of(
    st.integers(-(1 << 63), (1 << 64) - 1), st.binary(max_size=50), st.builds(Out, st.integers(1, 300))
)


@given(st.lists(st.lists(ARGUMENT, max_size=6), max_size=12), st.integers(0, 1 << 40))
def test_the_size_is_the_size_and_no_two_buffers_overlap(programs: list[list[Argument]], page: int) -> None:
    program = [Syscall("getpid", tuple(arguments), "x") for arguments in programs]
    base = page * 16
    encoded = encode(program, base, TID, SIGNAL)
    assert encoded_size(program) == len(encoded.content)
    spans = sorted((address, address + size) for address, size in encoded.outs.values())
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    first, last = base + (len(program) + 2) * OP.size, base + len(encoded.content)
    assert all(first <= start and end <= last for start, end in spans)
    assert [record(encoded.content, index)[8] for index in range(len(program))] == [NOT_RUN] * len(program)
