import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids.shared import KCMP_FILE, KCMP_FILES, SharedIds
from core.ids.tree import KcmpTree, Order, count_from


class FakeKernel:
    """Objects are integers; references are (name, object). Counts how often it is asked."""

    def __init__(self, *, ordered: bool = True) -> None:
        self.asked = 0
        self.ordered = ordered

    def compare(self, one: tuple[str, int], other: tuple[str, int]) -> int:
        self.asked += 1
        if one[1] == other[1]:
            return Order.EQUAL
        if not self.ordered:
            return Order.UNORDERED
        return Order.LESS if one[1] < other[1] else Order.GREATER


@pytest.mark.parametrize("ordered", [True, False])
@given(objects=st.lists(st.integers(0, 20)))
def test_equal_objects_get_equal_ids_and_only_the_first_is_new(ordered: bool, objects: list[int]) -> None:
    tree = KcmpTree(FakeKernel(ordered=ordered).compare, count_from(1))
    ids: dict[int, int] = {}
    for number, kernel_object in enumerate(objects):
        id, is_new = tree.insert((f"reference {number}", kernel_object))
        assert is_new == (kernel_object not in ids)
        assert ids.setdefault(kernel_object, id) == id
    assert sorted(ids.values()) == list(range(1, len(ids) + 1))


def test_different_keys_are_never_compared() -> None:
    kernel = FakeKernel()
    tree = KcmpTree(kernel.compare, count_from(1))
    assert {tree.insert(("a", number), key=number) for number in range(50)} == {(n, True) for n in range(1, 51)}
    assert kernel.asked == 0


def test_insert_compares_logarithmically() -> None:
    kernel = FakeKernel()
    tree = KcmpTree(kernel.compare, count_from(1))
    count = 1000
    for number in range(count):
        before = kernel.asked
        tree.insert(("a", number * 7919 % count))
        assert kernel.asked - before <= math.ceil(math.log2(number + 2))


def test_files_are_compared_by_pid_and_descriptor_and_tasks_by_pid() -> None:
    calls: list[tuple[int, int, int, int, int]] = []

    def kcmp(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
        calls.append((pid1, pid2, kind, index1, index2))
        return Order.EQUAL

    ids = SharedIds(kcmp)
    assert ids.file(10, 3) == (1, True)
    assert ids.file(11, 4) == (1, False)
    assert ids.files(10) == (1, True)
    assert ids.files(11) == (1, False)
    assert calls == [(11, 10, KCMP_FILE, 4, 3), (11, 10, KCMP_FILES, 0, 0)]


def test_mapped_files_draw_from_the_numbers_of_open_ones() -> None:
    ids = SharedIds(lambda *_, **__: Order.LESS)
    assert [ids.file(1, 0)[0], ids.next_file_id(), ids.file(1, 1)[0]] == [1, 2, 3]


def test_the_kernel_tells_a_duplicate_from_a_second_open() -> None:
    first = os.open("/dev/null", os.O_RDONLY)
    second = os.open("/dev/null", os.O_RDONLY)
    duplicate = os.dup(first)
    try:
        ids = SharedIds()
        pid = os.getpid()
        a, _ = ids.file(pid, first)
        b, _ = ids.file(pid, second)
        assert a != b
        assert ids.file(pid, duplicate) == (a, False)
    finally:
        for fd in (first, second, duplicate):
            os.close(fd)
