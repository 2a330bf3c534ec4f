"""Holes in an address space, and code that borrowed system calls go through."""

import os

from hypothesis import given
from hypothesis import strategies as st

from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.tracee.remote import ABOVE_STEMS, SYSCALL_RET, Gadgets, find_gadgets, find_hole, open_memory

PAGE = 0x1000
LOWEST = ABOVE_STEMS


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
