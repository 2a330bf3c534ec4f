"""The mould: as large as the largest piece that tasks have, of the kind of memory that most of them have there."""

from core.images.pb.memory_pb2 import VmaEntry
from core.memory.ranges import Ranges
from core.mould import candidates, mould_vmas, vmas_with
from core.resources import vmas
from core.resources.vmas import MappedVma, compare

PAGE = 0x1000
ANONYMOUS = vmas.MAP_PRIVATE | vmas.MAP_ANONYMOUS


def mapped(first: int, last: int, *, flags: int = ANONYMOUS, path: str = "", prot: int = 3) -> MappedVma:
    kind = vmas.FILE_PRIVATE if path else vmas.ANON_PRIVATE if flags & vmas.MAP_PRIVATE else vmas.ANON_SHARED
    entry = VmaEntry(
        start=first * PAGE, end=last * PAGE, pgoff=first * PAGE if path else 0, shmid=0, prot=prot, flags=flags,
        status=vmas.REGULAR | kind, fd=-1,
    )  # fmt: skip
    return MappedVma(entry, path)


def spans(mould: tuple[MappedVma, ...]) -> list[tuple[int, int]]:
    return [(vma.start // PAGE, vma.end // PAGE) for vma in mould]


def test_a_vma_of_the_mould_spans_whatever_any_task_has() -> None:
    parent, child = [mapped(1, 4), mapped(4, 6, prot=1)], [mapped(2, 3), mapped(5, 9)]
    mould = mould_vmas([parent, child])
    assert spans(mould) == [(1, 9)]
    assert mould[0].entry.prot == vmas.PROT_READ | vmas.PROT_WRITE
    for task in (parent, child):
        update = compare(mould, task)
        assert (update.create, update.grow) == ((), ())


def test_what_one_task_alone_has_is_not_in_the_mould() -> None:
    assert mould_vmas([[mapped(1, 4)], [mapped(5, 9)]]) == ()


def test_the_kind_of_memory_that_most_have_wins() -> None:
    file = [mapped(1, 4, flags=vmas.MAP_PRIVATE, path="/a")]
    assert [vma.path for vma in mould_vmas([file, file, [mapped(2, 3)], [mapped(2, 3)], file])] == ["/a"]
    assert [vma.path for vma in mould_vmas([file, [mapped(1, 4)], [mapped(1, 4)]])] == [""]


def test_stacks_and_shared_memory_are_not_inherited() -> None:
    stack = [mapped(1, 4, flags=ANONYMOUS | vmas.MAP_GROWSDOWN)]
    shared = [mapped(5, 6, flags=vmas.MAP_SHARED | vmas.MAP_ANONYMOUS)]
    assert mould_vmas([stack, stack]) == mould_vmas([shared, shared]) == ()


def test_candidates_are_pages_that_two_tasks_have() -> None:
    tasks = {1: [mapped(1, 9)], 2: [mapped(1, 9)], 3: [mapped(20, 30)]}
    carried = {1: Ranges.from_pages([1, 2, 3]), 2: Ranges.from_pages([3, 4]), 3: Ranges.from_pages([20])}
    assert candidates(tasks, carried) == Ranges.from_pages([3])
    assert spans(vmas_with(tasks.values(), Ranges.from_pages([3]))) == [(1, 9)]
    assert vmas_with(tasks.values(), Ranges.from_pages([20])) == ()
