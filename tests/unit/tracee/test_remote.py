"""Holes in an address space, and code that borrowed system calls go through."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.tracee.remote import SYSCALL_RET, TASK_SIZE, Gadgets, find_gadgets, find_hole, find_quiet_hole, open_memory

PAGE = 0x1000
LOWEST = 0x200000


def vma(start: int, end: int, path: str = "", executable: bool = False) -> Vma:
    return Vma(start, end, True, not executable, executable, False, 0, (0, 0), 0, path)


def test_an_empty_address_space_begins_at_the_lowest_address() -> None:
    assert find_hole([], 4 * PAGE) == LOWEST


def test_a_hole_keeps_a_page_of_distance() -> None:
    size = 2 * PAGE
    snug = [vma(LOWEST - PAGE, LOWEST), vma(LOWEST + PAGE + size, LOWEST + 100 * PAGE)]
    assert find_hole(snug, size) == LOWEST + 101 * PAGE
    roomy = [vma(LOWEST - PAGE, LOWEST), vma(LOWEST + 2 * PAGE + size, LOWEST + 100 * PAGE)]
    assert find_hole(roomy, size) == LOWEST + PAGE


@given(
    st.lists(st.tuples(st.integers(1, 600), st.integers(1, 50)), max_size=12, unique_by=lambda span: span[0]),
    st.integers(1, 80),
)
def test_a_hole_overlaps_nothing_and_touches_nothing(spans: list[tuple[int, int]], pages: int) -> None:
    vmas = [vma(LOWEST + at * PAGE, LOWEST + (at + length) * PAGE) for at, length in spans]
    hole = find_hole(vmas, pages * PAGE)
    assert hole >= LOWEST and hole % PAGE == 0
    for one in vmas:
        assert one.end + PAGE <= hole or hole + pages * PAGE + PAGE <= one.start


@pytest.mark.parametrize("first", [0x10000, 0x200000, 0x400000, 0x555555554000])
def test_no_heap_and_no_stack_grows_into_a_quiet_hole(first: int) -> None:
    size, far = 0x300000, 1 << 40
    program, stack = vma(first, first + 100 * PAGE), vma(TASK_SIZE - 33 * PAGE, TASK_SIZE)
    hole = find_quiet_hole([stack, program, vma(1 << 46, TASK_SIZE - (1 << 30))], size)
    assert hole % PAGE == 0 and hole > 0
    assert hole + size + PAGE <= first or program.end + far <= hole <= (1 << 46) - far


def test_gadgets_are_where_they_are_said_to_be() -> None:
    with open_memory(os.getpid()) as memory:
        found = find_gadgets(memory, ProcReader().maps(os.getpid()))
        assert isinstance(found, Gadgets)
        assert memory.read(found.syscall_ret, 3) == SYSCALL_RET
        assert memory.read(found.restorer, 9)[-2:] == b"\x0f\x05"


def test_code_that_is_gone_meanwhile_or_of_no_file_is_passed_over() -> None:
    gone = vma(LOWEST, LOWEST + PAGE, "/unmapped/since", executable=True)
    anonymous = vma(LOWEST, LOWEST + PAGE, "", executable=True)
    with open_memory(os.getpid()) as memory:
        real = ProcReader().maps(os.getpid())
        assert find_gadgets(memory, [gone, anonymous, *real]) == find_gadgets(memory, real)
