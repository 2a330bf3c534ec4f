"""VMAs: the steps from one address space to another give exactly the other, and keep the pages of what stays."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.images.pb.memory_pb2 import VmaEntry
from core.kernel.hugetlb import MAP_HUGETLB, size_flags
from core.memory import huge
from core.memory.ranges import Ranges
from core.plan.ops import FdAllocator
from core.proc.maps import HUGE_ANONYMOUS, Vma
from core.resources import vmas
from core.resources.vmas import (
    ANON_PRIVATE,
    ANON_SHARED,
    FILE_PRIVATE,
    MAP_ANONYMOUS,
    MAP_PRIVATE,
    MEMFD,
    SYSVIPC,
    MappedVma,
    compare,
    plan_update,
)

PAGE = 0x1000
READ, READ_WRITE = 1, 3
# What a page of an address space is: (file, where in it, protection, whose pages)
Page = tuple[str, int, int, str]


def mapped(first: int, last: int, path: str = "", prot: int = READ_WRITE, pgoff: int = 0) -> MappedVma:
    """Pages first … last-1; `pgoff` in pages."""
    kind = FILE_PRIVATE if path else ANON_PRIVATE
    entry = VmaEntry(
        start=first * PAGE, end=last * PAGE, pgoff=pgoff * PAGE, shmid=1 if path else 0, prot=prot,
        flags=MAP_PRIVATE | (0 if path else MAP_ANONYMOUS), status=vmas.REGULAR | kind, fd=-1, fdflags=0,
    )  # fmt: skip
    return MappedVma(entry, path)


def pages_of(space: list[MappedVma], owner: str) -> dict[int, Page]:
    pages = {}
    for vma in space:
        for address in range(vma.start, vma.end, PAGE):
            offset = vma.entry.pgoff + address - vma.start if vma.path else 0
            assert address not in pages, "two VMAs overlap"
            pages[address] = (vma.path, offset, vma.entry.prot, owner)
    return pages


def applied(old: list[MappedVma], new: list[MappedVma]) -> dict[int, Page]:
    """What the ops of an update make of the pages of `old`; MAP_FIXED_NOREPLACE and all."""
    pages = pages_of(old, "kept")
    update = compare(old, new)
    for start, end in update.unmap:
        for address in range(start, end, PAGE):
            del pages[address]
    for start, end in update.grow:
        path, offset, prot, _ = pages[start - PAGE]
        for address in range(start, end, PAGE):
            assert address not in pages, "grown over what is there"
            offset += PAGE if path else 0
            pages[address] = (path, offset, prot, "fresh")
    for address, page in pages_of(list(update.create), "fresh").items():
        assert address not in pages, "mapped over what is there"
        pages[address] = page
    for start, end, prot in update.protect:
        for address in range(start, end, PAGE):
            path, offset, _, owner = pages[address]
            pages[address] = (path, offset, prot, owner)
    return pages


def spaces() -> st.SearchStrategy[list[MappedVma]]:
    @st.composite
    def build(draw: st.DrawFn) -> list[MappedVma]:
        space, position = [], 16
        for _ in range(draw(st.integers(0, 6))):
            start = position + draw(st.integers(0, 2))
            position = start + draw(st.integers(1, 5))
            path = draw(st.sampled_from(["", "", "/a", "/b"]))
            space.append(
                mapped(start, position, path, draw(st.sampled_from([READ, READ_WRITE])), draw(st.integers(0, 2)))
            )
        return space

    return build()


@given(spaces(), spaces())
def test_an_update_gives_the_new_address_space(old: list[MappedVma], new: list[MappedVma]) -> None:
    found = {address: page[:3] for address, page in applied(old, new).items()}
    assert found == {address: page[:3] for address, page in pages_of(new, "").items()}


@given(spaces(), spaces())
def test_pages_of_the_same_memory_are_kept_and_no_others(old: list[MappedVma], new: list[MappedVma]) -> None:
    before = pages_of(old, "")
    for address, (path, offset, _, owner) in applied(old, new).items():
        same = address in before and before[address][:2] == (path, offset)
        assert owner == ("kept" if same else "fresh")


@given(spaces())
def test_nothing_is_done_where_nothing_changed(space: list[MappedVma]) -> None:
    assert plan_update(space, space, FdAllocator()) == ()


@given(spaces(), spaces())
def test_a_plan_leaves_no_descriptor(old: list[MappedVma], new: list[MappedVma]) -> None:
    fds = FdAllocator()
    program = plan_update(old, new, fds)
    assert fds.used == set()
    names = [op.name for op in program]
    assert names.count("openat") == names.count("close")


def test_growth_of_the_heap_maps_the_new_part_alone() -> None:
    update = compare([mapped(0x10, 0x20)], [mapped(0x10, 0x30)])
    assert (update.unmap, update.create, update.protect) == ((), (), ())
    assert update.grow == ((0x20000, 0x30000),)


def test_what_grows_with_another_protection_gets_it_afterwards() -> None:
    update = compare([mapped(0x10, 0x20)], [mapped(0x10, 0x20), mapped(0x20, 0x30, prot=READ)])
    assert (update.grow, update.protect) == (((0x20000, 0x30000),), ((0x20000, 0x30000, READ),))


def test_huge_pages_do_not_grow_but_are_mapped_anew() -> None:
    def huge_vma(first: int, last: int) -> MappedVma:
        vma = mapped(first, last)
        vma.entry.flags |= MAP_HUGETLB | size_flags(2 << 20)
        return vma

    update = compare([huge_vma(0x200, 0x400)], [huge_vma(0x200, 0x800)])
    assert update.grow == () and update.stays == Ranges.of([(0x200000, 0x400000)])
    assert [(vma.start, vma.end) for vma in update.create] == [(0x400000, 0x800000)]
    (op,) = plan_update([], [huge_vma(0x200, 0x400)], FdAllocator())
    assert op.args[3] & (MAP_HUGETLB | 0x3F << 26) == MAP_HUGETLB | 21 << 26


def test_downward_growth_is_new_memory() -> None:
    update = compare([mapped(0x20, 0x30)], [mapped(0x10, 0x30)])
    assert update.grow == ()
    assert [(vma.start, vma.end) for vma in update.create] == [(0x10000, 0x20000)]
    assert update.stays == Ranges.of([(0x20000, 0x30000)])


def test_the_cut_part_of_a_file_has_its_own_offset() -> None:
    old = [mapped(0x10, 0x12, "/b"), mapped(0x14, 0x18, "/a", pgoff=9)]
    update = compare(old, [mapped(0x10, 0x18, "/a", pgoff=5)])
    assert [(vma.start, vma.end, vma.entry.pgoff) for vma in update.create] == [(0x10000, 0x14000, 5 * PAGE)]


def test_a_changed_protection_alone_keeps_the_memory() -> None:
    (op,) = plan_update([mapped(0x10, 0x20)], [mapped(0x10, 0x20, prot=READ)], FdAllocator())
    assert (op.name, op.args) == ("mprotect", (0x10000, 0x10000, READ))


def test_a_file_is_opened_once_for_its_vmas_in_a_row() -> None:
    space = [mapped(1, 2, "/a", READ), mapped(2, 3, "/a", pgoff=9), mapped(4, 5, "/b")]
    names = [op.name for op in plan_update([], space, FdAllocator())]
    assert names == ["openat", "mmap", "mmap", "close", "openat", "mmap", "close"]


def live(path: str = "", *, shared: bool = False, inode: int = 0) -> Vma:
    return Vma(0x10000, 0x20000, True, True, False, shared, 0, (0, 7), inode, path)


@pytest.fixture(autouse=True)
def _huge_pages_are_on_device_7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge, "page_size_of_device", lambda device: 2 << 20 if device == os.makedev(0, 7) else 4096)


@pytest.mark.parametrize(
    ("vma", "flags"),
    [
        (live("anon_inode:[io_uring]", shared=True), ""),
        (live(shared=True), ""),
        (live("/mnt/huge/x", inode=3), "ht"),
        (live("/memfd:x (deleted)", inode=3), "ht"),
        (live(HUGE_ANONYMOUS, inode=3)._replace(writable=False), "ht"),
        (live(HUGE_ANONYMOUS, shared=True, inode=3)._replace(device=(0, 8)), "ht"),
        (live(), "pf io"),
        (live(), "um"),
    ],
)
def test_memory_that_is_not_carried_is_refused_by_name(vma: Vma, flags: str) -> None:
    blocker = vmas.refuse(vma, frozenset(flags.split()))
    assert blocker is not None and "0x10000-0x20000" in blocker.subject


@pytest.mark.parametrize("flag", [frozenset[str](), frozenset({"ht"})])
@pytest.mark.parametrize(
    "path", ["/memfd:x (deleted)", "/dev/zero (deleted)", "/SYSV4d000000 (deleted)", HUGE_ANONYMOUS]
)
def test_shared_memory_without_a_path_is_carried(path: str, flag: frozenset[str]) -> None:
    assert vmas.refuse(live(path, shared=True, inode=3), frozenset({"rd", "wr", "sh"}) | flag) is None


def test_private_huge_pages_are_carried() -> None:
    assert vmas.refuse(live(HUGE_ANONYMOUS, inode=3), frozenset({"rd", "wr", "ht"})) is None


def segment(start: int, end: int, offset: int = 0, *, status: int = MEMFD, access: int = 2) -> MappedVma:
    entry = VmaEntry(start=start, end=end, pgoff=offset, shmid=9, prot=3, flags=1, status=status, fd=-1, fdflags=access)
    return MappedVma(entry, "memfd:x", 3 << 30, 0x5000)


def test_shared_memory_is_mapped_from_the_descriptors_that_are_handed() -> None:
    space = [segment(0x1000, 0x3000), segment(0x5000, 0x6000, 0x4000, access=0)]
    needed = vmas.descriptors_needed([], space)
    assert needed == [(3 << 30, 2), (3 << 30, 0)]
    program = plan_update([], space, FdAllocator({3, 4}), {needed[0]: 3, needed[1]: 4})
    assert [(op.name, op.args[4] if op.name == "mmap" else op.args[0]) for op in program] == [
        ("mmap", 3), ("mmap", 4), ("close", 3), ("close", 4),
    ]  # fmt: skip
    assert vmas.descriptors_needed(space, [segment(0x2000, 0x3000, 0x1000)]) == []


def test_a_system_v_segment_is_attached_whole_and_what_was_unmapped_goes_again() -> None:
    status = SYSVIPC | ANON_SHARED
    parts = [segment(0x11000, 0x12000, 0x1000, status=status), segment(0x13000, 0x14000, 0x3000, status=status)]
    assert vmas.descriptors_needed([], parts) == []
    program = plan_update([], parts, FdAllocator())
    assert [(op.name, op.args[:2]) for op in program] == [
        ("shmat", (9, 0x10000)), ("munmap", (0x10000, 0x1000)), ("munmap", (0x12000, 0x1000)),
        ("munmap", (0x14000, 0x1000)),
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["", "[heap]", "[stack]", "[vdso]", "[vvar]"])
def test_plain_memory_is_carried(path: str) -> None:
    assert vmas.refuse(live(path), frozenset({"rd", "wr"})) is None
